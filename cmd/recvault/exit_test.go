package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

// wants runs a command in both output formats and checks how it fails.
func (d *deployment) wants(exit int, code string, args ...string) {
	d.t.Helper()
	text := d.run(args...).exits(exit)
	assert.True(d.t, strings.HasPrefix(lastLine(text.stderr), "recvault: "), "%q", text.stderr)
	assert.Equal(d.t, code, d.run(append(args, "--output", "json")...).exits(exit).failure().Code, "%q", args)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestExitCodesMatchTheErrors(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, aliceID := d.enrol("alice")
		bob, _ := d.enrol("bob")
		nobody := d.patient("nobody")
		id := d.put(alice, random(t, 100_000))
		missing := keystest.NewRecordingID(mustKeyID(t, aliceID)).String()
		grant, wrong := d.grant(alice, "grant"), d.grant(bob, "wrong")
		ended := d.grant(alice, "ended")
		d.run("revoke", "--grant-file", ended).ok()

		d.wants(exitDenied, "denied", "get", "--grant-file", wrong, "--out", d.path("out"), id)
		d.wants(exitDenied, "invalid_grant", "get", "--grant-file", ended, "--out", d.path("out"), id)
		d.wants(exitDenied, "invalid_grant", "get", "--grant-file", alice, "--out", d.path("out"), id)
		d.wants(exitNotFound, "not_found", "get", "--grant-file", grant, "--out", d.path("out"), missing)
		d.wants(exitNotFound, "not_found", "inspect", missing)
		d.as("writer").wants(exitNotFound, "not_enrolled", "put", "--patient-file", nobody, grant)
		d.as("eraser").wants(exitNotFound, "not_found", "erase", "plan", "--recording", missing)
		d.wants(exitFailure, "exists", "get", "--grant-file", grant, "--out", grant, id)
		d.as("granter").wants(exitFailure, "exists", "grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", grant)
		d.wants(exitFailure, "failure", "inspect", d.path("there is no such file"))
		d.wants(exitUsage, "usage", "get", "--grant-file", grant, "--out", d.path("out"), "not an ID")
		d.wants(exitUsage, "usage", "list", "--key-id", "not a KeyID")
		d.as("granter").wants(exitUsage, "usage", "grant", "--patient-file", alice, "--subject", "s", "--purpose", "no purpose", "--out", "x")
		if len(d.tokens) > 0 {
			d.as("writer").wants(exitDenied, "denied", "enrol", "--patient-file", alice)
			for _, which := range [][]string{{"--all"}, {"--key-id", aliceID}} {
				for _, verb := range [][]string{{"rotate"}, {"rotate", "--dry-run"}, {"rewrap"}} {
					d.as("auditor").wants(exitDenied, "denied", slices.Concat(verb, which)...)
				}
				d.as("granter").wants(exitDenied, "denied", slices.Concat([]string{"verify"}, which)...)
				d.with("VAULT_TOKEN", "hvs.none").wants(exitDenied, "unauthenticated", slices.Concat([]string{"verify"}, which)...)
				d.as("rotator").with("VAULT_ADDR", "http://127.0.0.1:1").
					wants(exitUnavailable, "unavailable", slices.Concat([]string{"verify"}, which)...)
			}
			d.as("auditor").wants(exitDenied, "denied", "put", "--patient-file", alice, grant)
			d.with("AWS_SECRET_ACCESS_KEY", "another").wants(exitDenied, "denied", "list", "--key-id", aliceID)
			d.as("enroller").with("RECVAULT_MOUNT", "elsewhere").wants(exitDenied, "denied", "enrol", "--patient-file", alice)
			d.as("setup").with("RECVAULT_MOUNT", "elsewhere").wants(exitFailure, "not_set_up", "enrol", "--patient-file", alice)
			d.with("RECVAULT_BUCKET", "no-such-bucket").wants(exitFailure, "not_set_up", "list", "--key-id", aliceID)
			assert.Contains(t, d.with("RECVAULT_BUCKET", "no-such-bucket").run("list", "--key-id", aliceID).stderr, `"no-such-bucket"`)
			d.with("AWS_ENDPOINT_URL", "http://127.0.0.1:1").wants(exitUnavailable, "unavailable", "list", "--key-id", aliceID)
			d.as("writer").with("VAULT_ADDR", "http://127.0.0.1:1").wants(exitUnavailable, "unavailable", "put", "--patient-file", alice, grant)
		}
	})
}

func TestJobsEndSoonWhenVaultIsSealed(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := onVault(t, v)
	var aliceID string
	for range 30 {
		var alice string
		alice, aliceID = d.enrol("alice")
		d.put(alice, random(t, 10))
	}
	v.Seal(t)
	for _, verb := range []string{"verify", "plan", "rewrap"} {
		for _, which := range [][]string{{"--all"}, {"--key-id", aliceID}} {
			o := d.as("rotator").run(append([]string{verb, "--output", "json"}, which...)...).exits(exitUnavailable)
			assert.Equal(t, "unavailable", o.failure().Code)
			var found float64
			for _, n := range o.object()["findings"].(map[string]any)["counts"].(map[string]any) {
				found += n.(float64)
			}
			assert.Less(t, found, 30.0, "it does not go on")
		}
	}
}

func TestDenialNamesTheRole(t *testing.T) {
	d := onServers(t)
	alice, aliceID := d.enrol("alice")
	d.put(alice, random(t, 10))
	prefix := d.environment["RECVAULT_POLICY_PREFIX"]
	curious, err := d.vault.Client(d.vault.RootToken()).Auth().Token().CreateOrphanWithContext(t.Context(), // may look itself up
		&api.TokenCreateRequest{Policies: []string{prefix + "-granter"}, TTL: "1h"})
	require.NoError(t, err)
	d.secrets = append(d.secrets, curious.Auth.ClientToken)
	for role, args := range map[string][]string{
		"enroller": {"enrol", "--patient-file", alice},
		"granter":  {"grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", d.path("out")},
		"revoker":  {"revoke", "--accessor", "6RIMVwMdPiwbxbroJbsvTPff"},
		"rotator":  {"rotate", "--all"},
		"retirer":  {"reinstate", "--oldest", "1", "--key-id", aliceID},
		"eraser":   {"erase", "plan", "--key-id", aliceID},
		"setup":    {"setup"},
		"writer":   {"put", "--patient-file", alice, d.file("a.webm", nil)},
	} {
		t.Run(role, func(t *testing.T) {
			token := "granter"
			if role == token {
				token = "writer"
			}
			text := lastLine(d.in(t).as(token).run(args...).exits(exitDenied).stderr)
			assert.True(t, strings.HasSuffix(text, "permission denied by Vault: the command needs the role "+role), text)
			assert.Equal(t, 1, strings.Count(text, "denied"), text)
			if role != "granter" {
				text = lastLine(d.in(t).with("VAULT_TOKEN", curious.Auth.ClientToken).run(args...).exits(exitDenied).stderr)
				assert.True(t, strings.HasSuffix(text, "the role "+role+"; this token's policies are default, "+prefix+"-granter"), text)
			}
		})
	}
	t.Run("unknown token", func(t *testing.T) {
		text := lastLine(d.in(t).with("VAULT_TOKEN", "hvs.unknown").run("enrol", "--patient-file", alice).exits(exitDenied).stderr)
		assert.NotContains(t, text, "role")
		assert.True(t, strings.HasSuffix(text, "the process's own credentials are not valid: Vault answered 403: invalid token"), text)
	})
}

func mustKeyID(t *testing.T, text string) keys.KeyID {
	t.Helper()
	id, err := keys.ParseKeyID(text)
	require.NoError(t, err)
	return id
}

// damage changes an object of a deployment in a directory.
func (d *deployment) damage(name string, change func([]byte) []byte) {
	d.t.Helper()
	store, err := dir.Open(filepath.Join(d.environment["RECVAULT_DIR"], objectsDir))
	require.NoError(d.t, err)
	defer store.Close()
	object, err := store.Get(d.t.Context(), name, 0, -1)
	require.NoError(d.t, err)
	var data bytes.Buffer
	_, err = data.ReadFrom(object)
	require.NoError(d.t, err)
	require.NoError(d.t, object.Close())
	changed := change(data.Bytes())
	_, err = store.Put(d.t.Context(), name, bytes.NewReader(changed), int64(len(changed)), storage.Condition{})
	require.NoError(d.t, err)
}

func objectName(id, part string) string {
	return "recordings/" + strings.Replace(id, ".", "/", 1) + "/" + part
}

func TestAnUnsafeKeyHasACodeOfItsOwn(t *testing.T) {
	found := classify(t.Context(), fmt.Errorf("enrol: %w", transit.ErrUnsafeKey))
	assert.Equal(t, "unsafe_key", found.Code)
	assert.Equal(t, exitFailure, found.Exit)
}

func TestErrorTextsControlNoTerminal(t *testing.T) {
	text := classify(t.Context(), errors.Join(errors.New("a\x1b[31m\u202e\a"), errors.New("b"))).Error
	assert.Equal(t, "a?[31m??; b", text)
}

func TestADamagedRecordingLeavesNoFile(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	grant := d.grant(alice, "grant")
	id := d.put(alice, random(t, 1_000_000))
	d.damage(objectName(id, "media"), func(media []byte) []byte {
		media[len(media)-1] ^= 1
		return media
	})
	before := d.files()
	d.wants(exitDamaged, "damaged", "get", "--grant-file", grant, "--out", d.path("out"), id)
	assert.Equal(t, before, d.files(), "no file and no part of it")
	kept := d.file("kept", []byte("what was there"))
	d.wants(exitDamaged, "damaged", "get", "--grant-file", grant, "--out", kept, "--force", id)
	assert.Equal(t, "what was there", readFile(t, kept))
	d.wants(exitIncomplete, "incomplete", "verify", "--all", "--grant-file", grant)

	d.damage(objectName(id, "envelope"), func(envelope []byte) []byte { return append(envelope, ' ') })
	d.wants(exitDamaged, "damaged", "inspect", id)
	d.wants(exitIncomplete, "incomplete", "verify", "--key-id", aliceID)
	d.wants(exitIncomplete, "incomplete", "rewrap", "--all")
	d.wants(exitIncomplete, "incomplete", "plan", "--all")
	listed := d.run("list", "--grant-file", grant, "--output", "json").exits(exitIncomplete).object()
	assert.Equal(t, "damaged", listed["recordings"].([]any)[0].(map[string]any)["error"])
}

// files lists what is in the test's directory.
func (d *deployment) files() []string {
	d.t.Helper()
	entries, err := os.ReadDir(d.home)
	require.NoError(d.t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestInspectTakesAFileAndStandardInput(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	envelope := readFile(t, filepath.Join(d.environment["RECVAULT_DIR"], objectsDir, "objects", objectName(id, "envelope")))
	file := d.file("envelope", []byte(envelope))
	elsewhere := newDeployment(t) // no settings are needed
	assert.Equal(t, id, elsewhere.run("inspect", file, "--output", "json").ok().object()["id"])
	assert.Equal(t, id, elsewhere.runWith(strings.NewReader(envelope), "inspect", "-", "--output", "json").ok().object()["id"])
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "x", "no version": strings.Replace(envelope, `"version":1,`, "", 1),
		"another field": strings.Replace(envelope, "{", `{"x":1,`, 1), "cut": envelope[:len(envelope)-1],
		"endless": envelope + strings.Repeat(" ", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			d := elsewhere.in(t)
			d.runWith(strings.NewReader(text), "inspect", "-").exits(exitDamaged)
			assert.Equal(t, "damaged", d.runWith(strings.NewReader(text), "inspect", "-", "--output", "json").exits(exitDamaged).failure().Code)
		})
	}
	newer := strings.Replace(envelope, `"version":1`, `"version":2`, 1)
	assert.Contains(t, elsewhere.runWith(strings.NewReader(newer), "inspect", "-").exits(exitUnsupported).stderr, "unsupported")
	assert.Equal(t, "unsupported", elsewhere.runWith(strings.NewReader(newer), "inspect", "-", "--output", "json").exits(exitUnsupported).failure().Code)
}

// Inspect shows what it found before it fails: an envelope of another recording, or one without media.
func TestInspectShowsWhatIsDamaged(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	id, other := d.put(alice, random(t, 10)), d.put(alice, random(t, 10))
	objects := filepath.Join(d.environment["RECVAULT_DIR"], objectsDir, "objects")
	d.damage(objectName(id, "envelope"), func([]byte) []byte {
		return []byte(readFile(t, filepath.Join(objects, objectName(other, "envelope"))))
	})
	d.wants(exitDamaged, "damaged", "inspect", id)
	o := d.run("inspect", id, "--output", "json").exits(exitDamaged)
	assert.Equal(t, other, o.object()["id"])
	assert.Contains(t, o.failure().Error, "envelope is that of another recording")

	require.NoError(t, os.Remove(filepath.Join(objects, objectName(other, "media"))))
	d.wants(exitDamaged, "damaged", "inspect", other)
	o = d.run("inspect", other, "--output", "json").exits(exitDamaged)
	assert.Equal(t, true, o.object()["media_missing"])
	assert.Contains(t, o.failure().Error, "media is missing")

	require.NoError(t, os.Remove(filepath.Join(objects, objectName(id, "media"))))
	o = d.run("inspect", id, "--output", "json").exits(exitDamaged)
	assert.Equal(t, true, o.object()["media_missing"], "both are shown")
	assert.Contains(t, o.failure().Error, "envelope is that of another recording")
}

func TestUsageErrorsDoNotRepeatArguments(t *testing.T) {
	d := newDeployment(t)
	const canary = "canary-943-476-5919"
	for _, args := range [][]string{
		{canary},
		{"put"},
		{"put", canary, canary},
		{"get", canary},
		{"get", canary, "--out", "x"},
		{"enrol", canary},
		{"list", "--key-id", canary},
		{"list", "--key-id", canary, "--grant-file", canary},
		{"list", "--frob=" + canary},
		{"list", "-x" + canary},
		{"list", "--quiet=" + canary},
		{"list", "--key-id"},
		{"rotate", "--all", "--concurrency", canary},
		{"rotate", "--all", "--older-than", canary},
		{"rotate", "--shard", canary, "--dir", "x"},
		{"erase", canary},
		{"erase", "confirm"},
		{"erase", "plan", "--recording", canary},
		{"grant", "--purpose", canary},
		{"grant", "--ttl", canary},
		{"revoke"},
		{"hold", "set"},
		{"setup", "--max-grant-ttl", canary},
		{"version", "--output", canary},
		{"version", canary},
		{"sweep", "--remove", "--all"},
		{"setup", "--print", "--dry-run"},
		{"describe", canary},
		{"describe", canary, canary},
		{"copy", canary},
		{"reassign", canary},
		{"verify", "--all", "--expect-min", canary},
		{"help", canary},
		{"help", "hold", canary},
		{"help", "rotate", canary},
	} {
		t.Run(strings.ReplaceAll(strings.Join(args, " "), canary, "X"), func(t *testing.T) {
			for _, output := range [][]string{nil, {"--output", "json"}} {
				if output != nil && args[0] == "version" && len(args) == 3 {
					continue // the output format is the mistake
				}
				o := d.in(t).run(append(output, args...)...).exits(exitUsage)
				assert.NotContains(t, o.stdout+o.stderr, canary)
				assert.Empty(t, o.stdout)
				if output != nil {
					assert.Equal(t, "usage", o.failure().Code)
				}
			}
		})
	}
}

func TestErrorsDoNotRepeatFileNames(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	servers := d.with("RECVAULT_DIR", "", "VAULT_ADDR", "http://127.0.0.1:1", "AWS_ENDPOINT_URL", "http://127.0.0.1:1", "RECVAULT_BUCKET", "recordings")
	for name, canary := range map[string]string{
		"a patient": "MRN-4711 Jane Doe", "a grant": "recvault-grant-1." + strings.Repeat("canary", 100), "a path": "canary/with/slashes",
	} {
		for _, c := range []struct {
			d    *deployment
			flag string
			args []string
		}{
			{servers, "--token-file", []string{"rotate", "--all", "--token-file", canary}},
			{d, "--grant-file", []string{"get", "--grant-file", canary, "--out", d.path("out"), id}},
			{d, "--grant-file", []string{"verify", "--all", "--grant-file", canary}},
			{d, "--patient-file", []string{"enrol", "--patient-file", canary}},
			{d, "--patient-file", []string{"put", "--patient-file", canary, alice}},
			{d, "--patient-file", []string{"rotate", "--patient-file", canary}},
			{d, "--key-id-file", []string{"rotate", "--key-id-file", canary}},
			{d, "--metadata-file", []string{"put", "--patient-file", alice, "--metadata-file", canary, alice}},
			{d, "FILE", []string{"put", "--patient-file", alice, canary}},
			{d, "FILE", []string{"put", "--dry-run", "--patient-file", alice, canary}},
			{d, "FILE", []string{"inspect", canary}},
		} {
			t.Run(name+" in "+c.args[0]+" "+c.flag, func(t *testing.T) {
				for _, output := range []string{"text", "json"} {
					o := c.d.in(t).run(append(c.args, "--output", output)...).exits(exitFailure)
					assert.NotContains(t, o.stdout+o.stderr, canary)
					assert.Contains(t, o.stderr, c.flag)
				}
			})
		}
	}
	// An error while reading an open file does not repeat its name either.
	folder := d.path("MRN-4711")
	require.NoError(t, os.Mkdir(folder, 0o700))
	assert.NotContains(t, d.run("put", "--patient-file", alice, folder).exits(exitUsage).stderr, "MRN-4711")
	_, err := (&input{source: failing{}, flag: "FILE"}).Read(nil)
	assert.EqualError(t, err, "FILE: input/output error")
}

type failing struct{ io.Closer }

func (failing) Read([]byte) (int, error) {
	return 0, &os.PathError{Op: "read", Path: "MRN-4711", Err: syscall.EIO}
}

func TestEmptyFlagValuesAreRefused(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	d.put(alice, random(t, 10))
	other := d.with("RECVAULT_PATIENT", strings.TrimSpace(readFile(t, alice)), "RECVAULT_OPERATOR", "o")
	for _, args := range [][]string{
		{"erase", "plan", "--key-id", ""},
		{"erase", "plan", "--recording", ""},
		{"erase", "plan", "--patient-file", ""},
		{"erase", "confirm", "--digest", "x", "--key-id", ""},
		{"hold", "set", "--reason", "r", "--key-id", ""},
		{"enrol", "--patient-file", ""},
		{"list", "--key-id="},
		{"revoke", "--accessor", ""},
		{"rotate", "--key-id", ""},
		{"rotate", "--key-id", aliceID, "--key-id", ""},
		{"rotate", "--key-id", aliceID, "--key-id-file", ""},
		{"rotate", "--all", "--older-than", ""},
		{"rotate", "--shard", ""},
		{"rotate", "--all", "--dir", ""},
	} {
		t.Run(strings.ReplaceAll(strings.Join(args, " "), aliceID, "KEYID"), func(t *testing.T) {
			other.in(t).wants(exitUsage, "usage", args...)
		})
	}
	other.run("erase", "plan").ok()
}

func TestSweepRemovesUnlessDryRun(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	whole, orphan := d.put(alice, random(t, 10)), d.put(alice, random(t, 10))
	objects := filepath.Join(d.environment["RECVAULT_DIR"], objectsDir, "objects")
	require.NoError(t, os.Remove(filepath.Join(objects, objectName(orphan, "envelope"))))
	media := filepath.Join(objects, objectName(orphan, "media"))
	long := time.Now().Add(-25 * time.Hour)
	require.NoError(t, os.Chtimes(media, long, long))

	assert.Regexp(t, `would remove: media without an envelope +1, `, d.run("sweep", "--all", "--dry-run").ok().stdout)
	assert.FileExists(t, media)
	removed := d.run("sweep", "--all", "--output", "json").ok().object()
	assert.Equal(t, false, removed["dry_run"])
	assert.EqualValues(t, 1, removed["orphans"].(map[string]any)["count"])
	assert.NoFileExists(t, media)
	d.run("inspect", whole).ok()
	require.NoError(t, os.WriteFile(filepath.Join(objects, "recordings", "stray"), nil, 0o600))
	d.wants(exitIncomplete, "incomplete", "sweep", "--all")
	d.wants(exitUsage, "usage", "sweep", "--all", "--older-than", "1m")
}

// An interruption must not hide what the operator has to act on.
func TestInterruptionReportsUncertainResults(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interruption{syscall.SIGTERM})
	id := keystest.NewRecordingID(mustKeyID(t, strings.Repeat("a", 32)))
	uncertain := classify(ctx, &vault.UncertainError{ID: id, Err: context.Canceled})
	assert.Equal(t, exitTerminated, uncertain.Exit)
	assert.Contains(t, uncertain.Error, id.String())
	assert.Contains(t, classify(ctx, erasure.ErrIncomplete).Error, "run it again")
	assert.Equal(t, failure{"interrupted by SIGTERM", "interrupted", exitTerminated}, classify(ctx, context.Canceled))
	assert.Equal(t, "uncertain", classify(t.Context(), &vault.UncertainError{ID: id, Err: keys.ErrUnavailable}).Code)
}
