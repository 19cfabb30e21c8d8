package keys

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Purpose is why a recording is opened: a code of HL7's PurposeOfUse value set
// (https://terminology.hl7.org/ValueSet-v3-PurposeOfUse.html), also one that has no constant here, or a site's own code.
// A site's own code is [OwnPurpose] and 1 to 30 more characters of A-Z, 0-9 and "-", such as "X-QUALITY-CIRCLE". No code
// of HL7 starts like that.
type Purpose string

// OwnPurpose is how the code of a site's own purpose starts.
const OwnPurpose = "X-"

// The most common purposes for opening a consultation's recording.
const (
	Treatment        Purpose = "TREAT"
	EmergencyAccess  Purpose = "ETREAT"
	BreakTheGlass    Purpose = "BTG"
	PatientRequest   Purpose = "PATRQT"
	FamilyRequest    Purpose = "FAMRQT"
	CareManagement   Purpose = "CAREMGT"
	HealthOperations Purpose = "HOPERAT"
	Legal            Purpose = "HLEGAL"
	Research         Purpose = "HRESCH"
)

// hl7Purposes has the codes of HL7's PurposeOfUse value set, version 3.1.0 (HL7 Terminology 7.0.1), without the root,
// which is abstract.
var hl7Purposes = strings.Fields(`
	BIORCH BTG CAREMGT CLINTRCH CLINTRCHNPC CLINTRCHPC CLINTRL CLMATTCH COC COVAUTH COVERAGE DISASTER DONAT DSRCH
	ELIGDTRM ELIGVER ENROLLM ERTREAT ETREAT FAMRQT FRAUD GOV HACCRED HCOMPL HDECD HDIRECT HDM HLEGAL HMARKT HOPERAT
	HOUTCOMS HPAYMT HPRGRP HQUALIMP HRESCH HSYSADMIN HTEST LABELING MEMADMIN METAMGT MILCDM MILDCRG MLTRAINING
	PATADMIN PATRQT PATSFTY PERFMSR PMTDS POARCH POPHLTH PRECLINTRCH PUBHLTH PWATRNY RECORDMGT REMITADV SUPNWK SYSDEV
	THREAT TRAIN TRANSRCH TREAT TREATDS`)

// Validate returns [ErrInvalidGrantOptions] unless the purpose is one of HL7's or has the form of a site's own.
func (p Purpose) Validate() error {
	own, ok := strings.CutPrefix(string(p), OwnPurpose)
	switch {
	case p == "":
		return fmt.Errorf("%w: the purpose is missing", ErrInvalidGrantOptions)
	case ok && (own == "" || len(p) > MaxPurposeLen || strings.Trim(own, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != ""):
		return fmt.Errorf("%w: a purpose of the site's own is %s and up to %d characters of A-Z, 0-9 and \"-\"",
			ErrInvalidGrantOptions, OwnPurpose, MaxPurposeLen-len(OwnPurpose))
	case !ok && !slices.Contains(hl7Purposes, string(p)):
		return fmt.Errorf("%w: the purpose is neither a code of HL7 PurposeOfUse nor a site's own, which starts with %s",
			ErrInvalidGrantOptions, OwnPurpose)
	}
	return nil
}

// The bounds of a grant's options.
const (
	MinGrantTTL     = time.Second
	MaxGrantTTL     = 24 * time.Hour
	MaxGrantUses    = 1_000_000
	MaxSubjectLen   = 256 // bytes
	MaxPurposeLen   = 32  // bytes
	MaxReasonLen    = 512 // bytes
	MaxRequestIDLen = 128 // bytes
)

// GrantOptions state who will use a grant, why, and for how long.
type GrantOptions struct {
	// TTL is how long the grant lasts, from [MinGrantTTL] to [MaxGrantTTL]. Required.
	TTL time.Duration

	// Subject is who will use the grant, in the application's own terms: a clinician's or a
	// patient's account. It appears in clear in the audit log, so it must not be a patient
	// identifier. 1 to [MaxSubjectLen] bytes of printable UTF-8. Required.
	Subject string

	// Purpose is why the grant will be used. Required.
	Purpose Purpose

	// Reason is why in the words of the one who asks, such as for breaking the glass. It appears in clear in the audit
	// log, so it must not name the patient. At most [MaxReasonLen] bytes of printable UTF-8, not only spaces. Required
	// for [BreakTheGlass], otherwise optional.
	Reason string

	// RequestID links the grant to the application's own request or case. At most
	// [MaxRequestIDLen] bytes of printable UTF-8. Optional.
	RequestID string

	// MaxUses is how often the grant can be presented, from 0 to [MaxGrantUses]. Refused attempts
	// and a revocation by the holder count. 0 means without a limit within the TTL.
	MaxUses int

	// DescribeOnly makes a grant that unwraps metadata keys and no recording key: it can describe the patient's
	// recordings and list them with titles, and cannot open one. The keyring enforces it.
	DescribeOnly bool
}

// Validate returns [ErrInvalidGrantOptions] with the reason if an option is missing or out of bounds.
func (o GrantOptions) Validate() error {
	switch {
	case o.TTL < MinGrantTTL || o.TTL > MaxGrantTTL:
		return fmt.Errorf("%w: TTL %v is not between %v and %v", ErrInvalidGrantOptions, o.TTL, MinGrantTTL, MaxGrantTTL)
	case o.MaxUses < 0 || o.MaxUses > MaxGrantUses:
		return fmt.Errorf("%w: %d uses is not between 0 and %d", ErrInvalidGrantOptions, o.MaxUses, MaxGrantUses)
	case o.Subject == "":
		return fmt.Errorf("%w: the subject is missing", ErrInvalidGrantOptions)
	case !printable(o.Subject, MaxSubjectLen):
		return fmt.Errorf("%w: the subject is longer than %d bytes or not printable", ErrInvalidGrantOptions, MaxSubjectLen)
	case !printable(o.Reason, MaxReasonLen) || o.Reason != "" && strings.TrimSpace(o.Reason) == "":
		return fmt.Errorf("%w: the reason is longer than %d bytes, blank or not printable", ErrInvalidGrantOptions, MaxReasonLen)
	case o.Purpose == BreakTheGlass && o.Reason == "":
		return fmt.Errorf("%w: the purpose %s needs a reason", ErrInvalidGrantOptions, BreakTheGlass)
	case !printable(o.RequestID, MaxRequestIDLen):
		return fmt.Errorf("%w: the request ID is longer than %d bytes or not printable", ErrInvalidGrantOptions, MaxRequestIDLen)
	}
	return o.Purpose.Validate()
}

func printable(text string, maxLen int) bool {
	return len(text) <= maxLen && utf8.ValidString(text) &&
		!strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Grant is the right to open one patient's recordings for a short time. Anyone who has the grant has
// that right, so store it like a session secret. It prints as "REDACTED" through fmt, slog and
// encoding/json; [Grant.Reveal] returns its text.
//
// Its details (KeyID, subject, times) are for listings and reports. The keyring that issued the
// grant decides what it opens, by its token alone. The details are not authenticated, and a user who
// holds the text of a grant can change them: keep grants on the server, or in a cookie that is
// encrypted and authenticated.
//
// The zero Grant is not valid.
type Grant struct {
	details GrantDetails
	token   *string // a pointer, because fmt prints an unexported field without calling its methods
}

// GrantDetails are the parts of a grant that are not secret.
type GrantDetails struct {
	KeyID     KeyID     `json:"key_id,omitzero"`      // the patient's pseudonym
	Accessor  string    `json:"accessor"`             // the handle by which a [Revoker] ends the grant
	Expires   time.Time `json:"expires,omitzero"`     // when the grant ends by itself
	Subject   string    `json:"subject"`              // who uses the grant
	Purpose   Purpose   `json:"purpose"`              // why
	Reason    string    `json:"reason,omitempty"`     // why, in the words of the one who asked
	RequestID string    `json:"request_id,omitempty"` // the application's own reference
	MaxUses   int       `json:"max_uses,omitempty"`   // how often the grant can be presented; 0 means without a limit

	DescribeOnly bool `json:"describe_only,omitempty"` // whether the grant can describe and not open
}

// NewGrant returns a grant with these details and this secret token. Keyrings call it.
func NewGrant(details GrantDetails, token string) Grant {
	return Grant{details, &token}
}

// Details returns the parts of the grant that are not secret.
func (g Grant) Details() GrantDetails { return g.details }

// KeyID returns the pseudonym of the grant's patient.
func (g Grant) KeyID() KeyID { return g.details.KeyID }

// Accessor returns the handle by which a [Revoker] can end the grant. It opens nothing.
func (g Grant) Accessor() string { return g.details.Accessor }

// Expires returns when the grant ends by itself.
func (g Grant) Expires() time.Time { return g.details.Expires }

// IsZero reports whether the grant has no token, as the zero Grant. Such a grant opens nothing.
func (g Grant) IsZero() bool { return g.Token() == "" }

// Token returns the secret by which the keyring that issued the grant recognizes it. Keyrings call it.
func (g Grant) Token() string {
	if g.token == nil {
		return ""
	}
	return *g.token
}

// MaxGrantLen is the maximum length of a grant's text, in bytes.
const MaxGrantLen = 16384

const maxAccessorLen = 256 // bytes

const grantPrefix = "recvault-grant-1."

type grantText struct {
	GrantDetails
	Token string `json:"token"`
}

// Reveal returns the grant as text, for [ParseGrant] in another process. The text includes the secret.
func (g Grant) Reveal() string {
	raw, err := json.Marshal(grantText{g.details, g.Token()})
	if err != nil {
		panic("keys: internal error: a grant that cannot be encoded: " + err.Error())
	}
	return grantPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

// ParseGrant reads the text that [Grant.Reveal] wrote, and returns [ErrInvalidGrant] for any other.
// It does not check whether the grant is still valid; the keyring does so at each use. The details
// are not authenticated.
func ParseGrant(text string) (Grant, error) {
	encoded, ok := strings.CutPrefix(text, grantPrefix)
	if !ok || len(text) > MaxGrantLen {
		return Grant{}, fmt.Errorf("%w: it is not the text of a grant", ErrInvalidGrant)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Grant{}, fmt.Errorf("%w: it is not the text of a grant", ErrInvalidGrant)
	}
	var parsed grantText
	err = json.Unmarshal(raw, &parsed)
	grant := NewGrant(parsed.GrantDetails, parsed.Token)
	// The decoders accept line breaks, white space, and names that are unknown, repeated or in
	// capitals. Encoding the grant again detects any text that Reveal would not have written.
	d := parsed.GrantDetails
	bounded := len(d.Subject) <= MaxSubjectLen && len(d.Purpose) <= MaxPurposeLen && len(d.Reason) <= MaxReasonLen &&
		len(d.RequestID) <= MaxRequestIDLen && len(d.Accessor) <= maxAccessorLen
	if err != nil || !bounded || grant.KeyID().IsZero() || grant.IsZero() || grant.Reveal() != text {
		return Grant{}, fmt.Errorf("%w: it is damaged or incomplete", ErrInvalidGrant)
	}
	return grant, nil
}

const redacted = "REDACTED"

func writeRedacted(s fmt.State) { _, _ = s.Write([]byte(redacted)) }

// Format implements fmt.Formatter. It prints "REDACTED".
func (Grant) Format(s fmt.State, _ rune) { writeRedacted(s) }

// String returns "REDACTED".
func (Grant) String() string { return redacted }

// GoString implements fmt.GoStringer. It returns "REDACTED".
func (Grant) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler. It reveals no part of the grant.
func (Grant) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler. It returns "REDACTED".
func (Grant) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue implements slog.LogValuer. It reveals no part of the grant.
func (Grant) LogValue() slog.Value { return slog.StringValue(redacted) }
