package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	aead "github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// cli returns what the deployment's commands run on, until the test ends.
func (d *deployment) cli() *cli {
	d.t.Helper()
	c := &cli{getenv: func(name string) string { return d.environment[name] }}
	d.t.Cleanup(func() { require.NoError(d.t, c.close()) })
	return c
}

func (d *deployment) keyring(role string) keys.Keyring {
	d.t.Helper()
	k, err := d.as(role).cli().openKeyring(d.t.Context(), role)
	if len(d.tokens) == 0 {
		k, err = d.cli().openGrantKeyring()
	}
	require.NoError(d.t, err)
	return k
}

// stored are the objects of one recording, which a test can change.
type stored struct {
	d       *deployment
	store   storage.Store
	objects *objects.Objects
	id      vault.ID
	grant   keys.Grant
}

func (d *deployment) stored(id, grantFile string) *stored {
	d.t.Helper()
	c := d.cli()
	store, err := c.openStore()
	require.NoError(d.t, err)
	o, err := objects.New(store, c.prefix())
	require.NoError(d.t, err)
	parsed, err := vault.ParseID(id)
	require.NoError(d.t, err)
	grant, err := keys.ParseGrant(strings.TrimSpace(readFile(d.t, grantFile)))
	require.NoError(d.t, err)
	return &stored{d, store, o, parsed, grant}
}

func (s *stored) read(t *testing.T, name string) []byte {
	t.Helper()
	object, err := s.store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	data, err := io.ReadAll(object)
	require.NoError(t, err)
	return data
}

func (s *stored) write(t *testing.T, name string, data []byte) {
	t.Helper()
	_, err := s.store.Put(t.Context(), name, bytes.NewReader(data), int64(len(data)), storage.Condition{})
	require.NoError(t, err)
}

// envelope changes the envelope.
func (s *stored) envelope(t *testing.T, change func(e *envelope.Envelope)) {
	t.Helper()
	name := s.objects.EnvelopeName(s.id)
	e, err := envelope.Parse(s.read(t, name))
	require.NoError(t, err)
	change(&e)
	s.write(t, name, e.Encode())
}

// metadataKey unwraps the recording's metadata key.
func (s *stored) metadataKey(t *testing.T, e *envelope.Envelope) *keys.Key {
	t.Helper()
	k, err := s.d.cli().openGrantKeyring()
	require.NoError(t, err)
	key, err := k.Unwrap(t.Context(), s.grant, s.id.MetadataBinding(), e.WrappedMetadataKey)
	require.NoError(t, err)
	return key
}

// wrap wraps a key for the recording, as somebody can who stole a writer's token.
func (s *stored) wrap(t *testing.T, binding keys.Binding, key *keys.Key) keys.WrappedKey {
	t.Helper()
	wrapped, err := s.d.in(t).keyring("writer").Wrap(t.Context(), binding, key)
	require.NoError(t, err)
	return wrapped
}

// describing returns the file of a grant that can only describe.
func (d *deployment) describing(patient string) string {
	d.t.Helper()
	grant, err := d.keyring("granter").Issue(d.t.Context(), keys.Patient(strings.TrimSpace(readFile(d.t, patient))), keys.GrantOptions{
		TTL: time.Minute, Subject: "auditor", Purpose: keys.Treatment, DescribeOnly: true,
	})
	require.NoError(d.t, err)
	return d.file("describing", []byte(grant.Reveal()))
}

// outcomes returns the outcomes of the checks, one letter each: passed, failed or not made; and those that failed.
func outcomes(t *testing.T, o *outcome) (letters string, failed []map[string]any) {
	t.Helper()
	for _, check := range o.object()["checks"].([]any) {
		fields := check.(map[string]any)
		switch fields["outcome"] {
		case "passed":
			letters += "p"
			assert.NotEmpty(t, fields["shows"], fields["name"])
		case "failed":
			letters += "f"
			failed = append(failed, fields)
			assert.NotContains(t, fields, "shows")
		default:
			letters += "-"
			assert.NotEmpty(t, fields["detail"], "%s: a check that was not made says why", fields["name"])
		}
	}
	return letters, failed
}

// The groups of the checks are: envelope; grant and keyring; keys; key, commitment, metadata; size; media.
const (
	allPassed  = "ppppppp pp ppp pppp p pppp"
	notGranted = "p-ppppp -- --- ---- - p---"
)

func TestInspectNamesEachKindOfDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		bob, _ := d.enrol("bob")
		grant := d.grant(alice, "grant")
		id, other := d.put(alice, random(t, 200_000)), d.put(alice, random(t, 10))
		s, of := d.stored(id, grant), d.stored(other, grant)
		envelopeName, mediaName := s.objects.EnvelopeName(s.id), s.objects.MediaName(s.id)
		soundEnvelope, soundMedia := s.read(t, envelopeName), s.read(t, mediaName)
		text := func(change func(text string) string) func(t *testing.T) {
			return func(t *testing.T) { s.write(t, envelopeName, []byte(change(string(soundEnvelope)))) }
		}
		edit := func(change func(t *testing.T, e *envelope.Envelope)) func(t *testing.T) {
			return func(t *testing.T) { s.envelope(t, func(e *envelope.Envelope) { change(t, e) }) }
		}
		media := func(change func(media []byte) []byte) func(t *testing.T) {
			return func(t *testing.T) { s.write(t, mediaName, change(bytes.Clone(soundMedia))) }
		}
		flip := func(at int) func(t *testing.T) {
			return media(func(media []byte) []byte {
				media[at] ^= 1
				return media
			})
		}
		// sealed seals other metadata under the recording's own key.
		sealed := func(change func(m *envelope.Metadata)) func(t *testing.T) {
			return edit(func(t *testing.T, e *envelope.Envelope) {
				sealer := envelope.NewSealer(s.id.KeyID(), s.metadataKey(t, e))
				m, err := sealer.Open(*e)
				require.NoError(t, err)
				change(&m)
				*e, err = sealer.Seal(e.WrappedKey, e.WrappedMetadataKey, m)
				require.NoError(t, err)
			})
		}
		for _, c := range []struct {
			name   string
			damage func(t *testing.T)
			want   string
			step   float64 // of the first check that failed; 0: none did
			class  string
			detail string
			exit   int
			args   []string
		}{
			{"nothing", func(*testing.T) {}, allPassed, 0, "", "", exitOK, nil},
			{"nothing, all segments", func(*testing.T) {}, allPassed, 0, "", "", exitOK, []string{"--all-segments"}},
			{"no JSON", text(func(string) string { return "x" }), "pppf--- -- --- ---- - ----", 4, "damaged", "does not start with a version", exitDamaged, nil},
			{
				"too large", text(func(text string) string { return text + strings.Repeat(" ", 1<<17) }),
				"pppf--- -- --- ---- - ----", 4, "damaged", "more than 65536 bytes", exitDamaged, nil,
			},
			{
				"another version", text(func(text string) string { return strings.Replace(text, `"version":1,`, `"version":2,`, 1) }),
				"ppppf-- -- --- ---- - ----", 5, "unsupported", "version 2, want 1", exitUnsupported, nil,
			},
			{
				"white space", text(func(text string) string { return text + " " }),
				"pppppf- -- --- ---- - ----", 6, "damaged", "not in canonical form", exitDamaged, nil,
			},
			{
				"an unknown field", text(func(text string) string { return strings.TrimSuffix(text, "}") + `,"x":1}` }),
				"pppppf- -- --- ---- - ----", 6, "damaged", "not in canonical form", exitDamaged, nil,
			},
			{
				"cut", text(func(text string) string { return text[:len(text)-10] }),
				"pppppf- -- --- ---- - ----", 6, "damaged", "not JSON", exitDamaged, nil,
			},
			{
				"another recording's envelope", func(t *testing.T) { s.write(t, envelopeName, of.read(t, of.objects.EnvelopeName(of.id))) },
				"ppppppf -- --- ---- - ----", 6, "damaged", other, exitDamaged, nil,
			},
			{
				"another keyring", edit(func(_ *testing.T, e *envelope.Envelope) { *e = e.WithWraps("other:v1:AAAA", "other:v1:AAAA") }),
				"ppppppp pf --- ---- - ----", 8, "unsupported", "another kind of keyring", exitUnsupported, nil,
			},
			{
				"another recording's wrapped key", edit(func(t *testing.T, e *envelope.Envelope) {
					of.envelope(t, func(another *envelope.Envelope) { e.WrappedKey = another.WrappedKey })
				}),
				"ppppppp pp fp- pppp p ppp-", 9, "damaged", "wrapped key failed authentication", exitDamaged, nil,
			},
			{
				"another recording's wrapped metadata key", edit(func(t *testing.T, e *envelope.Envelope) {
					of.envelope(t, func(another *envelope.Envelope) { e.WrappedMetadataKey = another.WrappedMetadataKey })
				}),
				"ppppppp pp pf- pppp p pppp", 9, "damaged", "wrapped key failed authentication", exitDamaged, nil,
			},
			{
				"another metadata key", edit(func(t *testing.T, e *envelope.Envelope) {
					e.WrappedMetadataKey = s.wrap(t, s.id.MetadataBinding(), keys.NewKey())
				}),
				"ppppppp pp ppf pppp p pppp", 9, "damaged", "two recordings", exitDamaged, nil,
			},
			{
				"another recording key", edit(func(t *testing.T, e *envelope.Envelope) {
					e.WrappedKey = s.wrap(t, s.id.Binding(), keys.NewKey())
				}),
				"ppppppp pp ppf pppp p ppp-", 9, "damaged", "two recordings", exitDamaged, nil,
			},
			{
				"another recording under this ID", edit(func(t *testing.T, e *envelope.Envelope) {
					key := keys.NewKey()
					*e = e.WithWraps(s.wrap(t, s.id.Binding(), key), s.wrap(t, s.id.MetadataBinding(), envelope.MetadataKey(key)))
				}),
				"ppppppp pp ppp f--- - ----", 10, "damaged", "the key is that of the recording", exitDamaged, nil,
			},
			{
				"another commitment", edit(func(_ *testing.T, e *envelope.Envelope) { e.Commitment[0] ^= 1 }),
				"ppppppp pp ppp pf-- - ----", 10, "damaged", "commitment", exitDamaged, nil,
			},
			{
				"altered metadata", edit(func(_ *testing.T, e *envelope.Envelope) { e.Sealed[20] ^= 1 }),
				"ppppppp pp ppp ppf- - ----", 11, "damaged", "does not authenticate", exitDamaged, nil,
			},
			{
				"metadata that breaks a rule", edit(func(t *testing.T, e *envelope.Envelope) {
					key, err := hkdf.Key(sha256.New, s.metadataKey(t, e).Bytes(), nil, "recvault/v1/seal", 32)
					require.NoError(t, err)
					cipher, err := aead.NewAESGCM(key)
					require.NoError(t, err)
					e.Sealed, err = cipher.Encrypt([]byte(`{"title":null}`), s.id.Binding().Bytes())
					require.NoError(t, err)
				}),
				"ppppppp pp ppp pppf - ----", 12, "damaged", "sealed metadata is damaged", exitDamaged, nil,
			},
			{
				"a sealed size that no media has", sealed(func(m *envelope.Metadata) { m.MediaSize = 55 }),
				"ppppppp pp ppp pppp f ----", 13, "damaged", "55 bytes", exitDamaged, nil,
			},
			{
				"no media", func(t *testing.T) { require.NoError(t, s.store.Delete(t.Context(), mediaName)) },
				"ppppppp pp ppp pppp p f---", 14, "damaged", "media is missing", exitDamaged, nil,
			},
			{
				"media cut after a segment", media(func(media []byte) []byte { return media[:2<<16] }),
				"ppppppp pp ppp pppp p pf--", 15, "damaged", "131072 bytes, not 200104", exitDamaged, nil,
			},
			{
				"media with more", media(func(media []byte) []byte { return append(media, 0) }),
				"ppppppp pp ppp pppp p pf--", 15, "damaged", "200105 bytes, not 200104", exitDamaged, nil,
			},
			{"another header", flip(5), "ppppppp pp ppp pppp p ppf-", 16, "damaged", "another header", exitDamaged, nil},
			{
				"another header, sealed", func(t *testing.T) {
					sealed(func(m *envelope.Metadata) { m.MediaHeader[5] ^= 1 })(t)
					flip(5)(t)
				}, "ppppppp pp ppp pppp p pppf", 17, "damaged", "segment 0 of 4", exitDamaged, nil,
			},
			{"the first segment", flip(100), "ppppppp pp ppp pppp p pppf", 17, "damaged", "segment 0 of 4", exitDamaged, nil},
			{"the last segment", flip(200_103), "ppppppp pp ppp pppp p pppf", 17, "damaged", "segment 3 of 4", exitDamaged, nil},
			{"a segment between, which is not read", flip(2 << 16), allPassed, 0, "", "", exitOK, nil},
			{"a segment between", flip(2 << 16), "ppppppp pp ppp pppp p pppf", 17, "damaged", "segment 2 of 4", exitDamaged, []string{"--all-segments"}},
			{
				"another patient's grant", func(*testing.T) {}, "ppppppp pp ff- ---- - ----", 9, "wrong-patient", "permission denied", exitDenied,
				[]string{"--grant-file", d.grant(bob, "bobs")},
			},
			{
				"a grant that can only describe", func(*testing.T) {}, "ppppppp pp -p- pppp p ppp-", 0, "", "", exitOK,
				[]string{"--grant-file", d.describing(alice)},
			},
			{
				"a grant that can only describe, and another keyring's recording key",
				edit(func(_ *testing.T, e *envelope.Envelope) { *e = e.WithWraps("other:v1:AAAA", e.WrappedMetadataKey) }),
				"ppppppp p- -p- pppp p ppp-", 0, "", "", exitOK,
				[]string{"--grant-file", d.describing(alice)},
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				c.damage(t)
				defer s.write(t, envelopeName, soundEnvelope)
				defer s.write(t, mediaName, soundMedia)
				args := append([]string{"inspect", "--grant-file", grant, id}, c.args...)
				o := d.in(t).run(append(args, "--output", "json")...).exits(c.exit)
				letters, failed := outcomes(t, o)
				assert.Equal(t, strings.ReplaceAll(c.want, " ", ""), letters)
				if c.step > 0 && assert.NotEmpty(t, failed) {
					assert.EqualValues(t, c.step, failed[0]["step"])
					assert.Equal(t, c.class, failed[0]["class"])
					assert.Contains(t, failed[0]["detail"], c.detail)
					assert.Contains(t, o.failure().Error, failed[0]["detail"])
				}
				page := d.in(t).run(args...).exits(c.exit).stdout
				assert.NotContains(t, page, "Follow-up", "a page for reports has no title")
				for _, part := range []string{"WHAT EACH FIELD SHOWS", "CHECKS, in the order of docs/format.md", "WHAT NO CHECK SHOWS"} {
					assert.Contains(t, page, part)
				}
			})
		}
		for _, c := range []struct {
			name   string
			damage func(t *testing.T)
			want   string
			exit   int
		}{
			{"nothing", func(*testing.T) {}, notGranted, exitOK},
			{"altered metadata", edit(func(_ *testing.T, e *envelope.Envelope) { e.Sealed[20] ^= 1 }), notGranted, exitOK},
			{"no media", func(t *testing.T) { require.NoError(t, s.store.Delete(t.Context(), mediaName)) }, "p-ppppp -- --- ---- - f---", exitDamaged},
			{"a size that no media has", media(func(media []byte) []byte { return media[:65_540] }), "p-ppppp -- --- ---- - pf--", exitDamaged},
			{"no header", flip(0), "p-ppppp -- --- ---- - p-f-", exitDamaged},
		} {
			t.Run("without a grant, "+c.name, func(t *testing.T) {
				c.damage(t)
				defer s.write(t, envelopeName, soundEnvelope)
				defer s.write(t, mediaName, soundMedia)
				letters, _ := outcomes(t, d.in(t).with("VAULT_ADDR", "").run("inspect", id, "--output", "json").exits(c.exit))
				assert.Equal(t, strings.ReplaceAll(c.want, " ", ""), letters)
			})
		}
	})
}

func TestInspectExplainsARecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, aliceID := d.enrol("alice")
		grant := d.grant(alice, "grant")
		id := d.put(alice, random(t, 200_000))
		d.as("rotator").run("rotate", "--key-id", aliceID).ok()
		d.as("rotator").run("rewrap", "--key-id", aliceID).ok()
		d.run("describe", "--grant-file", grant, "--attribute", "ward=3b", id).ok()
		object := d.run("inspect", "--grant-file", grant, "--output", "json", id).ok().object()
		for name, want := range map[string]any{
			"id": id, "key_id": aliceID, "key_version": 2.0, "metadata_key_version": 2.0, "media_size": 200_104.0, "plaintext_size": 200_000.0,
			"segments": 4.0, "format_version": 1.0,
		} {
			assert.Equal(t, want, object[name], name)
		}
		sealed := object["sealed"].(map[string]any)
		assert.Equal(t, []any{"content_type", "title", "attributes", "created_at", "media_size", "media_header", "revision"}, sealed["fields"])
		assert.EqualValues(t, 1, sealed["revision"])
		assert.EqualValues(t, 200_104, sealed["media_size"])
		assert.Regexp(t, "^28[0-9a-f]{78}$", sealed["media_header"])
		page := d.run("inspect", "--grant-file", grant, id).ok().stdout
		assert.Contains(t, page, "the first and the last of 4; --all-segments reads the others")
		assert.Contains(t, page, "195.3 KiB (200000 bytes), segments: 4")
		assert.Contains(t, d.run("inspect", "--grant-file", grant, "--all-segments", id).ok().stdout, "all 4\n")

		empty := d.put(alice, nil)
		object = d.run("inspect", "--grant-file", grant, "--output", "json", empty).ok().object()
		assert.EqualValues(t, 0, object["plaintext_size"])
		assert.EqualValues(t, 1, object["segments"])

		// An envelope without its store.
		s := d.stored(id, grant)
		file := d.file("envelope", s.read(t, s.objects.EnvelopeName(s.id)))
		o := d.run("inspect", "--grant-file", grant, "--output", "json", file).ok()
		letters, _ := outcomes(t, o)
		assert.Equal(t, strings.ReplaceAll("-p-ppp- pp ppp pppp p ----", " ", ""), letters)
		d.wants(exitUsage, "usage", "inspect", "--all-segments", id)
		d.wants(exitUsage, "usage", "inspect", "--all-segments", "--grant-file", grant, file)

		// What the keyring says of patient and key.
		d.as("eraser").run("erase", "confirm", "--key-id", aliceID, "--operator", "o", "--digest",
			d.as("eraser").run("erase", "plan", "--key-id", aliceID, "--output", "json").ok().object()["digest"].(string)).ok()
		letters, failed := outcomes(t, d.run("inspect", "--grant-file", grant, "--output", "json", file).exits(exitNotFound))
		assert.Equal(t, strings.ReplaceAll("-p-ppp- pp ff- ---- - ----", " ", ""), letters)
		assert.Equal(t, "erased", failed[0]["class"])
	})
}

func TestInspectWithoutAKeyring(t *testing.T) {
	d := onServers(t)
	alice, _ := d.enrol("alice")
	grant := d.grant(alice, "grant")
	id := d.put(alice, random(t, 10))
	letters, failed := outcomes(t, d.with("VAULT_ADDR", "http://127.0.0.1:1").
		run("inspect", "--grant-file", grant, "--output", "json", id).exits(exitUnavailable))
	assert.Equal(t, strings.ReplaceAll("ppppppp pp ff- ---- - ----", " ", ""), letters)
	assert.Equal(t, "unavailable", failed[0]["class"])

	text, err := os.ReadFile(grant)
	require.NoError(t, err)
	d.as("revoker").run("revoke", "--accessor", d.stored(id, grant).grant.Accessor()).ok()
	_, failed = outcomes(t, d.with("RECVAULT_GRANT", string(text)).run("inspect", "--output", "json", id).exits(exitDenied))
	assert.Equal(t, "invalid-grant", failed[0]["class"])
}

// A grant that can only describe is not presented for the recording key: the keyring would record a refusal.
func TestInspectAsksOnlyForWhatTheGrantCan(t *testing.T) {
	d := onServers(t)
	alice, keyID := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	d.run("inspect", "--grant-file", d.describing(alice), id).ok()
	unwrapped := d.vault.Unwrapped(t, keyID+"-kek")
	require.Len(t, unwrapped, 1)
	assert.Contains(t, unwrapped[0], "recvault/v1/metadata/")
}

// The steps on the page are those of docs/format.md, all of them.
func TestInspectHasTheStepsOfTheFormat(t *testing.T) {
	manual, err := os.ReadFile("../../docs/format.md")
	require.NoError(t, err)
	_, reading, _ := strings.Cut(string(manual), "\n## 9. ")
	reading, _, _ = strings.Cut(reading, "\n## 10. ")
	specified := map[int]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(reading, -1) {
		step, err := strconv.Atoi(row[1])
		require.NoError(t, err)
		specified[step] = true
	}
	made := map[int]bool{}
	for _, check := range allChecks {
		made[check.Step] = true
	}
	assert.NotEmpty(t, specified)
	assert.Equal(t, specified, made)
}
