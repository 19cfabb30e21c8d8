package local_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/local"
)

func TestConformance(t *testing.T) {
	keystest.Run(t, func(t *testing.T) keys.Keyring { return open(t, newDir(t), local.Options{}) })
}

func TestConformanceWithRoot(t *testing.T) {
	keystest.Run(t, func(t *testing.T) keys.Keyring {
		return open(t, newDir(t), local.Options{Root: newRoot(t)})
	})
}

// newDir returns the path of a directory that does not exist yet.
func newDir(t *testing.T) string {
	return filepath.Join(t.TempDir(), "keys")
}

func newRoot(t *testing.T) tink.AEAD {
	t.Helper()
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	root, err := aead.New(handle)
	require.NoError(t, err)
	return root
}

func open(t *testing.T, dir string, options local.Options) *local.Keyring {
	t.Helper()
	keyring, err := local.Open(dir, options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = keyring.Close() })
	return keyring
}

func enrol(t *testing.T, keyring *local.Keyring, patient keys.Patient) keys.KeyID {
	t.Helper()
	id, err := keyring.Enrol(t.Context(), patient)
	require.NoError(t, err)
	return id
}

// recording is a wrapped key and what it must unwrap to.
type recording struct {
	binding keys.Binding
	wrapped keys.WrappedKey
	key     []byte
}

func wrap(t *testing.T, keyring *local.Keyring, id keys.KeyID) recording {
	t.Helper()
	key := keys.NewKey()
	binding := keystest.NewRecordingID(id).Binding()
	wrapped, err := keyring.Wrap(t.Context(), binding, key)
	require.NoError(t, err)
	return recording{binding, wrapped, key.Bytes()}
}

func issue(t *testing.T, keyring *local.Keyring, patient keys.Patient, maxUses int) keys.Grant {
	t.Helper()
	grant, err := keyring.Issue(t.Context(), patient, keys.GrantOptions{
		TTL: time.Hour, Subject: "dr-lee", Purpose: keys.Treatment, RequestID: "case-7", MaxUses: maxUses,
	})
	require.NoError(t, err)
	return grant
}

// unwrap returns the error of Unwrap, or an error if it returned another key.
func unwrap(keyring *local.Keyring, grant keys.Grant, rec recording) error {
	key, err := keyring.Unwrap(context.Background(), grant, rec.binding, rec.wrapped)
	if err == nil && !bytes.Equal(rec.key, key.Bytes()) {
		return errors.New("the unwrapped key is not the one that was wrapped")
	}
	return err
}

// assertEnded fails unless err means that a grant is expired, revoked or used up.
func assertEnded(t *testing.T, err error, what string) {
	t.Helper()
	assert.ErrorIs(t, err, keys.ErrInvalidGrant, what)
	assert.ErrorIs(t, err, keys.ErrDenied, what)
}

func TestReopenedKeyringKeepsEverything(t *testing.T) {
	for name, root := range map[string]tink.AEAD{"root in the directory": nil, "given root": newRoot(t)} {
		t.Run(name, func(t *testing.T) {
			dir, options := newDir(t), local.Options{Root: root}
			keyring := open(t, dir, options)
			alice := enrol(t, keyring, "alice")
			bob := enrol(t, keyring, "bob")
			first := wrap(t, keyring, alice)
			require.NoError(t, keyring.Rotate(t.Context(), alice))
			second := wrap(t, keyring, alice)
			unlimited, limited, revoked := issue(t, keyring, "alice", 0), issue(t, keyring, "alice", 2), issue(t, keyring, "alice", 0)
			require.NoError(t, unwrap(keyring, limited, first))
			require.NoError(t, keyring.Revoke(t.Context(), revoked.Accessor()))
			require.NoError(t, keyring.Erase(t.Context(), bob))
			require.NoError(t, keyring.Close())

			keyring = open(t, dir, options)
			id, err := keyring.KeyID(t.Context(), "alice")
			require.NoError(t, err)
			assert.Equal(t, alice, id)
			versions, err := keyring.Versions(t.Context(), alice)
			require.NoError(t, err)
			assert.False(t, versions.Rotated.IsZero())
			assert.Equal(t, keys.Versions{Latest: 2, MinDecryption: 1, MinAvailable: 1, Rotated: versions.Rotated, Now: versions.Now, Label: versions.Label}, versions)
			assert.NoError(t, unwrap(keyring, unlimited, first))
			assert.NoError(t, unwrap(keyring, unlimited, second))
			assert.NoError(t, unwrap(keyring, limited, first))
			assertEnded(t, unwrap(keyring, limited, first), "the use before reopening was lost")
			assertEnded(t, unwrap(keyring, revoked, first), "the revocation was lost")
			_, err = keyring.Versions(t.Context(), bob)
			assert.ErrorIs(t, err, keys.ErrErased)
		})
	}
}

// The first five bytes of a Tink ciphertext identify the key that encrypted it
// (https://developers.google.com/tink/wire-format).
func TestEachVersionHasItsOwnKey(t *testing.T) {
	keyring := open(t, newDir(t), local.Options{})
	id := enrol(t, keyring, "alice")
	seen := make(map[string]bool)
	for range 3 {
		_, _, ciphertext, err := wrap(t, keyring, id).wrapped.Parse()
		require.NoError(t, err)
		assert.False(t, seen[string(ciphertext[:5])], "two versions share a key")
		seen[string(ciphertext[:5])] = true
		require.NoError(t, keyring.Rotate(t.Context(), id))
	}
}

func TestTrimmedVersionIsGoneFromTheDirectory(t *testing.T) {
	root := &spyRoot{AEAD: newRoot(t), t: t}
	dir := newDir(t)
	keyring := open(t, dir, local.Options{Root: root})
	id := enrol(t, keyring, "alice")
	require.NoError(t, keyring.Rotate(t.Context(), id))
	root.material = nil
	require.NoError(t, keyring.Rotate(t.Context(), id))
	versions := root.material
	require.Len(t, versions, 3)
	require.NoError(t, keyring.Retire(t.Context(), id, 3))
	root.material = nil
	require.NoError(t, keyring.Trim(t.Context(), id, 2))
	assert.Equal(t, versions[1:], root.material)

	file := filepath.Join(dir, "patients", id.String()+".json")
	trimmed, err := os.ReadFile(file)
	require.NoError(t, err)
	for what, change := range map[string]struct{ from, to string }{
		"altered first version": {`"first":2`, `"first":1`},
		"altered time":          {`"rotated":"2`, `"rotated":"3`},
	} {
		t.Run(what, func(t *testing.T) {
			require.Contains(t, string(trimmed), change.from)
			require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(trimmed), change.from, change.to, 1)), 0o600))
			_, err := keyring.Versions(t.Context(), id)
			assert.ErrorIs(t, err, local.ErrDamaged)
		})
	}
}

func TestClosedKeyringFails(t *testing.T) {
	keyring := open(t, newDir(t), local.Options{})
	id := enrol(t, keyring, "alice")
	require.NoError(t, keyring.Close())
	assert.ErrorIs(t, keyring.Rotate(t.Context(), id), keys.ErrUnavailable)
	_, err := keyring.Versions(t.Context(), id)
	assert.ErrorIs(t, err, keys.ErrUnavailable)
}

// A second keyring in the same directory acts as another process. The tests in processes_test.go run
// real ones.
func TestChangesAreSeenAtOnce(t *testing.T) {
	dir := newDir(t)
	here, there := open(t, dir, local.Options{}), open(t, dir, local.Options{})
	alice, bob := enrol(t, here, "alice"), enrol(t, here, "bob")
	rec, grant := wrap(t, here, alice), issue(t, here, "alice", 0)
	require.NoError(t, unwrap(here, grant, rec))
	require.NoError(t, unwrap(there, grant, rec))

	require.NoError(t, there.Rotate(t.Context(), alice))
	version, err := wrap(t, here, alice).wrapped.Version()
	require.NoError(t, err)
	assert.Equal(t, 2, version)

	require.NoError(t, there.RevokeSelf(t.Context(), grant))
	assertEnded(t, unwrap(here, grant, rec), "revoked elsewhere")

	grant = issue(t, there, "alice", 0)
	require.NoError(t, unwrap(here, grant, rec))
	require.NoError(t, there.Erase(t.Context(), alice))
	assert.ErrorIs(t, unwrap(here, grant, rec), keys.ErrErased)
	require.NoError(t, here.Erase(t.Context(), bob))
	_, err = there.Versions(t.Context(), bob)
	assert.ErrorIs(t, err, keys.ErrErased)
}

func TestGrantOfAnotherKeyringIsNotValid(t *testing.T) {
	here, there := open(t, newDir(t), local.Options{}), open(t, newDir(t), local.Options{})
	rec := wrap(t, here, enrol(t, here, "alice"))
	err := unwrap(here, issue(t, there, "alice", 0), rec)
	assert.ErrorIs(t, err, keys.ErrInvalidGrant)
}

func TestAlteredTokenIsNotValid(t *testing.T) {
	keyring := open(t, newDir(t), local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	grant := issue(t, keyring, "alice", 0)
	token := []byte(grant.Token())
	for i := range token {
		altered := bytes.Clone(token)
		altered[i] ^= 1
		err := unwrap(keyring, keys.NewGrant(grant.Details(), string(altered)), rec)
		assert.ErrorIs(t, err, keys.ErrInvalidGrant, "character %d of %d", i, len(token))
		assert.NotErrorIs(t, err, keys.ErrDenied)
	}
	assert.NoError(t, unwrap(keyring, grant, rec))
}

func TestTokenIsAJWTWithoutThePatient(t *testing.T) {
	keyring := open(t, newDir(t), local.Options{})
	grant := issue(t, keyring, "alice-943-476-5919", 3)
	parts := strings.Split(grant.Token(), ".")
	require.Len(t, parts, 3)
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	assert.NotContains(t, string(payload), "alice") // digits alone may be part of a time
	assert.NotContains(t, string(payload), "943-476")
	var claims map[string]any
	require.NoError(t, json.Unmarshal(payload, &claims))
	issued, expires := claims["iat"].(float64), claims["exp"].(float64)
	assert.InDelta(t, time.Hour.Seconds(), expires-issued, 1)
	assert.EqualValues(t, expires, grant.Expires().Unix())
	delete(claims, "iat")
	delete(claims, "exp")
	assert.Equal(t, map[string]any{
		"iss": "recvault/local", "sub": "dr-lee", "jti": grant.Accessor(), "key_id": grant.KeyID().String(),
		"purpose": "TREAT", "request_id": "case-7", "max_uses": 3.0, "describe_only": false,
	}, claims)
}

func TestExpiredGrantsLeaveNoFiles(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	live := issue(t, keyring, "alice", 1)
	var short []keys.Grant
	for range 3 {
		grant, err := keyring.Issue(t.Context(), "alice", keys.GrantOptions{TTL: keys.MinGrantTTL, Subject: "s", Purpose: keys.Treatment})
		require.NoError(t, err)
		short = append(short, grant)
	}
	require.Len(t, list(t, dir, "grants"), 4)
	require.Eventually(t, func() bool { return time.Now().After(short[2].Expires()) }, 10*time.Second, 10*time.Millisecond)

	keyring = open(t, dir, local.Options{}) // one that has not swept within the last minute
	next := issue(t, keyring, "alice", 0)
	assert.ElementsMatch(t, []string{live.Accessor() + ".json", next.Accessor() + ".json"}, list(t, dir, "grants"))
}

func TestUsedUpAndRevokedGrantsLeaveNoFiles(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	require.NoError(t, unwrap(keyring, issue(t, keyring, "alice", 1), rec))
	require.NoError(t, keyring.RevokeSelf(t.Context(), issue(t, keyring, "alice", 0)))
	require.NoError(t, keyring.Revoke(t.Context(), issue(t, keyring, "alice", 5).Accessor()))
	assert.Empty(t, list(t, dir, "grants"))
}

func list(t *testing.T, dir, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, folder))
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestContextEndsTheWaitForTheLock(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	id := enrol(t, keyring, "alice")
	rec, grant := wrap(t, keyring, id), issue(t, keyring, "alice", 0)
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { assert.NoError(t, lock.Close()) }()
	require.NoError(t, filelock.Lock(t.Context(), lock))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// One call waits for the lock on the file, and the other call waits for the first.
	done := make(chan error, 2)
	for range cap(done) {
		go func() { done <- keyring.Rotate(ctx, id) }()
	}
	for range cap(done) {
		select {
		case err := <-done:
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		case <-time.After(10 * time.Second):
			require.Fail(t, "the call did not return")
		}
	}
	assert.NoError(t, unwrap(keyring, grant, rec), "reading waited for the lock")

	require.NoError(t, filelock.Unlock(lock))
	assert.NoError(t, keyring.Rotate(t.Context(), id))
}

func TestDirectoryIsPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access is not a matter of modes on Windows")
	}
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	require.NoError(t, unwrap(keyring, issue(t, keyring, "alice", 2), rec))
	require.NoError(t, keyring.Rotate(t.Context(), rec.binding.KeyID()))
	require.NoError(t, keyring.Erase(t.Context(), enrol(t, keyring, "bob")))

	files := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		if entry.IsDir() {
			assert.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			return nil
		}
		files++
		assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
		return nil
	}))
	assert.Equal(t, 7, files, "root.json, pseudonym.json, grants.json, two patients, a grant and the lock")
}

func TestDirectoryOpenToOthersIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access is not a matter of modes on Windows")
	}
	dir := newDir(t)
	require.NoError(t, open(t, dir, local.Options{}).Close())
	for _, mode := range []fs.FileMode{0o701, 0o710, 0o740, 0o704, 0o750, 0o755, 0o770, 0o777} {
		t.Run(fmt.Sprintf("%o", mode), func(t *testing.T) {
			require.NoError(t, os.Chmod(dir, mode))
			_, err := local.Open(dir, local.Options{})
			assert.ErrorIs(t, err, local.ErrInsecure)
		})
	}
	require.NoError(t, os.Chmod(dir, 0o700))
	open(t, dir, local.Options{})

	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir, 12345, -1))
		_, err := local.Open(dir, local.Options{})
		assert.ErrorIs(t, err, local.ErrInsecure, "another user's directory")
	}
}

func TestPathThatIsNoDirectoryIsUnavailable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, dir := range map[string]string{
		"file":           file,
		"missing parent": filepath.Join(t.TempDir(), "a", "b"),
		"below a file":   filepath.Join(file, "keys"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := local.Open(dir, local.Options{})
			assert.ErrorIs(t, err, keys.ErrUnavailable)
		})
	}
}

func TestSwappedOrDamagedPatientFileIsDetected(t *testing.T) {
	spoil := map[string]func(t *testing.T, alice, bob string){
		"another patient's": func(t *testing.T, alice, bob string) { copyFile(t, bob, alice) },
		"link to another's": func(t *testing.T, alice, bob string) {
			require.NoError(t, os.Remove(alice))
			require.NoError(t, os.Symlink(filepath.Base(bob), alice))
		},
		"link out of the directory": func(t *testing.T, alice, _ string) {
			outside := filepath.Join(t.TempDir(), "outside")
			copyFile(t, alice, outside)
			require.NoError(t, os.Remove(alice))
			require.NoError(t, os.Symlink(outside, alice))
		},
		"the pseudonym key": func(t *testing.T, alice, _ string) {
			copyFile(t, filepath.Join(filepath.Dir(alice), "..", "pseudonym.json"), alice)
		},
		"empty":     func(t *testing.T, alice, _ string) { require.NoError(t, os.WriteFile(alice, nil, 0o600)) },
		"no keyset": func(t *testing.T, alice, _ string) { require.NoError(t, os.WriteFile(alice, []byte("{}"), 0o600)) },
		"cut": func(t *testing.T, alice, _ string) {
			require.NoError(t, os.Truncate(alice, 40))
		},
		"folder": func(t *testing.T, alice, _ string) {
			require.NoError(t, os.Remove(alice))
			require.NoError(t, os.Mkdir(alice, 0o700))
		},
		"one bit": func(t *testing.T, alice, _ string) {
			data, err := os.ReadFile(alice)
			require.NoError(t, err)
			data[60] ^= 1
			require.NoError(t, os.WriteFile(alice, data, 0o600))
		},
	}
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			keyring := open(t, dir, local.Options{})
			alice, bob := enrol(t, keyring, "alice-canary"), enrol(t, keyring, "bob")
			rec, grant := wrap(t, keyring, alice), issue(t, keyring, "alice-canary", 0)
			file := func(id keys.KeyID) string { return filepath.Join(dir, "patients", id.String()+".json") }
			spoil(t, file(alice), file(bob))

			_, wrapErr := keyring.Wrap(t.Context(), rec.binding, keys.NewKey())
			_, versionsErr := keyring.Versions(t.Context(), alice)
			_, enrolErr := keyring.Enrol(t.Context(), "alice-canary")
			for call, err := range map[string]error{
				"Wrap": wrapErr, "Versions": versionsErr, "Enrol": enrolErr,
				"Unwrap": unwrap(keyring, grant, rec), "Rotate": keyring.Rotate(t.Context(), alice),
			} {
				require.ErrorIs(t, err, keys.ErrUnavailable, call)
				assert.NotContains(t, err.Error(), "canary", call)
				if name != "folder" && name != "link out of the directory" {
					assert.ErrorIs(t, err, local.ErrDamaged, call)
				}
			}
			wrap(t, keyring, bob)
		})
	}
}

func TestDamagedPatientCanBeErased(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	id := enrol(t, keyring, "alice")
	require.NoError(t, os.Truncate(filepath.Join(dir, "patients", id.String()+".json"), 40))
	require.NoError(t, keyring.Erase(t.Context(), id))
	_, err := keyring.Versions(t.Context(), id)
	assert.ErrorIs(t, err, keys.ErrErased)
}

func TestDamagedGrantFileOpensNothing(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	for name, uses := range map[string]int{"unlimited": 0, "limited": 2} {
		t.Run(name, func(t *testing.T) {
			grant := issue(t, keyring, "alice", uses)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "grants", grant.Accessor()+".json"), []byte("{"), 0o600))
			assert.ErrorIs(t, unwrap(keyring, grant, rec), local.ErrDamaged)
			assert.ErrorIs(t, keyring.RevokeSelf(t.Context(), grant), local.ErrDamaged)
		})
	}
}

func TestDamagedKeyringDoesNotOpen(t *testing.T) {
	root := newRoot(t)
	for name, test := range map[string]struct {
		made, opened local.Options
		spoil        func(t *testing.T, dir string)
	}{
		"another root":          {made: local.Options{Root: root}, opened: local.Options{Root: newRoot(t)}},
		"root not given":        {made: local.Options{Root: root}},
		"root given afterwards": {opened: local.Options{Root: root}},
		"root key missing":      {spoil: func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "root.json"))) }},
		"root key empty":        {spoil: func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "root.json"), 0)) }},
		"pseudonym key missing": {spoil: func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "pseudonym.json"))) }},
		"signing key missing":   {spoil: func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "grants.json"))) }},
		"signing key as pseudonym key": {spoil: func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, "grants.json"), filepath.Join(dir, "pseudonym.json"))
		}},
		"pseudonym key as signing key": {spoil: func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, "pseudonym.json"), filepath.Join(dir, "grants.json"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			require.NoError(t, open(t, dir, test.made).Close())
			if test.spoil != nil {
				test.spoil(t, dir)
			}
			before := snapshot(t, dir)
			_, err := local.Open(dir, test.opened)
			assert.ErrorIs(t, err, local.ErrDamaged)
			assert.ErrorIs(t, err, keys.ErrUnavailable)
			assert.Equal(t, before, snapshot(t, dir), "a key was made or replaced")
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o600))
}

// snapshot returns the content of every file in the directory, by path.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	}))
	return files
}

// spyRoot is a root key that records the key material it encrypts.
type spyRoot struct {
	tink.AEAD
	t        *testing.T
	material [][]byte
}

func (s *spyRoot) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	keySet, err := keyset.NewBinaryReader(bytes.NewReader(plaintext)).Read()
	require.NoError(s.t, err)
	for _, key := range keySet.GetKey() {
		value := key.GetKeyData().GetValue()
		s.material = append(s.material, value[len(value)-16:])
	}
	return s.AEAD.Encrypt(plaintext, associatedData)
}

func TestNoSecretIsInClearUnderARoot(t *testing.T) {
	const patient = "alice-canary-943-476-5919"
	dir := newDir(t)
	root := &spyRoot{AEAD: newRoot(t), t: t}
	keyring := open(t, dir, local.Options{Root: root})
	id := enrol(t, keyring, patient)
	rec := wrap(t, keyring, id)
	require.NoError(t, keyring.Rotate(t.Context(), id))
	limited, unlimited := issue(t, keyring, patient, 3), issue(t, keyring, patient, 0)
	require.NoError(t, unwrap(keyring, limited, rec))
	require.Len(t, root.material, 5, "the pseudonym key, the signing key, and an envelope key with one version and then with two")

	secrets := append(root.material, rec.key, []byte(patient), []byte(limited.Token()), []byte(unlimited.Token()))
	for path, data := range snapshot(t, dir) {
		assert.False(t, holds(data, secrets), "%s holds a secret", path)
	}
	assert.NotContains(t, list(t, dir, "."), "root.json")

	// The search can find a secret.
	assert.True(t, holds("{"+base64.StdEncoding.EncodeToString(append([]byte("prefix"), root.material[0]...))+"}", secrets))
}

// holds reports whether a text contains a secret, unchanged, in hexadecimal, or in base64 at any offset.
func holds(text string, secrets [][]byte) bool {
	for _, secret := range secrets {
		if strings.Contains(text, string(secret)) || strings.Contains(text, hex.EncodeToString(secret)) {
			return true
		}
		for offset := range 3 {
			// Without its ends, the encoding is independent of the bytes around the secret.
			encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, offset), secret...))
			if strings.Contains(text, encoded[4:len(encoded)-4]) {
				return true
			}
		}
	}
	return false
}

// brokenRoot is a root key in a key management service that can fail.
type brokenRoot struct {
	tink.AEAD
	broken bool
}

func (b *brokenRoot) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	if b.broken {
		return nil, errors.New("key management service is down")
	}
	return b.AEAD.Encrypt(plaintext, associatedData)
}

func (b *brokenRoot) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	if b.broken {
		return nil, errors.New("key management service is down")
	}
	return b.AEAD.Decrypt(ciphertext, associatedData)
}

func TestUnreachableRootIsUnavailable(t *testing.T) {
	dir := newDir(t)
	root := &brokenRoot{AEAD: newRoot(t)}
	keyring := open(t, dir, local.Options{Root: root})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	grant := issue(t, keyring, "alice", 0)
	root.broken = true
	_, err := keyring.Enrol(t.Context(), "bob")
	assert.ErrorIs(t, err, keys.ErrUnavailable)
	assert.ErrorIs(t, unwrap(keyring, grant, rec), keys.ErrUnavailable)
	_, err = local.Open(dir, local.Options{Root: root})
	assert.ErrorIs(t, err, keys.ErrUnavailable)
	root.broken = false
	assert.NoError(t, unwrap(keyring, grant, rec))
}

func TestOpenRemovesTemporaryFilesOfACrash(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp", "leftover"), []byte("{"), 0o600))
	reopened := open(t, dir, local.Options{})
	assert.Empty(t, list(t, dir, "tmp"))
	assert.NoError(t, unwrap(reopened, issue(t, reopened, "alice", 0), rec))
}
