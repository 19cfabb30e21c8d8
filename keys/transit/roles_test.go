package transit_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

// matrixRoles are the columns. "grant" is a grant for the patient that operations call "the patient".
// "root" is the control: it shows that an operation does what its name says.
var matrixRoles = []string{
	"setup", "enroller", "writer", "granter", "revoker", "grant", "describe", "rotator", "retirer", "trimmer", "eraser", "auditor", "root",
}

const (
	allowed = "**allowed**"
	denied  = "denied"
)

// operation is a row: one request, or a few, that a token may be used for.
type operation struct {
	name string
	try  func(c *cell) (outcome string, err error)
}

// TestRoleMatrix tries every operation with the token of every role on a real Vault, and compares the
// outcomes with docs/roles.md.
func TestRoleMatrix(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	f.installSetupPolicy()
	table := make(map[string]map[string]string)
	var out strings.Builder
	out.WriteString(matrixHead)
	for _, section := range matrixSections {
		fmt.Fprintf(&out, "\n## %s\n\n| Operation | %s |\n|---|%s\n", section.name,
			strings.Join(matrixRoles, " | "), strings.Repeat("---|", len(matrixRoles)))
		for _, op := range section.operations {
			require.NotContains(t, table, op.name, "two operations have one name")
			table[op.name] = make(map[string]string)
			fmt.Fprintf(&out, "| %s |", op.name)
			for _, role := range matrixRoles {
				outcome := newCell(t, f, role).outcome(op)
				table[op.name][role] = outcome
				fmt.Fprintf(&out, " %s |", outcome)
			}
			out.WriteString("\n")
		}
	}
	out.WriteString(spellingsHead)
	for _, parameter := range slices.Sorted(maps.Keys(grantParameters)) {
		fmt.Fprintf(&out, "| %s |", parameter)
		for _, spell := range spellings {
			fmt.Fprintf(&out, " %s |", newCell(t, f, "granter").outcome(issueWith(parameter, spell.of(grantParameters[parameter]))))
		}
		out.WriteString("\n")
	}

	// These facts must hold even if the golden file is rewritten.
	for name, row := range table {
		for role, outcome := range row {
			switch {
			case role == "root":
			case strings.HasPrefix(name, "decrypt"):
				assert.Equal(t, role == "grant" && name == "decrypt a recording key of the patient", outcome == allowed,
					"%s: %s: %s", role, name, outcome)
			case strings.HasPrefix(name, "open"):
				assert.Equal(t, role == "grant" && opensAsAGrant[name], outcome == allowed, "%s: %s: %s", role, name, outcome)
			case strings.HasPrefix(name, "describe"):
				assert.Equal(t, slices.Contains(describes[name], role), outcome == allowed, "%s: %s: %s", role, name, outcome)
			case strings.HasPrefix(name, "re-wrap under a "): // which the minimum for encryption excludes
				assert.NotEqual(t, allowed, outcome, "%s: %s", role, name)
			case slices.Contains(forbidden, name):
				assert.Equal(t, denied, outcome, "%s: %s", role, name)
			}
		}
		assert.NotEqual(t, denied, row["root"], "%s: root is denied", name)
	}
	for _, name := range forbidden {
		assert.Contains(t, table, name)
	}

	golden := filepath.Join("..", "..", "docs", "roles.md")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	if out.String() != string(want) {
		documented := strings.Split(string(want), "\n")
		for _, line := range strings.Split(out.String(), "\n") {
			if !slices.Contains(documented, line) {
				t.Errorf("docs/roles.md does not have this line:\n%s", line)
			}
		}
		t.Error("docs/roles.md differs from the outcomes; if the change is intended, write the file again with -update")
	}
}

const matrixHead = `# What each role may do in Vault

Each cell is the outcome of an attempt on a real Vault, with a token that has only the role's policy
(` + "`keys/transit/policies/<role>.hcl`" + `). A test makes the attempts and compares the outcomes with this file, byte
for byte. After an intended change, write the file again:

    go test ./keys/transit -run TestRoleMatrix -update

- **allowed**: Vault did it.
- denied: the token has no right to it (403).
- refused (400, 404, 405 or 500): the token has the right, but Vault does not do it for any token, or not with these
  settings. Vault refuses some requests for their form before it looks at rights.
- issued, cannot open it: a grant was issued, but Vault refused it the recording key.
- issued, ...: a grant was issued, without the extra that was asked for.

"The patient" is the one that the grant was issued for. To the other roles all patients are the same. "root" is
Vault's root token. Its column is the control: it shows that each operation works.

**Two roles on one token** may do what the one may and what the other may, and nothing else. A test tries every pair.
Vault merges the rules of a token's policies for a path, so what one role requires for a write, the other must send with
a read. Therefore envelope keys are read with type=aes256-gcm96 and derived=true, and marks of an erasure with
type=hmac. Roles on tokens of their own need not send these, except the eraser for marks.

**The setup role owns Vault.** It may write the policies that Setup writes and no others. But Vault does not look into
the text of a policy, so whoever has this role can write any right into the policy of another role, and use it with a
token of that role.

**Re-wrapping can go back.** Vault lets whoever re-wraps name an older version of the key, and no policy can look into a
batch. Whoever steals a token of the rotator, retirer, trimmer or eraser, and has read envelopes, can wrap their keys
again under any version that is not retired. They stay bound to the same patient and recording, and the thief sees no
key. With access to the bucket too, the thief delays retirement: ` + "`" + `retire` + "`" + ` and ` + "`" + `trim` + "`" + ` see the older version, and refuse
until ` + "`" + `rewrap` + "`" + ` has moved it. If a version itself has leaked (Vault's storage and seal), whoever has it opens what was
wrapped under a newer one. ` + "`" + `retire` + "`" + ` ends this: it also makes the newest version the minimum for encryption, below which
Vault re-wraps nothing. That never stops a wrap. The retirer's role may set it at once after a rotation, and no other
role can lower it:

    vault write <mount>/keys/<KeyID>-kek/config min_encryption_version=<newest>

**A stolen granter's token** can issue a grant for any patient, and a token for any other alias that ends in -kek. Such a
token opens nothing. It has the rights of its entity, so no entity of the token mount with such an alias may have any:
Setup reports them. Each alias also leaves an entity, of whatever length Vault takes, until the clean-up in
operations.md. Vault keeps entities in its memory, and can refuse grants when there are too many.

**Metadata proves nothing.** A grant's metadata is what its issuer wrote, ` + "`" + `meta.key_id` + "`" + ` included, and may be empty. The
path of a request and its context say whose recording it was. A grant without an alias can end itself and do nothing
else.

No role has Vault's "default" policy, which lets a token look itself up and renew itself. A service that renews its
token needs that policy, or one like it, in addition to its role's. Grants must not have it.
`

// forbidden are the operations that no role may do. They would export keys from Vault, import known
// ones, or widen a token's rights.
var forbidden = []string{
	"enrol with an exportable key",
	"enrol with a key that can be backed up in clear",
	"enrol with a key that ignores the binding",
	"enrol with derived as an empty text",
	"enrol with the type as an empty text",
	"make an HMAC key under the name of an envelope key",
	"make an envelope key under the name of a mark",
	"make a mark of no type",
	"allow the deletion of a mark",
	"delete a mark",
	"re-wrap under an older version",
	"switch disable_upsert off with an empty text",
	"wrap for a patient who is not enrolled",
	"wrap for a patient who is not enrolled, with disable_upsert off",
	"make an envelope key exportable",
	"let an envelope key be backed up in clear",
	"have an envelope key rotate by itself",
	"change the versions of the pseudonym key",
	"allow the deletion of the pseudonym key",
	"rotate the pseudonym key",
	"delete the pseudonym key",
	"trim the pseudonym key",
	"retire, and make an envelope key exportable",
	"retire, and let an envelope key be backed up in clear",
	"retire, and have an envelope key rotate by itself",
	"retire, and allow the deletion of an envelope key",
	"export an envelope key",
	"export the HMAC part of an envelope key",
	"back up an envelope key",
	"restore an envelope key",
	"get a data key in clear",
	"get a wrapped data key",
	"read the wrapping key for imports",
	"import a key",
	"export an envelope key under another key (BYOK)",
	"compute an HMAC with an envelope key",
	"sign",
	"switch disable_upsert off",
	"issue a grant with more policies",
	"issue a grant with the root policy",
	"issue a periodic grant",
	"issue a renewable grant",
	"issue a batch token as a grant",
	"issue a grant with a token of its own choice",
	"issue a grant without an entity alias",
	"issue a grant without metadata",
	"create a child token",
	"create an orphan token",
	"make another token role",
	"look up a grant by its accessor",
	"list all accessors",
	"renew itself",
	"write the policy of setup",
	"write a new policy",
	"delete a policy",
	"unmount the engine",
	"move the engine",
	"enable an auth method",
	"enable an audit device",
	"disable an audit device",
	"list audit devices",
	"seal Vault",
	"rotate Vault's own key",
	"read Vault's raw storage",
	"make an identity entity",
	"give a wildcard as an entity alias",
	"give a policy to the patient's entity",
	"make an identity group",
	"revoke all grants by prefix",
}

// cell is the attempt of one role at one operation. It has its own token, patients and recordings.
type cell struct {
	*fixture
	ctx     context.Context
	keyring *transit.Keyring // root's
	role    string
	client  *api.Client // the role's

	subject  keys.Patient
	firstRec recording // of patient
	otherRec recording // of other
	metadata map[keys.Binding]recording
}

func newCell(t *testing.T, f *fixture, role string) *cell {
	t.Helper()
	c := &cell{fixture: f, ctx: t.Context(), keyring: f.keyringOf(f.admin), role: role, subject: newPatient()}
	var token string
	switch role {
	case "root":
		token = f.server.RootToken()
	case "grant":
		token = f.grant(c.keyring, c.subject).Token()
	case "describe":
		options := grantOptions()
		options.DescribeOnly = true
		grant, err := c.keyring.Issue(c.ctx, c.subject, options)
		require.NoError(t, err)
		token = grant.Token()
	default:
		token = f.token(role)
	}
	c.use(token)
	return c
}

// use makes the cell send its requests with this token.
func (c *cell) use(token string) {
	c.client = c.server.Client(token)
	c.client.SetMaxRetries(0)
}

// outcome tries the operation and returns the text of the cell.
func (c *cell) outcome(op operation) string {
	c.t.Helper()
	outcome, err := op.try(c)
	if err == nil {
		return outcome
	}
	var response *api.ResponseError
	require.ErrorAs(c.t, err, &response, "%s: %s", c.role, op.name)
	switch response.StatusCode {
	case http.StatusForbidden:
		require.NotContains(c.t, response.Error(), "invalid token", "%s: %s", c.role, op.name)
		return denied
	case http.StatusInternalServerError: // some requests of another form
		require.Regexp(c.t, "duplicate key|failed to parse batch input", response.Error(), "%s: %s", c.role, op.name)
		fallthrough
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Sprintf("refused (%d)", response.StatusCode)
	}
	require.NoError(c.t, err, "%s: %s", c.role, op.name)
	return ""
}

// patient returns a recording of the patient. The first call enrols the patient.
func (c *cell) patient() recording {
	if c.firstRec.key == nil {
		c.firstRec = c.recordingOf(c.subject)
	}
	return c.firstRec
}

// other returns a recording of another patient.
func (c *cell) other() recording {
	if c.otherRec.key == nil {
		c.otherRec = c.recordingOf(newPatient())
	}
	return c.otherRec
}

func (c *cell) recordingOf(patient keys.Patient) recording {
	c.t.Helper()
	id, err := c.keyring.Enrol(c.ctx, patient)
	require.NoError(c.t, err)
	return c.record(c.keyring, id)
}

// The operations' paths start with these.
func (c *cell) mount() string      { return c.options.Mount }
func (c *cell) tokenRole() string  { return "auth/token/roles/" + c.options.Prefix + "-grant" }
func (c *cell) issuePath() string  { return "auth/token/create/" + c.options.Prefix + "-grant" }
func (c *cell) policyPath() string { return "sys/policies/acl/" + c.options.Prefix }

func kek(rec recording) string { return rec.binding.KeyID().String() + "-kek" }

type data = map[string]any

// write, read, readKey, list and remove use the role's token.
func (c *cell) write(path string, d data) (string, error) {
	_, err := c.client.Logical().WriteWithContext(c.ctx, path, d)
	return allowed, err
}

func (c *cell) read(path string) (string, error) {
	response, err := c.client.Logical().ReadRawWithContext(c.ctx, path)
	if response != nil {
		response.Body.Close()
	}
	return allowed, err
}

// readKey reads a key with the parameters that the enroller's and the eraser's policies require.
func (c *cell) readKey(path string) (string, error) {
	parameters := url.Values{"type": {"aes256-gcm96"}, "derived": {"true"}}
	if strings.Contains(path, "/erased-") || strings.HasSuffix(path, "/pseudonym") {
		parameters = url.Values{"type": {"hmac"}}
	}
	response, err := c.client.Logical().ReadRawWithDataWithContext(c.ctx, path, parameters)
	if response != nil {
		response.Body.Close()
	}
	return allowed, err
}

func (c *cell) list(path string) (string, error) {
	secret, err := c.client.Logical().ListWithContext(c.ctx, path)
	if err == nil && secret == nil {
		return "nothing to list", nil
	}
	return allowed, err
}

func (c *cell) remove(path string) (string, error) {
	_, err := c.client.Logical().DeleteWithContext(c.ctx, path)
	return allowed, err
}

// prepare writes with the root token, before or after the role's attempt.
func (c *cell) prepare(path string, d data) *api.Secret {
	c.t.Helper()
	secret, err := c.admin.Logical().WriteWithContext(c.ctx, path, d)
	require.NoError(c.t, err)
	return secret
}

// newKey makes a key of any kind under the name of a patient's envelope key, and returns the name.
func (c *cell) newKey(d data) string {
	c.t.Helper()
	id, err := c.keyring.KeyID(c.ctx, newPatient())
	require.NoError(c.t, err)
	c.prepare(c.mount()+"/keys/"+id.String()+"-kek", d)
	return id.String() + "-kek"
}

// newName returns a KeyID without an envelope key.
func (c *cell) newName() string {
	c.t.Helper()
	id, err := c.keyring.KeyID(c.ctx, newPatient())
	require.NoError(c.t, err)
	return id.String()
}

func vaultContext(rec recording) string {
	return base64.StdEncoding.EncodeToString(rec.binding.Bytes())
}

func plaintext() string {
	return base64.StdEncoding.EncodeToString(make([]byte, keys.KeySize))
}

// decrypt tries to decrypt a recording key, and fails if Vault returns another one.
func (c *cell) decrypt(client *api.Client, rec recording, d data) (string, error) {
	secret, err := client.Logical().WriteWithContext(c.ctx, c.mount()+"/decrypt/"+kek(rec), d)
	if err != nil {
		return "", err
	}
	want := base64.StdEncoding.EncodeToString(rec.key.Bytes())
	if batch, ok := secret.Data["batch_results"].([]any); ok {
		assert.Equal(c.t, want, batch[0].(data)["plaintext"])
	} else {
		assert.Equal(c.t, want, secret.Data["plaintext"])
	}
	return allowed, nil
}

func wrappedData(rec recording) data {
	return data{"ciphertext": string(rec.wrapped), "context": vaultContext(rec)}
}

// describing is how the contexts of metadata keys start, in base64.
var describing = base64.StdEncoding.EncodeToString([]byte("recvault/v1/metadata/"))

// metadataOf returns a metadata key of the same recording.
func (c *cell) metadataOf(rec recording) recording {
	if c.metadata == nil {
		c.metadata = map[keys.Binding]recording{}
	}
	binding := rec.binding.RecordingID().MetadataBinding()
	if _, made := c.metadata[binding]; !made {
		made := recording{binding: binding, key: keys.NewKey()}
		var err error
		made.wrapped, err = c.keyring.Wrap(c.ctx, binding, made.key)
		require.NoError(c.t, err)
		c.metadata[binding] = made
	}
	return c.metadata[binding]
}

// describes are the ways to describe, and the roles that can.
var describes = map[string][]string{
	"describe the patient's recording (decrypt its metadata key)":       {"grant", "describe"},
	"describe the patient's recording with a line break in the context": {"grant"},
}

// opensAsAGrant are the spellings of a context with which a grant that may open can open.
var opensAsAGrant = map[string]bool{
	"open the patient's recording with its context in a form":          true,
	"open the patient's recording with a line break in the context":    true,
	"open the patient's recording with line breaks before the context": true,
}

// openWith tries to open the patient's recording with its context in another spelling. A grant that can only describe
// must not get through.
func openWith(name string, spell func(context string) any) operation {
	return operation{"open the patient's recording with " + name, func(c *cell) (string, error) {
		rec := c.patient()
		return c.decrypt(c.client, rec, data{"ciphertext": string(rec.wrapped), "context": spell(vaultContext(rec))})
	}}
}

// sendRaw tries to open the patient's recording with a query and a body that are sent as they are. compose gets the
// recording's key and its metadata key.
func sendRaw(name, contentType string, compose func(own, meta recording) (query url.Values, body string)) operation {
	return operation{name, func(c *cell) (string, error) {
		rec := c.patient()
		query, body := compose(rec, c.metadataOf(rec))
		request, err := http.NewRequestWithContext(c.ctx, http.MethodPost,
			c.client.Address()+"/v1/"+c.mount()+"/decrypt/"+kek(rec)+"?"+query.Encode(), strings.NewReader(body))
		require.NoError(c.t, err)
		request.Header.Set("Content-Type", contentType)
		request.Header.Set("X-Vault-Token", c.client.Token())
		response, err := c.client.CloneConfig().HttpClient.Do(request)
		require.NoError(c.t, err)
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			text, err := io.ReadAll(response.Body)
			require.NoError(c.t, err)
			return "", &api.ResponseError{StatusCode: response.StatusCode, Errors: []string{string(text)}}
		}
		secret, err := api.ParseSecret(response.Body)
		require.NoError(c.t, err)
		assert.Equal(c.t, base64.StdEncoding.EncodeToString(rec.key.Bytes()), secret.Data["plaintext"])
		return allowed, nil
	}}
}

// issue asks for a grant with some parameters changed, and returns the outcome of judge for it.
func (c *cell) issue(change data, judge func(*api.Secret) string) (string, error) {
	request := data{
		"entity_alias":      kek(c.patient()),
		"meta":              map[string]string{"subject": "dr-lee", "purpose": "TREAT"},
		"ttl":               "60s",
		"renewable":         false,
		"no_default_policy": true,
	}
	for key, value := range change {
		request[key] = value
		if value == nil {
			delete(request, key)
		}
	}
	secret, err := c.client.Logical().WriteWithContext(c.ctx, c.issuePath(), request)
	if err != nil {
		return "", err
	}
	assert.Equal(c.t, []string{c.options.Prefix + "-grant"}, secret.Auth.Policies)
	assert.True(c.t, secret.Auth.Orphan)
	return judge(secret), nil
}

// opens returns a judge that reports whether a grant opens a recording.
func (c *cell) opens(rec recording) func(*api.Secret) string {
	return func(secret *api.Secret) string {
		client := c.server.Client(secret.Auth.ClientToken)
		client.SetMaxRetries(0)
		if _, err := c.decrypt(client, rec, wrappedData(rec)); err != nil {
			var response *api.ResponseError
			require.True(c.t, errors.As(err, &response))
			return "issued, cannot open it"
		}
		return allowed
	}
}

// wildcard asks for a grant with an alias that the grant policy could treat as a wildcard.
func wildcard(name string, alias func(keys.KeyID) string) operation {
	return operation{"issue a grant for the alias " + name + " and open a recording", func(c *cell) (string, error) {
		return c.issue(data{"entity_alias": alias(c.patient().binding.KeyID())}, c.opens(c.patient()))
	}}
}

// null is JSON's null. A nil in the data of issue means that the parameter is missing.
var null = json.RawMessage("null")

// enrolWith tries to enrol a patient with one of the parameters in another spelling.
func enrolWith(name string, change data) operation {
	return operation{"enrol with " + name, func(c *cell) (string, error) {
		d := data{"type": "aes256-gcm96", "derived": true}
		maps.Copy(d, change)
		return c.write(c.mount()+"/keys/"+c.newName()+"-kek", d)
	}}
}

// mark makes the mark that a patient was erased, and returns its path.
func (c *cell) mark() string {
	path := c.mount() + "/keys/erased-" + c.newName() + "-kek"
	c.prepare(path, data{"type": "hmac", "key_size": 32})
	return path
}

// rewrapUnder tries to re-wrap a recording key of the patient under the first of two versions, after a preparation.
func rewrapUnder(name string, batch bool, prepare func(c *cell)) operation {
	return operation{"re-wrap under " + name, func(c *cell) (string, error) {
		c.prepare(c.mount()+"/keys/"+kek(c.patient())+"/rotate", nil)
		item := data{"ciphertext": c.rewrapped(c.patient()), "context": vaultContext(c.patient()), "key_version": 1}
		if prepare != nil {
			prepare(c)
		}
		d := item
		if batch {
			d = data{"batch_input": []data{item}}
		}
		secret, err := c.client.Logical().WriteWithContext(c.ctx, c.mount()+"/rewrap/"+kek(c.patient()), d)
		if err != nil {
			return "", err
		}
		answer := secret.Data
		if batch {
			answer = answer["batch_results"].([]any)[0].(data)
		}
		if text, _ := answer["error"].(string); text != "" {
			return "refused (in the answer)", nil
		}
		assert.Contains(c.t, answer["ciphertext"], "vault:v1:")
		return allowed, nil
	}}
}

// configure returns a preparation that changes the settings of the patient's envelope key.
func configure(d data) func(c *cell) {
	return func(c *cell) { c.prepare(c.mount()+"/keys/"+kek(c.patient())+"/config", d) }
}

// rewrapped returns the wrapped key under the newest version.
func (c *cell) rewrapped(rec recording) any {
	return c.prepare(c.mount()+"/rewrap/"+kek(rec), wrappedData(rec)).Data["ciphertext"]
}

// grantParameters are the parameters of Vault for a new token, each with a value that it takes. Some of them would make
// a token that is more than a grant.
var grantParameters = map[string]any{
	"display_name":      "x",
	"entity_alias":      "", // that of the patient
	"explicit_max_ttl":  "1000h",
	"id":                "mine",
	"meta":              "subject=dr-lee",
	"no_default_policy": true,
	"no_parent":         true,
	"num_uses":          3,
	"period":            "1h",
	"policies":          "root",
	"renewable":         false,
	"ttl":               "60s",
	"type":              "service",
}

// spellings are what a request may have in the place of a value.
var spellings = []struct {
	name string
	of   func(value any) any
}{
	{"missing", func(any) any { return nil }},
	{`""`, func(any) any { return "" }},
	{"null", func(any) any { return null }},
	{"false", func(any) any { return false }},
	{"7", func(any) any { return 7 }},
	{"{}", func(any) any { return data{} }},
	{"an object", func(value any) any { return data{"a": value} }},
	{"a nested object", func(value any) any { return data{"a": data{"b": value}} }},
	{"[]", func(any) any { return []any{} }},
	{"a list", func(value any) any { return []any{value} }},
	{"a list of lists", func(value any) any { return []any{[]any{value}} }},
}

var spellingsHead = `
## Spellings of the parameters of a grant

What the granter's token gets for a request in which one parameter is missing or has another value than it should. Every token
that was issued has the one policy of a grant, is an orphan and a service token, cannot be renewed, and ends after at most 4 h.

- issued: it opens the patient's recording.
- issued, opens nothing: it does not.

| Parameter | ` + strings.Join(spellingNames(), " | ") + " |\n|---|" + strings.Repeat("---|", len(spellings)) + "\n"

func spellingNames() []string {
	var names []string
	for _, spell := range spellings {
		names = append(names, spell.name)
	}
	return names
}

// issueWith asks for a grant with one parameter in another spelling.
func issueWith(parameter string, value any) operation {
	return operation{parameter, func(c *cell) (string, error) {
		return c.issue(data{parameter: value}, func(secret *api.Secret) string {
			assert.True(c.t, strings.HasPrefix(secret.Auth.ClientToken, "hvs."), parameter)
			assert.False(c.t, secret.Auth.Renewable, parameter)
			assert.LessOrEqual(c.t, secret.Auth.LeaseDuration, 4*60*60, parameter)
			if c.opens(c.patient())(secret) != allowed {
				return "issued, opens nothing"
			}
			return "issued"
		})
	}}
}

// rotateAndRetire rotates the patient's envelope key and retires the first version.
func (c *cell) rotateAndRetire() {
	c.t.Helper()
	path := c.mount() + "/keys/" + kek(c.patient())
	c.prepare(path+"/rotate", nil)
	c.prepare(path+"/config", data{"min_decryption_version": 2, "min_encryption_version": 2})
}

// retireAnd tries to change another setting together with those of a retirement.
func retireAnd(name string, also data) operation {
	return operation{"retire, and " + name, func(c *cell) (string, error) {
		d := data{"min_decryption_version": 1, "min_encryption_version": 1}
		maps.Copy(d, also)
		return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", d)
	}}
}

type matrixSection struct {
	name       string
	operations []operation
}

var matrixSections = []matrixSection{
	{"Pseudonyms and enrolment", []operation{
		{"make a pseudonym", func(c *cell) (string, error) {
			return c.write(c.mount()+"/hmac/pseudonym/sha2-256", data{"input": plaintext(), "key_version": 1})
		}},
		{"make pseudonyms in a batch", func(c *cell) (string, error) {
			return c.write(c.mount()+"/hmac/pseudonym/sha2-256", data{"batch_input": []data{{"input": plaintext()}}})
		}},
		{"enrol a patient", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek", data{"type": "aes256-gcm96", "derived": true})
		}},
		{"enrol with an exportable key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek", data{"type": "aes256-gcm96", "derived": true, "exportable": true})
		}},
		{"enrol with a key that can be backed up in clear", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek", data{"type": "aes256-gcm96", "derived": true, "allow_plaintext_backup": true})
		}},
		{"enrol with a key that ignores the binding", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek", data{"type": "aes256-gcm96"})
		}},
		enrolWith("derived as a text", data{"derived": "true"}),
		enrolWith("derived as an empty text", data{"derived": ""}),
		enrolWith("derived as an empty list", data{"derived": []any{}}),
		enrolWith("derived as a list", data{"derived": []any{true}}),
		enrolWith("derived being null", data{"derived": null}),
		enrolWith("the type as an empty text", data{"type": ""}),
		enrolWith("a list of types", data{"type": "aes256-gcm96,aes256-gcm96"}),
		{"make an HMAC key under the name of an envelope key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek", data{"type": "hmac", "key_size": 32})
		}},
		{"make a signing key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek", data{"type": "ed25519"})
		}},
		{"leave the mark of an erasure", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/erased-"+c.newName()+"-kek", data{"type": "hmac", "key_size": 32})
		}},
		{"make an envelope key under the name of a mark", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/erased-"+c.newName()+"-kek", data{"type": "aes256-gcm96", "derived": true})
		}},
		{"make a mark of no type", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/erased-"+c.newName()+"-kek", data{"type": ""})
		}},
		{"allow the deletion of a mark", func(c *cell) (string, error) {
			return c.write(c.mark()+"/config", data{"deletion_allowed": true})
		}},
		{"delete a mark", func(c *cell) (string, error) {
			path := c.mark()
			c.prepare(path+"/config", data{"deletion_allowed": true})
			return c.remove(path)
		}},
	}},
	{"Recording keys", []operation{
		{"wrap a recording key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/encrypt/"+kek(c.patient()), data{"plaintext": plaintext(), "context": vaultContext(c.patient())})
		}},
		{"wrap a recording key, where the newest version is the minimum for encryption", func(c *cell) (string, error) {
			c.prepare(c.mount()+"/keys/"+kek(c.patient())+"/rotate", nil)
			configure(data{"min_encryption_version": 2})(c)
			return c.write(c.mount()+"/encrypt/"+kek(c.patient()), data{"plaintext": plaintext(), "context": vaultContext(c.patient())})
		}},
		{"wrap in a batch", func(c *cell) (string, error) {
			return c.write(c.mount()+"/encrypt/"+kek(c.patient()), data{"batch_input": []data{{"plaintext": plaintext(), "context": vaultContext(c.patient())}}})
		}},
		{"wrap for a patient who is not enrolled", func(c *cell) (string, error) {
			return c.write(c.mount()+"/encrypt/"+c.newName()+"-kek", data{"plaintext": plaintext(), "context": vaultContext(c.patient())})
		}},
		{"wrap for a patient who is not enrolled, with disable_upsert off", func(c *cell) (string, error) {
			c.prepare(c.mount()+"/config/keys", data{"disable_upsert": false})
			defer c.prepare(c.mount()+"/config/keys", data{"disable_upsert": true})
			return c.write(c.mount()+"/encrypt/"+c.newName()+"-kek", data{"plaintext": plaintext(), "context": vaultContext(c.patient())})
		}},
		{"decrypt a recording key of the patient", func(c *cell) (string, error) {
			return c.decrypt(c.client, c.patient(), wrappedData(c.patient()))
		}},
		{"decrypt a recording key of another patient", func(c *cell) (string, error) {
			return c.decrypt(c.client, c.other(), wrappedData(c.other()))
		}},
		{"decrypt the patient's in a batch", func(c *cell) (string, error) {
			return c.decrypt(c.client, c.patient(), data{"batch_input": []data{wrappedData(c.patient())}})
		}},
		{"decrypt the patient's in a batch, in addition to a single one", func(c *cell) (string, error) {
			d := wrappedData(c.patient())
			d["batch_input"] = []data{wrappedData(c.patient())}
			return c.decrypt(c.client, c.patient(), d)
		}},
		{"describe the patient's recording (decrypt its metadata key)", func(c *cell) (string, error) {
			rec := c.metadataOf(c.patient())
			return c.decrypt(c.client, rec, wrappedData(rec))
		}},
		{"describe another patient's recording (decrypt its metadata key)", func(c *cell) (string, error) {
			rec := c.metadataOf(c.other())
			return c.decrypt(c.client, rec, wrappedData(rec))
		}},
		{"describe the patient's recording with a line break in the context", func(c *cell) (string, error) {
			rec := c.metadataOf(c.patient())
			d := wrappedData(rec)
			d["context"] = describing[:7] + "\n" + vaultContext(rec)[7:]
			return c.decrypt(c.client, rec, d)
		}},
		{"describe the patient's recording in a batch", func(c *cell) (string, error) {
			rec := c.metadataOf(c.patient())
			return c.decrypt(c.client, rec, data{"batch_input": []data{wrappedData(rec)}})
		}},
		openWith("a line break in the context", func(text string) any { return text[:28] + "\n" + text[28:] }),
		openWith("line breaks before the context", func(text string) any { return "\r\n" + text }),
		openWith("an unpadded context", func(text string) any { return strings.TrimRight(text, "=") }),
		openWith("a context in URL-safe base64", func(text string) any { return strings.NewReplacer("+", "-", "/", "_").Replace(text) + "-" }),
		openWith("the metadata's context before its own", func(text string) any { return describing + text }),
		openWith("an array of its context", func(text string) any { return []string{text} }),
		openWith("an array of the metadata's context and its own", func(text string) any { return []string{describing, text} }),
		openWith("a context that is null", func(string) any { return nil }),
		openWith("an empty context", func(string) any { return "" }),
		openWith("an empty array of contexts", func(string) any { return []string{} }),
		openWith("the metadata's context, a comma and its own", func(text string) any { return describing + "," + text }),
		openWith("the metadata's context, a line break and its own", func(text string) any { return describing + "\n" + text }),
		openWith("an object as the context", func(text string) any { return data{describing: text} }),
		sendRaw("open the patient's recording with its context in a form", "application/x-www-form-urlencoded", func(own, _ recording) (url.Values, string) {
			return nil, url.Values{"ciphertext": {string(own.wrapped)}, "context": {vaultContext(own)}}.Encode()
		}),
		sendRaw("open the patient's recording with both contexts in a form", "application/x-www-form-urlencoded", func(own, meta recording) (url.Values, string) {
			return nil, url.Values{"ciphertext": {string(own.wrapped)}, "context": {vaultContext(meta), vaultContext(own)}}.Encode()
		}),
		sendRaw("open the patient's recording with its context in the query, the metadata's in the body", "application/json", func(own, meta recording) (url.Values, string) {
			return url.Values{"context": {vaultContext(own)}},
				fmt.Sprintf(`{"ciphertext":%q,"context":%q}`, own.wrapped, vaultContext(meta))
		}),
		sendRaw("open the patient's recording with both contexts under one name", "application/json", func(own, meta recording) (url.Values, string) {
			return nil, fmt.Sprintf(`{"ciphertext":%q,"context":%q,"context":%q}`, own.wrapped, vaultContext(meta), vaultContext(own))
		}),
		{"open the patient's recording in a batch that is a text", func(c *cell) (string, error) {
			rec := c.patient()
			batch, err := json.Marshal([]data{wrappedData(rec)})
			require.NoError(c.t, err)
			return c.decrypt(c.client, rec, data{
				"ciphertext": string(rec.wrapped), "context": vaultContext(c.metadataOf(rec)), "batch_input": string(batch),
			})
		}},
		{"open the patient's recording with its metadata's context and another parameter", func(c *cell) (string, error) {
			rec := c.patient()
			return c.decrypt(c.client, rec, data{"ciphertext": string(rec.wrapped), "context": vaultContext(c.metadataOf(rec)), "nonce": ""})
		}},
		{"open the patient's recording: its context in a batch, the metadata's beside it", func(c *cell) (string, error) {
			rec := c.patient()
			return c.decrypt(c.client, rec, data{
				"ciphertext": string(rec.wrapped), "context": vaultContext(c.metadataOf(rec)), "batch_input": []data{wrappedData(rec)},
			})
		}},
		{"open the patient's recording: the name of the context in capitals", func(c *cell) (string, error) {
			rec := c.patient()
			return c.decrypt(c.client, rec, data{"ciphertext": string(rec.wrapped), "Context": vaultContext(rec), "context": vaultContext(c.metadataOf(rec))})
		}},
		{"re-wrap recording keys", func(c *cell) (string, error) {
			return c.write(c.mount()+"/rewrap/"+kek(c.patient()), data{"batch_input": []data{wrappedData(c.patient())}})
		}},
		rewrapUnder("an older version", false, nil),
		rewrapUnder("an older version, in a batch", true, nil),
		rewrapUnder("a version below the minimum for encryption, in a batch", true, configure(data{"min_encryption_version": 2})),
		rewrapUnder("a retired version, in a batch", true, configure(data{"min_decryption_version": 2, "min_encryption_version": 2})),
		{"get a data key in clear", func(c *cell) (string, error) {
			return c.write(c.mount()+"/datakey/plaintext/"+kek(c.patient()), data{"context": vaultContext(c.patient())})
		}},
		{"get a wrapped data key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/datakey/wrapped/"+kek(c.patient()), data{"context": vaultContext(c.patient())})
		}},
	}},
	{"Envelope keys", []operation{
		{"list keys", func(c *cell) (string, error) { return c.list(c.mount() + "/keys") }},
		{"read an envelope key's versions and settings", func(c *cell) (string, error) {
			return c.readKey(c.mount() + "/keys/" + kek(c.patient()))
		}},
		{"read the patient's mark of an erasure", func(c *cell) (string, error) {
			path := c.mount() + "/keys/erased-" + kek(c.patient())
			c.prepare(path, data{"type": "hmac", "key_size": 32})
			return c.readKey(path)
		}},
		{"read another patient's mark of an erasure", func(c *cell) (string, error) {
			path := c.mount() + "/keys/erased-" + kek(c.other())
			c.prepare(path, data{"type": "hmac", "key_size": 32})
			return c.readKey(path)
		}},
		{"read the pseudonym key's settings", func(c *cell) (string, error) { return c.readKey(c.mount() + "/keys/pseudonym") }},
		{"rotate an envelope key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/rotate", nil)
		}},
		{"rotate the pseudonym key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/pseudonym/rotate", nil)
		}},
		{"retire old versions of an envelope key", func(c *cell) (string, error) {
			c.prepare(c.mount()+"/keys/"+kek(c.patient())+"/rotate", nil)
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"min_decryption_version": 2, "min_encryption_version": 2})
		}},
		{"reinstate retired versions of an envelope key", func(c *cell) (string, error) {
			c.rotateAndRetire()
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"min_decryption_version": 1})
		}},
		retireAnd("make an envelope key exportable", data{"exportable": true}),
		retireAnd("let an envelope key be backed up in clear", data{"allow_plaintext_backup": true}),
		retireAnd("have an envelope key rotate by itself", data{"auto_rotate_period": "1h"}),
		retireAnd("allow the deletion of an envelope key", data{"deletion_allowed": true}),
		{"set the minimum version for encryption alone", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"min_encryption_version": 1})
		}},
		{"change the versions of the pseudonym key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/pseudonym/config", data{"min_decryption_version": 1, "min_encryption_version": 1})
		}},
		{"trim old versions of an envelope key", func(c *cell) (string, error) {
			c.rotateAndRetire()
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/trim", data{"min_available_version": 2})
		}},
		{"trim a version of an envelope key that still unwraps", func(c *cell) (string, error) {
			c.rotateAndRetire()
			c.prepare(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"min_decryption_version": 1})
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/trim", data{"min_available_version": 2})
		}},
		{"trim the pseudonym key", func(c *cell) (string, error) {
			c.prepare(c.mount()+"/keys/pseudonym/config", data{"min_encryption_version": 1})
			return c.write(c.mount()+"/keys/pseudonym/trim", data{"min_available_version": 1})
		}},
		{"make an envelope key exportable", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"exportable": true})
		}},
		{"let an envelope key be backed up in clear", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"allow_plaintext_backup": true})
		}},
		{"have an envelope key rotate by itself", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"auto_rotate_period": "1h"})
		}},
		{"allow the deletion of an envelope key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"deletion_allowed": true})
		}},
		{"delete an envelope key", func(c *cell) (string, error) {
			c.prepare(c.mount()+"/keys/"+kek(c.patient())+"/config", data{"deletion_allowed": true})
			return c.remove(c.mount() + "/keys/" + kek(c.patient()))
		}},
		{"allow the deletion of the pseudonym key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/keys/pseudonym/config", data{"deletion_allowed": true})
		}},
		{"delete the pseudonym key", func(c *cell) (string, error) {
			c.prepare(c.mount()+"/keys/pseudonym/config", data{"deletion_allowed": true})
			defer c.setUp()
			return c.remove(c.mount() + "/keys/pseudonym")
		}},
		{"export an envelope key", func(c *cell) (string, error) {
			return c.read(c.mount() + "/export/encryption-key/" + c.newKey(data{"derived": true, "exportable": true}))
		}},
		{"export the HMAC part of an envelope key", func(c *cell) (string, error) {
			return c.read(c.mount() + "/export/hmac-key/" + c.newKey(data{"derived": true, "exportable": true}))
		}},
		{"export an envelope key under another key (BYOK)", func(c *cell) (string, error) {
			under := c.newKey(data{"type": "rsa-2048"})
			return c.read(c.mount() + "/byok-export/" + under + "/" + c.newKey(data{"exportable": true}))
		}},
		{"back up an envelope key", func(c *cell) (string, error) {
			return c.read(c.mount() + "/backup/" + c.newKey(data{"derived": true, "exportable": true, "allow_plaintext_backup": true}))
		}},
		{"restore an envelope key", func(c *cell) (string, error) {
			name := c.newKey(data{"derived": true, "exportable": true, "allow_plaintext_backup": true})
			backup, err := c.admin.Logical().ReadWithContext(c.ctx, c.mount()+"/backup/"+name)
			require.NoError(c.t, err)
			return c.write(c.mount()+"/restore/"+c.newName()+"-kek", data{"backup": backup.Data["backup"]})
		}},
		{"read the wrapping key for imports", func(c *cell) (string, error) { return c.read(c.mount() + "/wrapping_key") }},
		{"import a key", func(c *cell) (string, error) {
			public, _, err := ed25519.GenerateKey(nil)
			require.NoError(c.t, err)
			der, err := x509.MarshalPKIXPublicKey(public)
			require.NoError(c.t, err)
			return c.write(c.mount()+"/keys/"+c.newName()+"-kek/import", data{
				"type": "ed25519", "public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
			})
		}},
		{"compute an HMAC with an envelope key", func(c *cell) (string, error) {
			return c.write(c.mount()+"/hmac/"+kek(c.patient())+"/sha2-256", data{"input": plaintext()})
		}},
		{"sign", func(c *cell) (string, error) {
			return c.write(c.mount()+"/sign/"+c.newKey(data{"type": "ed25519"}), data{"input": plaintext()})
		}},
		{"verify an HMAC", func(c *cell) (string, error) {
			made := c.prepare(c.mount()+"/hmac/"+kek(c.patient()), data{"input": plaintext()})
			return c.write(c.mount()+"/verify/"+kek(c.patient()), data{"input": plaintext(), "hmac": made.Data["hmac"]})
		}},
	}},
	{"The engine's settings", []operation{
		{"draw random bytes", func(c *cell) (string, error) { return c.write(c.mount()+"/random/32", nil) }},
		{"read the settings for all keys", func(c *cell) (string, error) { return c.read(c.mount() + "/config/keys") }},
		{"switch disable_upsert on", func(c *cell) (string, error) {
			return c.write(c.mount()+"/config/keys", data{"disable_upsert": true})
		}},
		{"switch disable_upsert off", func(c *cell) (string, error) {
			defer c.prepare(c.mount()+"/config/keys", data{"disable_upsert": true})
			return c.write(c.mount()+"/config/keys", data{"disable_upsert": false})
		}},
		{"switch disable_upsert off with an empty text", func(c *cell) (string, error) {
			defer c.prepare(c.mount()+"/config/keys", data{"disable_upsert": true})
			return c.write(c.mount()+"/config/keys", data{"disable_upsert": ""})
		}},
		{"read the cache's size", func(c *cell) (string, error) { return c.read(c.mount() + "/cache-config") }},
		{"set the cache's size", func(c *cell) (string, error) { return c.write(c.mount()+"/cache-config", data{"size": 1000}) }},
		{"read the engine's mount", func(c *cell) (string, error) { return c.read("sys/mounts/" + c.mount()) }},
		{"read the audit tuning, and the store that the keyring serves", func(c *cell) (string, error) { return c.read("sys/mounts/" + c.mount() + "/tune") }},
		{"change the audit tuning", func(c *cell) (string, error) {
			return c.write("sys/mounts/"+c.mount()+"/tune", data{"audit_non_hmac_request_keys": []string{"context"}})
		}},
		{"change the store that the keyring serves", func(c *cell) (string, error) {
			return c.write("sys/mounts/"+c.mount()+"/tune", data{"description": "(recvault store " + string(keystest.Store) + ")"})
		}},
		{"change the mount's lease times", func(c *cell) (string, error) {
			return c.write("sys/mounts/"+c.mount()+"/tune", data{"max_lease_ttl": "1h"})
		}},
		{"unmount the engine", func(c *cell) (string, error) {
			defer c.setUp()
			return c.remove("sys/mounts/" + c.mount())
		}},
		{"move the engine", func(c *cell) (string, error) {
			path := c.options.Prefix + "/" + c.newName()
			c.prepare("sys/mounts/"+path, data{"type": "transit"})
			return c.write("sys/remount", data{"from": path, "to": path + "-moved"})
		}},
		{"mount an engine elsewhere", func(c *cell) (string, error) {
			return c.write("sys/mounts/"+c.options.Prefix+"/"+c.newName(), data{"type": "transit"})
		}},
	}},
	{"Grants", []operation{
		{"issue a grant and open the patient's recording", func(c *cell) (string, error) { return c.issue(nil, c.opens(c.patient())) }},
		{"issue a grant and open another patient's recording", func(c *cell) (string, error) { return c.issue(nil, c.opens(c.other())) }},
		{"issue a grant that lasts longer than allowed", func(c *cell) (string, error) {
			return c.issue(data{"ttl": "1000h"}, func(secret *api.Secret) string {
				return fmt.Sprintf("issued, for %d s", secret.Auth.LeaseDuration)
			})
		}},
		{"issue a grant with more policies", func(c *cell) (string, error) {
			return c.issue(data{"policies": []string{c.options.Prefix + "-grant", c.options.Prefix + "-writer"}}, c.opens(c.patient()))
		}},
		{"issue a grant with the root policy", func(c *cell) (string, error) {
			return c.issue(data{"policies": []string{"root"}}, c.opens(c.patient()))
		}},
		{"issue a periodic grant", func(c *cell) (string, error) {
			return c.issue(data{"period": "1h"}, func(secret *api.Secret) string {
				return fmt.Sprintf("issued, renewable: %v", secret.Auth.Renewable)
			})
		}},
		{"issue a renewable grant", func(c *cell) (string, error) {
			return c.issue(data{"renewable": true}, func(secret *api.Secret) string {
				return fmt.Sprintf("issued, renewable: %v", secret.Auth.Renewable)
			})
		}},
		{"issue a batch token as a grant", func(c *cell) (string, error) {
			return c.issue(data{"type": "batch"}, func(secret *api.Secret) string {
				require.True(c.t, strings.HasPrefix(secret.Auth.ClientToken, "hvs."))
				return "issued, a service token"
			})
		}},
		{"issue a grant with a token of its own choice", func(c *cell) (string, error) {
			return c.issue(data{"id": c.newName()}, c.opens(c.patient()))
		}},
		{"issue a grant without an entity alias", func(c *cell) (string, error) {
			return c.issue(data{"entity_alias": nil}, c.opens(c.patient()))
		}},
		{"issue a grant without metadata", func(c *cell) (string, error) {
			return c.issue(data{"meta": nil}, c.opens(c.patient()))
		}},
		wildcard("`*`", func(keys.KeyID) string { return "*" }),
		wildcard("`+`", func(keys.KeyID) string { return "+" }),
		wildcard("`ab*`, where the patient's KeyID starts with ab,", func(id keys.KeyID) string { return id.String()[:2] + "*" }),
		wildcard("`+*`", func(keys.KeyID) string { return "+*" }),
		wildcard("`<KeyID>-kek*`", func(id keys.KeyID) string { return id.String() + "-kek*" }),
		wildcard("`*-kek`", func(keys.KeyID) string { return "*-kek" }),
		wildcard("`+-kek`", func(keys.KeyID) string { return "+-kek" }),
		wildcard("`+/-kek`", func(keys.KeyID) string { return "+/-kek" }),
		wildcard("`ab*-kek`, where the patient's KeyID starts with ab,", func(id keys.KeyID) string { return id.String()[:2] + "*-kek" }),
		wildcard("`../decrypt/<KeyID>-kek`", func(id keys.KeyID) string { return "../decrypt/" + id.String() + "-kek" }),
		wildcard("`<KEYID>-kek`, in capitals,", func(id keys.KeyID) string { return strings.ToUpper(id.String()) + "-kek" }),
		wildcard("`<KeyID>-KEK`", func(id keys.KeyID) string { return id.String() + "-KEK" }),
		wildcard("`<KeyID>`, without the suffix,", keys.KeyID.String),
		{"issue a grant for a name without the suffix", func(c *cell) (string, error) {
			return c.issue(data{"entity_alias": "somebody"}, c.opens(c.patient()))
		}},
		{"issue a grant for a name that is no KeyID", func(c *cell) (string, error) {
			return c.issue(data{"entity_alias": "somebody-kek"}, c.opens(c.patient()))
		}},
		{"end a grant by its accessor", func(c *cell) (string, error) {
			return c.write("auth/token/revoke-accessor", data{"accessor": c.anyGrant().Accessor()})
		}},
		{"end itself", func(c *cell) (string, error) {
			if c.role == "root" { // the other operations still need the root token
				child, err := c.client.Auth().Token().CreateWithContext(c.ctx, &api.TokenCreateRequest{Policies: []string{"root"}})
				require.NoError(c.t, err)
				c.client.SetToken(child.Auth.ClientToken)
			}
			return c.write("auth/token/revoke-self", nil)
		}},
		{"look up a grant by its accessor", func(c *cell) (string, error) {
			return c.write("auth/token/lookup-accessor", data{"accessor": c.anyGrant().Accessor()})
		}},
		{"revoke all grants by prefix", func(c *cell) (string, error) {
			c.anyGrant()
			return c.write("sys/leases/revoke-prefix/"+c.issuePath(), nil)
		}},
		{"remove a patient's wrapped answers", func(c *cell) (string, error) {
			return c.write("sys/leases/revoke-prefix/"+c.options.Mount+"/decrypt/"+c.patient().binding.KeyID().String()+"-kek", data{"sync": true})
		}},
		{"end every lease of the mount", func(c *cell) (string, error) {
			return c.write("sys/leases/revoke-prefix/"+c.options.Mount, data{"sync": true})
		}},
	}},
	{"Tokens and policies", []operation{
		{"create a child token", func(c *cell) (string, error) { return c.write("auth/token/create", data{"ttl": "1m"}) }},
		{"create an orphan token", func(c *cell) (string, error) { return c.write("auth/token/create-orphan", data{"ttl": "1m"}) }},
		{"read the grants' token role", func(c *cell) (string, error) { return c.read(c.tokenRole()) }},
		{"write the grants' token role", func(c *cell) (string, error) {
			defer c.setUp()
			return c.write(c.tokenRole(), data{"allowed_policies_glob": []string{"*"}})
		}},
		{"make another token role", func(c *cell) (string, error) {
			return c.write("auth/token/roles/"+c.options.Prefix+"-other", data{"allowed_policies": []string{c.options.Prefix + "-writer"}})
		}},
		{"look itself up", func(c *cell) (string, error) { return c.read("auth/token/lookup-self") }},
		{"renew itself", func(c *cell) (string, error) {
			if c.role == "root" {
				child, err := c.client.Auth().Token().CreateWithContext(c.ctx, &api.TokenCreateRequest{Policies: []string{"root"}, TTL: "1m"})
				require.NoError(c.t, err)
				c.client.SetToken(child.Auth.ClientToken)
			}
			return c.write("auth/token/renew-self", nil)
		}},
		{"list all accessors", func(c *cell) (string, error) { return c.list("auth/token/accessors") }},
		{"read a policy", func(c *cell) (string, error) { return c.read(c.policyPath() + "-grant") }},
		{"write the policy of another role", func(c *cell) (string, error) {
			defer c.setUp()
			return c.write(c.policyPath()+"-writer", data{"policy": `path "x" { capabilities = ["read"] }`})
		}},
		{"write the policy of setup", func(c *cell) (string, error) {
			defer c.installSetupPolicy()
			return c.write(c.policyPath()+"-setup", data{"policy": `path "x" { capabilities = ["read"] }`})
		}},
		{"write a new policy", func(c *cell) (string, error) {
			return c.write(c.policyPath()+"-new", data{"policy": `path "x" { capabilities = ["read"] }`})
		}},
		{"delete a policy", func(c *cell) (string, error) {
			defer c.setUp()
			return c.remove(c.policyPath() + "-writer")
		}},
	}},
	{"Vault itself", []operation{
		{"list all mounts", func(c *cell) (string, error) { return c.read("sys/mounts") }},
		{"list auth methods", func(c *cell) (string, error) { return c.read("sys/auth") }},
		{"enable an auth method", func(c *cell) (string, error) {
			return c.write("sys/auth/"+c.newName(), data{"type": "approle"})
		}},
		{"list audit devices", func(c *cell) (string, error) { return c.read("sys/audit") }},
		{"enable an audit device", func(c *cell) (string, error) {
			name := c.newName()
			defer func() { require.NoError(c.t, c.admin.Sys().DisableAuditWithContext(c.ctx, name)) }()
			return c.write("sys/audit/"+name, data{"type": "file", "options": map[string]string{"file_path": "discard"}})
		}},
		{"disable an audit device", func(c *cell) (string, error) {
			name := c.newName()
			c.prepare("sys/audit/"+name, data{"type": "file", "options": map[string]string{"file_path": "discard"}})
			defer func() { require.NoError(c.t, c.admin.Sys().DisableAuditWithContext(c.ctx, name)) }()
			return c.remove("sys/audit/" + name)
		}},
		{"make an identity entity", func(c *cell) (string, error) {
			return c.write("identity/entity", data{"name": c.newName()})
		}},
		{"give a wildcard as an entity alias", func(c *cell) (string, error) {
			entity := c.prepare("identity/entity", data{"name": c.newName()})
			return c.write("identity/entity-alias", data{
				"name": c.newName() + "*", "canonical_id": entity.Data["id"], "mount_accessor": c.tokenAccessor(),
			})
		}},
		{"list entity aliases", func(c *cell) (string, error) {
			c.anyGrant()
			return c.list("identity/entity-alias/id")
		}},
		{"read the patient's entity", func(c *cell) (string, error) {
			c.anyGrant()
			entity := c.prepare("identity/lookup/entity", data{"alias_name": kek(c.patient()), "alias_mount_accessor": c.tokenAccessor()})
			return c.read("identity/entity/id/" + entity.Data["id"].(string))
		}},
		{"count entities", func(c *cell) (string, error) { return c.read("sys/internal/counters/entities") }},
		{"give a policy to the patient's entity", func(c *cell) (string, error) {
			c.anyGrant()
			entity := c.prepare("identity/lookup/entity", data{
				"alias_name": kek(c.patient()), "alias_mount_accessor": c.tokenAccessor(),
			})
			return c.write("identity/entity/id/"+entity.Data["id"].(string), data{"policies": []string{c.options.Prefix + "-writer"}})
		}},
		{"make an identity group", func(c *cell) (string, error) {
			return c.write("identity/group", data{"name": c.newName(), "policies": []string{c.options.Prefix + "-writer"}})
		}},
		{"write to its own cubbyhole", func(c *cell) (string, error) { return c.write("cubbyhole/x", data{"x": "y"}) }},
		{"ask for its own capabilities", func(c *cell) (string, error) {
			return c.write("sys/capabilities-self", data{"paths": []string{c.mount() + "/keys"}})
		}},
		{"rotate Vault's own key", func(c *cell) (string, error) { return c.write("sys/rotate", nil) }},
		{"read Vault's raw storage", func(c *cell) (string, error) { return c.read("sys/raw/core/keyring") }},
		{"seal Vault", func(c *cell) (string, error) {
			defer c.server.Unseal(c.t)
			return c.write("sys/seal", nil)
		}},
	}},
}

// anyGrant returns a grant for the patient, in addition to the one that the cell may have.
func (c *cell) anyGrant() keys.Grant {
	c.t.Helper()
	secret := c.prepare(c.issuePath(), data{"entity_alias": kek(c.patient()), "ttl": "60s"})
	return keys.NewGrant(keys.GrantDetails{Accessor: secret.Auth.Accessor}, secret.Auth.ClientToken)
}

// tokenAccessor returns the accessor of Vault's token mount.
func (f *fixture) tokenAccessor() string {
	f.t.Helper()
	mounts, err := f.admin.Sys().ListAuthWithContext(f.t.Context())
	require.NoError(f.t, err)
	return mounts["token/"].Accessor
}

// installSetupPolicy installs the policy of the role "setup", as an administrator does before Setup runs.
func (f *fixture) installSetupPolicy() {
	f.t.Helper()
	policies, err := transit.Policies(f.options, f.tokenAccessor())
	require.NoError(f.t, err)
	require.Equal(f.t, "setup", policies[0].Role)
	require.NoError(f.t, f.admin.Sys().PutPolicyWithContext(f.t.Context(), policies[0].Name, policies[0].HCL))
}
