package auditlog

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
)

// entry is a line of the log. Vault writes one before it executes a request, and one before it answers.
type entry struct {
	Type     string    `json:"type"` // "request" or "response"
	Time     time.Time `json:"time"`
	Error    string    `json:"error"` // why Vault refused or failed, or ""
	Auth     auth      `json:"auth"`
	Request  request   `json:"request"`
	Response struct {
		Auth     *auth `json:"auth"` // of the token that was made
		WrapInfo struct {
			Accessor string `json:"wrapped_accessor"` // of that token, if the answer was left in Vault under another
		} `json:"wrap_info"`
	} `json:"response"`

	place place
}

// auth is a token, as the one who asks or the one that was made.
type auth struct {
	Accessor      string            `json:"accessor"`     // an HMAC
	ClientToken   string            `json:"client_token"` // an HMAC
	DisplayName   string            `json:"display_name"`
	Policies      []string          `json:"policies"`
	EntityID      string            `json:"entity_id"`
	Metadata      map[string]string `json:"metadata"`
	IssueTime     time.Time         `json:"token_issue_time"`
	TTL           int64             `json:"token_ttl"`      // in seconds
	NumUses       int64             `json:"num_uses"`       // of a token that was made
	RemainingUses *int64            `json:"remaining_uses"` // before this request; nil without a limit
}

type request struct {
	ID          string `json:"id"`
	Operation   string `json:"operation"`
	Path        string `json:"path"`
	ClientToken string `json:"client_token"` // an HMAC
	Namespace   struct {
		Path string `json:"path"`
	} `json:"namespace"`
	Data    json.RawMessage `json:"data"`
	Address string          `json:"remote_address"`
	WrapTTL json.RawMessage `json:"wrap_ttl"`
}

// place is a line of a source.
type place struct {
	source int32
	line   int32
}

const revokeAccessor = "auth/token/revoke-accessor"

var errNotEntry = errors.New("it has no time, type or request ID")

// parse reads a line. An audit device can put a prefix before each object.
func parse(line []byte) (*entry, error) {
	e := new(entry)
	if at := bytes.IndexByte(line, '{'); at > 0 {
		line = line[at:]
	}
	if err := json.Unmarshal(line, e); err != nil {
		return nil, err
	}
	if e.Time.IsZero() || e.Request.ID == "" || e.Type != "request" && e.Type != "response" {
		return nil, errNotEntry
	}
	if !e.decrypts() && e.Request.Path != revokeAccessor || e.limited() {
		e.Request.Data = nil // which is not looked at, or is HMACs, and would wait with the entry
	}
	return e, nil
}

// timeOf returns the time of an entry without decoding it, or false. No text in an entry contains this quoted name, because JSON
// escapes its quotes, and Vault writes the time near the end.
func timeOf(line []byte) (time.Time, bool) {
	const name = `"time":"`
	at := bytes.LastIndex(line, []byte(name))
	if at < 0 {
		return time.Time{}, false
	}
	text, _, _ := bytes.Cut(line[at+len(name):], []byte(`"`))
	t, err := time.Parse(time.RFC3339Nano, string(text))
	return t, err == nil
}

// compare orders entries by time, and puts copies of one entry beside each other.
func (e *entry) compare(other *entry) int {
	return cmp.Or(e.Time.Compare(other.Time), strings.Compare(e.Request.ID, other.Request.ID), strings.Compare(e.Type, other.Type))
}

// digest covers what an entry has in clear. It is equal for all copies, and what it covers of the request is in both entries of a
// request.
func (e *entry) digest(whole bool) uint64 {
	h := fnv.New64a()
	put := func(text string) { _, _ = h.Write([]byte(text + "\x00")) }
	for _, text := range []string{e.Request.Path, e.Request.Operation, e.Request.Address, e.Request.Namespace.Path, string(e.Request.WrapTTL)} {
		put(text)
	}
	putAuth := func(a *auth) {
		put(a.DisplayName + a.EntityID + strings.Join(a.Policies, ","))
		for _, name := range slices.Sorted(maps.Keys(a.Metadata)) {
			put(name + "=" + a.Metadata[name])
		}
	}
	putAuth(&e.Auth)
	if e.decrypts() {
		for _, text := range e.contexts() {
			put(text)
		}
	}
	if whole {
		put(e.Error)
		if e.Response.Auth != nil {
			putAuth(e.Response.Auth)
		}
	}
	return h.Sum64()
}

// answers reports whether both entries of a request have the same in clear. In the answer to a login, Vault names the new token as
// the one who asked.
func (e *entry) answers(asked *entry) bool {
	a, b := *asked, *e
	made := e.Response.WrapInfo.Accessor
	if e.Response.Auth != nil {
		made = e.Response.Auth.Accessor
	}
	if made != "" && made == e.Auth.Accessor && strings.HasPrefix(e.Request.Path, "auth/") && !strings.HasPrefix(e.Request.Path, "auth/token/") {
		a.Auth, b.Auth = auth{}, auth{}
	}
	return a.digest(false) == b.digest(false)
}

// limited reports whether a quota refused the request. Vault then writes this entry alone, if it is set to, with the data as HMACs and
// before it has looked at the token. With a token, it is no such entry: somebody could hide an answer that way.
func (e *entry) limited() bool {
	return e.Type == "request" && e.Auth.Accessor == "" && e.Request.ClientToken == "" && strings.HasSuffix(e.Error, "rate limit quota exceeded")
}

func (e *entry) decrypts() bool { return strings.Contains(e.Request.Path, "/decrypt/") }

// denied reports whether a policy refused the request. Vault knows that before it writes the first entry.
func (e *entry) denied() bool { return strings.Contains(e.Error, "permission denied") }

// contexts returns the contexts of a request to decrypt, one for each ciphertext. What is not base64 is returned as it is.
func (e *entry) contexts() []string {
	var data struct {
		Context any `json:"context"`
		Batch   any `json:"batch_input"`
	}
	_ = json.Unmarshal(e.Request.Data, &data) // what a client sent need not be as it should
	texts := []string{}
	add := func(value any) {
		text, _ := value.(string)
		decoded, err := base64.StdEncoding.DecodeString(text) // ignores line breaks, as Vault does
		if err == nil {
			text = string(decoded)
		}
		texts = append(texts, text)
	}
	items, _ := data.Batch.([]any)
	for _, item := range items {
		fields, _ := item.(map[string]any)
		add(fields["context"])
	}
	if len(items) == 0 {
		add(data.Context)
	}
	return texts
}

// field returns a text in the data of the request, or "".
func (e *entry) field(name string) string {
	var data map[string]any
	_ = json.Unmarshal(e.Request.Data, &data)
	text, _ := data[name].(string)
	return text
}

// wrapped reports whether the answer was left in Vault under a token of its own.
func (e *entry) wrapped() bool {
	text := string(e.Request.WrapTTL)
	return text != "" && text != "0" && text != "null"
}

// recordingOf returns the recording that a context is for, and whether it is the context of the metadata key.
func recordingOf(text string) (id keys.RecordingID, described bool) {
	rest, ours := strings.CutPrefix(text, "recvault/v1/")
	rest, described = strings.CutPrefix(rest, "metadata/")
	keyID, rec, _ := strings.Cut(rest, "/")
	id, err := keys.ParseRecordingID(keyID + "." + rec)
	if err != nil || !ours {
		return keys.RecordingID{}, described
	}
	return id, described
}

// handle is a short form of an HMAC, which stands for one token on one device. 0 stands for none.
type handle uint64

func handleOf(hmac string) handle {
	if hmac == "" {
		return 0
	}
	if digits, ok := strings.CutPrefix(hmac, "hmac-sha256:"); ok && len(digits) >= 16 {
		if n, err := strconv.ParseUint(digits[:16], 16, 64); err == nil {
			return handle(n)
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(hmac))
	return handle(h.Sum64())
}
