package keys_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func TestGrantOptionsHaveBounds(t *testing.T) {
	good := keys.GrantOptions{TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, RequestID: "case-7", MaxUses: 1}
	require.NoError(t, good.Validate())

	for name, test := range map[string]struct {
		change func(*keys.GrantOptions)
		ok     bool
	}{
		"shortest TTL":            {func(o *keys.GrantOptions) { o.TTL = keys.MinGrantTTL }, true},
		"TTL too short":           {func(o *keys.GrantOptions) { o.TTL = keys.MinGrantTTL - 1 }, false},
		"no TTL":                  {func(o *keys.GrantOptions) { o.TTL = 0 }, false},
		"negative TTL":            {func(o *keys.GrantOptions) { o.TTL = -time.Hour }, false},
		"longest TTL":             {func(o *keys.GrantOptions) { o.TTL = keys.MaxGrantTTL }, true},
		"TTL too long":            {func(o *keys.GrantOptions) { o.TTL = keys.MaxGrantTTL + 1 }, false},
		"unlimited uses":          {func(o *keys.GrantOptions) { o.MaxUses = 0 }, true},
		"negative uses":           {func(o *keys.GrantOptions) { o.MaxUses = -1 }, false},
		"most uses":               {func(o *keys.GrantOptions) { o.MaxUses = keys.MaxGrantUses }, true},
		"too many uses":           {func(o *keys.GrantOptions) { o.MaxUses = keys.MaxGrantUses + 1 }, false},
		"no subject":              {func(o *keys.GrantOptions) { o.Subject = "" }, false},
		"longest subject":         {func(o *keys.GrantOptions) { o.Subject = strings.Repeat("s", keys.MaxSubjectLen) }, true},
		"subject too long":        {func(o *keys.GrantOptions) { o.Subject = strings.Repeat("s", keys.MaxSubjectLen+1) }, false},
		"subject, bytes count":    {func(o *keys.GrantOptions) { o.Subject = strings.Repeat("é", keys.MaxSubjectLen/2+1) }, false},
		"subject beyond ASCII":    {func(o *keys.GrantOptions) { o.Subject = "Dr. Åsa 李 🩺" }, true},
		"subject not UTF-8":       {func(o *keys.GrantOptions) { o.Subject = "dr\xff" }, false},
		"subject with line break": {func(o *keys.GrantOptions) { o.Subject = "dr\nlee" }, false},
		"subject with escape":     {func(o *keys.GrantOptions) { o.Subject = "dr\x1b[31m" }, false},
		"subject right to left":   {func(o *keys.GrantOptions) { o.Subject = "dr\u202elee" }, false},
		"subject of no width":     {func(o *keys.GrantOptions) { o.Subject = "dr\u200blee" }, false},
		"no purpose":              {func(o *keys.GrantOptions) { o.Purpose = "" }, false},
		"purpose not of HL7":      {func(o *keys.GrantOptions) { o.Purpose = "TREATS" }, false},
		"purpose, the root":       {func(o *keys.GrantOptions) { o.Purpose = "PurposeOfUse" }, false},
		"purpose, two":            {func(o *keys.GrantOptions) { o.Purpose = "TREAT BTG" }, false},
		"own purpose":             {func(o *keys.GrantOptions) { o.Purpose = "X-AZ-09" }, true},
		"own purpose, longest":    {func(o *keys.GrantOptions) { o.Purpose = keys.Purpose("X-" + strings.Repeat("P", 30)) }, true},
		"own purpose too long":    {func(o *keys.GrantOptions) { o.Purpose = keys.Purpose("X-" + strings.Repeat("P", 31)) }, false},
		"own purpose, empty":      {func(o *keys.GrantOptions) { o.Purpose = "X-" }, false},
		"own purpose, lower case": {func(o *keys.GrantOptions) { o.Purpose = "X-quality" }, false},
		"own purpose, line break": {func(o *keys.GrantOptions) { o.Purpose = "X-A\n" }, false},
		"purpose in lower case":   {func(o *keys.GrantOptions) { o.Purpose = "treat" }, false},
		"purpose, bad within":     {func(o *keys.GrantOptions) { o.Purpose = "TR/EAT" }, false},
		"purpose, line break":     {func(o *keys.GrantOptions) { o.Purpose = "TREAT\n" }, false},
		"purpose beyond ASCII":    {func(o *keys.GrantOptions) { o.Purpose = "TRÉAT" }, false},
		"longest reason":          {func(o *keys.GrantOptions) { o.Reason = strings.Repeat("é", keys.MaxReasonLen/2) }, true},
		"reason too long":         {func(o *keys.GrantOptions) { o.Reason = strings.Repeat("r", keys.MaxReasonLen+1) }, false},
		"reason blank":            {func(o *keys.GrantOptions) { o.Reason = "  " }, false},
		"reason with line break":  {func(o *keys.GrantOptions) { o.Reason = "a\nb" }, false},
		"reason not UTF-8":        {func(o *keys.GrantOptions) { o.Reason = "\xff" }, false},
		"glass and a reason":      {func(o *keys.GrantOptions) { o.Purpose, o.Reason = keys.BreakTheGlass, "unconscious" }, true},
		"glass, no reason":        {func(o *keys.GrantOptions) { o.Purpose = keys.BreakTheGlass }, false},
		"no request ID":           {func(o *keys.GrantOptions) { o.RequestID = "" }, true},
		"longest request ID":      {func(o *keys.GrantOptions) { o.RequestID = strings.Repeat("r", keys.MaxRequestIDLen) }, true},
		"request ID too long":     {func(o *keys.GrantOptions) { o.RequestID = strings.Repeat("r", keys.MaxRequestIDLen+1) }, false},
		"request ID, zero byte":   {func(o *keys.GrantOptions) { o.RequestID = "a\x00" }, false},
		"request ID not UTF-8":    {func(o *keys.GrantOptions) { o.RequestID = "\xc3" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			options := good
			test.change(&options)
			err := options.Validate()
			if test.ok {
				assert.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, keys.ErrInvalidGrantOptions)
			if options.Subject != "" {
				assert.NotContains(t, err.Error(), options.Subject)
			}
		})
	}
	for _, purpose := range []keys.Purpose{
		keys.Treatment, keys.EmergencyAccess, keys.BreakTheGlass, keys.PatientRequest, keys.FamilyRequest,
		keys.CareManagement, keys.HealthOperations, keys.Legal, keys.Research,
	} {
		t.Run(string(purpose), func(t *testing.T) {
			options := good
			options.Purpose, options.Reason = purpose, "reason"
			assert.NoError(t, options.Validate())
		})
	}
}

func TestZeroGrantIsZero(t *testing.T) {
	assert.True(t, keys.Grant{}.IsZero())
	assert.Empty(t, keys.Grant{}.Token())
	assert.True(t, keys.NewGrant(keys.GrantDetails{KeyID: aliceID(t)}, "").IsZero(), "a grant without a token opens nothing")
	assert.False(t, keys.NewGrant(keys.GrantDetails{}, "t").IsZero())

	_, err := keys.ParseGrant(keys.Grant{}.Reveal())
	assert.ErrorIs(t, err, keys.ErrInvalidGrant)
}

func TestRevealedGrantIsParsed(t *testing.T) {
	for name, expires := range map[string]time.Time{
		"UTC":         time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC),
		"nanoseconds": time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC),
		"zone":        time.Date(2026, 7, 1, 12, 0, 0, 0, time.FixedZone("", -3*3600-1800)),
		"zone of UTC": time.Date(2026, 7, 1, 12, 0, 0, 0, time.FixedZone("GMT", 0)),
		"clock":       time.Now(),
		"none":        {},
	} {
		t.Run(name, func(t *testing.T) {
			details := keys.GrantDetails{
				KeyID: aliceID(t), Accessor: "a", Expires: expires,
				Subject: "Dr. <Åsa> & 李 \u2028", Purpose: keys.BreakTheGlass, Reason: "<i>\u2029", RequestID: `"q"\`, MaxUses: 3,
			}
			grant := keys.NewGrant(details, tokenCanary)
			parsed, err := keys.ParseGrant(grant.Reveal())
			require.NoError(t, err)
			assert.Equal(t, tokenCanary, parsed.Token())
			assert.True(t, expires.Equal(parsed.Expires()))
			assert.Equal(t, details.KeyID, parsed.KeyID())
			assert.Equal(t, details.Accessor, parsed.Accessor())
			assert.Equal(t, details.Subject, parsed.Details().Subject)
			assert.Equal(t, details.Purpose, parsed.Details().Purpose)
			assert.Equal(t, details.Reason, parsed.Details().Reason)
			assert.Equal(t, details.RequestID, parsed.Details().RequestID)
			assert.Equal(t, details.MaxUses, parsed.Details().MaxUses)
			assert.Equal(t, grant.Reveal(), parsed.Reveal())
		})
	}
}

// Details are written to reports and logs, so they must not contain the token.
func TestGrantDetailsHoldNoSecret(t *testing.T) {
	_, grant, _ := secrets(t)
	encoded, err := json.Marshal(grant.Details())
	require.NoError(t, err)
	assert.Contains(t, string(encoded), "dr-lee")
	assertSilent(t, string(encoded), "details")
}

const grantPrefix = "recvault-grant-1."

// malformedGrants returns texts that differ a little from one that Reveal wrote.
func malformedGrants(t testing.TB) map[string]string {
	t.Helper()
	details := keys.GrantDetails{KeyID: aliceID(t), Accessor: "a", Expires: time.Unix(1, 0).UTC(), Subject: "s", Purpose: "P"}
	text := keys.NewGrant(details, tokenCanary).Reveal()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, grantPrefix))
	require.NoError(t, err)
	object := string(raw)
	encode := func(object string) string {
		return grantPrefix + base64.RawURLEncoding.EncodeToString([]byte(object))
	}
	without := func(part string) string {
		require.Contains(t, object, part)
		return encode(strings.Replace(object, part, "", 1))
	}
	return map[string]string{
		"empty":              "",
		"prefix alone":       grantPrefix,
		"no prefix":          text[len(grantPrefix):],
		"another version":    strings.Replace(text, "-1.", "-2.", 1),
		"capitals":           strings.ToUpper(text[:8]) + text[8:],
		"space before":       " " + text,
		"line break after":   text + "\n",
		"line break within":  text[:60] + "\n" + text[60:],
		"carriage return":    text[:60] + "\r\n" + text[60:],
		"padding":            text + "=",
		"standard base64":    grantPrefix + base64.StdEncoding.EncodeToString([]byte(object+" ")),
		"cut":                text[:len(text)-1],
		"cut in half":        text[:len(text)/2],
		"a character more":   text + "A",
		"not base64":         text[:60] + "!" + text[61:],
		"not JSON":           encode("grant"),
		"null":               encode("null"),
		"array":              encode("[" + object + "]"),
		"empty object":       encode("{}"),
		"brace after":        encode(object + "}"),
		"bracket after":      encode(object + "]"),
		"object after":       encode(object + object),
		"space in JSON":      encode(" " + object),
		"space after JSON":   encode(object + "\n"),
		"unknown field":      encode(strings.Replace(object, "{", `{"role":"root",`, 1)),
		"repeated token":     encode(strings.Replace(object, "{", `{"token":"other",`, 1)),
		"token in capitals":  encode(strings.Replace(object, `"token"`, `"TOKEN"`, 1)),
		"other order":        encode(`{"token":"` + tokenCanary + `",` + strings.Replace(object[1:], `,"token":"`+tokenCanary+`"`, "", 1)),
		"needless escape":    encode(strings.Replace(object, `"s"`, `"\u0073"`, 1)),
		"no token":           without(`,"token":"` + tokenCanary + `"`),
		"empty token":        without(tokenCanary),
		"no KeyID":           without(`"key_id":"` + aliceText + `",`),
		"empty KeyID":        without(aliceText),
		"null KeyID":         encode(strings.Replace(object, `"`+aliceText+`"`, "null", 1)),
		"KeyID a wildcard":   encode(strings.Replace(object, aliceText, "*", 1)),
		"KeyID in capitals":  encode(strings.Replace(object, aliceText, strings.ToUpper(aliceText), 1)),
		"no accessor":        without(`"accessor":"a",`),
		"expiry no time":     encode(strings.Replace(object, "1970-01-01T00:00:01Z", "soon", 1)),
		"expiry, other form": encode(strings.Replace(object, "00:00:01Z", "00:00:01+00:00", 1)),
		"expiry, zeroes":     encode(strings.Replace(object, "00:00:01Z", "00:00:01.000Z", 1)),
		"empty request ID":   encode(strings.Replace(object, `,"token"`, `,"request_id":"","token"`, 1)),
		"number for token":   encode(strings.Replace(object, `"`+tokenCanary+`"`, "7", 1)),
		"not UTF-8":          encode(strings.Replace(object, `"s"`, "\"\xff\"", 1)),
		"too long":           keys.NewGrant(details, strings.Repeat("x", keys.MaxGrantLen)).Reveal(),
		"redacted":           "REDACTED",
	}
}

func TestParseGrantRejectsMalformedText(t *testing.T) {
	for name, text := range malformedGrants(t) {
		t.Run(name, func(t *testing.T) {
			grant, err := keys.ParseGrant(text)
			require.ErrorIs(t, err, keys.ErrInvalidGrant)
			assert.NotErrorIs(t, err, keys.ErrDenied, "no keyring was asked")
			assert.True(t, grant.IsZero())
			assertSilent(t, err.Error(), "error")
		})
	}
}

func FuzzParseGrant(f *testing.F) {
	details := keys.GrantDetails{KeyID: aliceID(f), Accessor: "a", Expires: time.Unix(1, 0).UTC(), Subject: "s", Purpose: "P", RequestID: "r"}
	f.Add(keys.NewGrant(details, "t").Reveal())
	for _, text := range malformedGrants(f) {
		if len(text) < 1000 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		// Mutated base64 seldom decodes, so the text is also tried as the object inside it.
		for _, text := range []string{text, grantPrefix + base64.RawURLEncoding.EncodeToString([]byte(text))} {
			grant, err := keys.ParseGrant(text)
			if err != nil {
				require.ErrorIs(t, err, keys.ErrInvalidGrant)
				continue
			}
			require.Equal(t, text, grant.Reveal())
			require.False(t, grant.IsZero())
			require.False(t, grant.KeyID().IsZero())
		}
	})
}

// FuzzReveal checks that ParseGrant returns every grant that Reveal wrote, if its strings are UTF-8.
func FuzzReveal(f *testing.F) {
	f.Add("accessor", "dr-lee", "TREAT", "case-7", "hvs.token", int64(1_800_000_000))
	f.Add("", "<&>\u2028", "", `"\`, "\x00", int64(0))
	f.Fuzz(func(t *testing.T, accessor, subject, purpose, requestID, token string, expires int64) {
		details := keys.GrantDetails{
			KeyID: aliceID(t), Accessor: accessor, Expires: time.Unix(expires%(1<<37), 0).UTC(),
			Subject: subject, Purpose: keys.Purpose(purpose), RequestID: requestID,
		}
		for _, text := range []string{accessor, subject, purpose, requestID, token} {
			if !utf8.ValidString(text) {
				t.Skip("not UTF-8, which no keyring puts into a grant")
			}
		}
		if year := details.Expires.Year(); token == "" || year < 0 || year > 9999 { // years of RFC 3339
			t.Skip("no token, or a year that JSON cannot hold")
		}
		text := keys.NewGrant(details, token).Reveal()
		grant, err := keys.ParseGrant(text)
		if len(text) > keys.MaxGrantLen {
			require.ErrorIs(t, err, keys.ErrInvalidGrant)
			return
		}
		require.NoError(t, err)
		require.Equal(t, details, grant.Details())
		require.Equal(t, token, grant.Token())
	})
}
