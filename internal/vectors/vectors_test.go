package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

var vectorsFile = filepath.Join("..", "..", folder, fileName)

func TestVectorsAreWhatIsGenerated(t *testing.T) {
	written, err := os.ReadFile(vectorsFile)
	require.NoError(t, err)
	if !bytes.Equal(generate().encode(), written) {
		t.Fatal("the format has drifted, or go run ./internal/vectors was not run after a change of the cases")
	}
}

func readVectors(t *testing.T) *file {
	t.Helper()
	written, err := os.ReadFile(vectorsFile)
	require.NoError(t, err)
	decoder := json.NewDecoder(bytes.NewReader(written))
	decoder.DisallowUnknownFields()
	var vectors file
	require.NoError(t, decoder.Decode(&vectors))
	return &vectors
}

func TestReaderAgreesWithEveryVector(t *testing.T) {
	vectors := readVectors(t)
	require.GreaterOrEqual(t, vectors.NumberOfTests, 120)
	n, comments := 0, map[string]bool{}
	for _, g := range vectors.TestGroups {
		for _, test := range g.Tests {
			n++
			require.Equal(t, n, test.TcID)
			require.False(t, comments[test.Comment], "%s: twice", test.Comment)
			comments[test.Comment] = true
			t.Run(fmt.Sprint(test.TcID), func(t *testing.T) {
				t.Parallel()
				require.NoError(t, checkTest(vectors, test), test.Comment)
				reader := newReader(t, test)
				for i, o := range test.Operations {
					got := reader.perform(o)
					require.NoError(t, got.compare(o), "%s: operation %d, %s", test.Comment, i+1, o.Op)
					for _, mutated := range mutations(t, o) {
						require.Error(t, got.compare(mutated), "unnoticed: operation %d is %s", i+1, compact(mutated))
					}
				}
			})
		}
	}
	require.Equal(t, vectors.NumberOfTests, n)
}

// mutations returns an expectation with each of its values altered in turn, and with each of its parts left out.
func mutations(t *testing.T, o operation) []operation {
	t.Helper()
	var mutated []operation
	var root map[string]any
	require.NoError(t, json.Unmarshal(compact(o), &root))
	keep := func() {
		var m operation
		require.NoError(t, json.Unmarshal(compact(root), &m))
		mutated = append(mutated, m)
	}
	var walk func(values map[string]any)
	walk = func(values map[string]any) {
		for _, name := range slices.Collect(maps.Keys(values)) {
			value := values[name]
			switch v := value.(type) {
			case map[string]any:
				walk(v)
				delete(values, name)
			case string:
				values[name] = v + "x"
			case float64:
				values[name] = v + 1
			case bool:
				values[name] = !v
			}
			keep()
			values[name] = value
		}
	}
	for _, input := range []string{"op", "offset", "length"} { // they are asked, not expected
		delete(root, input)
	}
	walk(root)
	for i := range mutated {
		mutated[i].Op, mutated[i].Offset, mutated[i].Length = o.Op, o.Offset, o.Length
	}
	require.NotEmpty(t, mutated)
	return mutated
}

// checkTest checks what a test says beside the outcomes.
func checkTest(vectors *file, test *test) error {
	result := "valid"
	for _, o := range test.Operations {
		if o.Class != "ok" {
			result = "invalid"
		}
	}
	if result != test.Result {
		return fmt.Errorf("the result is %s", result)
	}
	for _, flag := range test.Flags {
		if _, ok := vectors.Notes[flag]; !ok {
			return fmt.Errorf("flag %s has no note", flag)
		}
	}
	for _, o := range []*object{test.Envelope, test.Media} {
		if o == nil {
			continue
		}
		if data := o.bytes(); len(data) != o.Size || hex.EncodeToString(sum(data)) != o.SHA256 {
			return errors.New("an object has another size or digest than its parts")
		}
	}
	return nil
}

// reader opens the recording of one test through the public API, from a real store.
type reader struct {
	vault *vault.Vault
	test  *test
	grant keys.Grant
}

func newReader(t *testing.T, test *test) *reader {
	t.Helper()
	store, err := dir.Open(t.TempDir())
	require.NoError(t, err)
	r := &reader{test: test}
	r.vault, err = vault.New(answeringKeyring{test}, store,
		vault.WithKeyCache(0, 1), vault.WithEvents(events.New()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.vault.Close() })
	if test.Grant != nil {
		keyID, err := keys.ParseKeyID(test.Grant.KeyID)
		require.NoError(t, err)
		r.grant = keys.NewGrant(keys.GrantDetails{KeyID: keyID}, "a token")
	}
	id, err := vault.ParseID(test.ID)
	if err != nil {
		return r // there can be no object
	}
	for name, o := range map[string]*object{"envelope": test.Envelope, "media": test.Media} {
		if o == nil {
			continue
		}
		data := o.bytes()
		name = "recordings/" + id.KeyID().String() + "/" + id.Rec() + "/" + name
		_, err := store.Put(t.Context(), name, bytes.NewReader(data), int64(len(data)), storage.Condition{})
		require.NoError(t, err)
	}
	return r
}

// answeringKeyring gives the answers of a test, by the rules of docs/vectors/README.md.
type answeringKeyring struct{ test *test }

func (k answeringKeyring) Unwrap(
	_ context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey,
) (*keys.Key, error) {
	switch label, _, _, err := wrapped.Parse(); {
	case err != nil:
		return nil, err
	case label != "vault":
		return nil, keys.ErrUnsupported
	case grant.KeyID() != binding.KeyID():
		return nil, keys.ErrDenied
	}
	for _, answer := range k.test.Keyring {
		switch {
		case answer.Wrapped != string(wrapped) || answer.Context != binding.String():
			continue
		case answer.Error != "":
			return nil, answerErrors[answer.Error]
		}
		key, err := hex.DecodeString(*answer.Key)
		if err != nil {
			return nil, err
		}
		return keys.KeyFromBytes(key)
	}
	return nil, keys.ErrIntegrity
}

var answerErrors = map[string]error{
	"denied":        keys.ErrDenied,
	"invalid-grant": fmt.Errorf("%w: %w", keys.ErrInvalidGrant, keys.ErrDenied),
	"retired":       keys.ErrRetired,
	"not-enrolled":  keys.ErrNotEnrolled,
	"erased":        keys.ErrErased,
	"unavailable":   keys.ErrUnavailable,
	"damaged":       keys.ErrIntegrity,
}

var errReadsOnly = errors.New("the keyring of the vectors only unwraps")

func (answeringKeyring) KeyID(context.Context, keys.Patient) (keys.KeyID, error) {
	return keys.KeyID{}, errReadsOnly
}
func (answeringKeyring) ClaimStore(context.Context, keys.StoreID) error { return errReadsOnly }
func (answeringKeyring) CheckGrant(context.Context, keys.Grant) error   { return errReadsOnly }
func (answeringKeyring) RevokeSelf(context.Context, keys.Grant) error   { return errReadsOnly }
func (answeringKeyring) Wrap(context.Context, keys.Binding, *keys.Key) (keys.WrappedKey, error) {
	return "", errReadsOnly
}

// outcome is what an operation gave.
type outcome struct {
	class string
	err   error
	info  vault.Info
	plain []byte // with an error, what was released before it
}

// compare returns an error unless everything is as expected.
func (got outcome) compare(want operation) error {
	if got.class != want.Class {
		return fmt.Errorf("class %s, want %s (%w)", got.class, want.Class, got.err)
	}
	if got.err != nil {
		if want.Metadata != nil || want.Plain != nil {
			return errors.New("metadata and plaintext are expected of an error")
		}
		return sameDigest(want.Released, got.plain, true)
	}
	if want.Released != nil {
		return errors.New("plaintext before an error is expected, and there was no error")
	}
	if err := sameMetadata(want.Metadata, got.info, want.Op == "range"); err != nil {
		return err
	}
	return sameDigest(want.Plain, got.plain, want.Op == "stat")
}

func (r *reader) perform(o operation) outcome {
	info, plain, err := r.read(o)
	return outcome{r.class(err), err, info, plain}
}

func (r *reader) read(o operation) (info vault.Info, plain []byte, err error) {
	id, err := vault.ParseID(r.test.ID)
	if err != nil {
		return vault.Info{}, nil, err
	}
	ctx := context.Background()
	if o.Op == "stat" {
		info, err = r.vault.Stat(ctx, r.grant, id)
		return info, nil, err
	}
	var options []vault.OpenOption
	if o.Op == "range" {
		options = append(options, vault.WithOffset(*o.Offset))
	}
	recording, err := r.vault.Open(ctx, r.grant, id, options...)
	if err != nil {
		return vault.Info{}, nil, err
	}
	defer recording.Close()
	if o.Op == "open" {
		plain, err = io.ReadAll(recording)
		return recording.Info(), plain, err
	}
	plain = make([]byte, *o.Length)
	n, err := recording.ReadAt(plain, *o.Offset)
	if err != nil && err != io.EOF {
		return vault.Info{}, nil, err // a range is read whole or not at all
	}
	return vault.Info{}, plain[:n], nil
}

// class returns the class of docs/format.md, section 9, for an error.
func (r *reader) class(err error) string {
	for _, c := range []struct {
		class string
		err   error
	}{
		{"invalid-id", keys.ErrInvalidRecordingID},
		{"invalid-grant", keys.ErrInvalidGrant},
		{"not-found", vault.ErrNotFound},
		{"unsupported", vault.ErrUnsupported},
		{"damaged", vault.ErrDamaged},
		{"retired", keys.ErrRetired},
		{"not-enrolled", keys.ErrNotEnrolled},
		{"erased", keys.ErrErased},
		{"unavailable", keys.ErrUnavailable},
		{"denied", keys.ErrDenied},
	} {
		if !errors.Is(err, c.err) {
			continue
		}
		if c.class == "denied" && !strings.HasPrefix(r.test.ID, r.grant.KeyID().String()) {
			return "wrong-patient"
		}
		return c.class
	}
	if err != nil {
		return "an error without a class"
	}
	return "ok"
}

// sameDigest compares plaintext. Where none is expected, there may be no digest.
func sameDigest(want *digest, got []byte, none bool) error {
	switch {
	case want == nil && none && len(got) == 0:
		return nil
	case want == nil:
		return errors.New("no plaintext to compare with")
	case *want != *digestOf(got):
		return fmt.Errorf("%d bytes, SHA-256 %x, want %d and %s", len(got), sum(got), want.Length, want.SHA256)
	}
	return nil
}

func sameMetadata(want *metadata, got vault.Info, none bool) error {
	if want == nil && none {
		return nil
	} else if want == nil || none {
		return errors.New("no metadata to compare with")
	}
	instant := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return time.Time{}
		}
		return at
	}
	if want.ContentType != got.ContentType || want.Title != got.Title || want.Truncated != got.Truncated ||
		time.Duration(want.DurationMS)*time.Millisecond != got.Duration || !maps.Equal(want.Attributes, got.Attributes) ||
		!instant(want.RecordedAt).Equal(got.RecordedAt) || !instant(want.CreatedAt).Equal(got.CreatedAt) ||
		want.Revision != got.Revision || want.PlaintextLength != got.Size {
		return fmt.Errorf("metadata %+v, want %+v", got, *want)
	}
	return nil
}

func TestWorkedExampleIsThatOfTheSpecification(t *testing.T) {
	specification, err := os.ReadFile(filepath.Join("..", "..", "docs", "format.md"))
	require.NoError(t, err)
	require.Contains(t, string(specification), "```text\n"+newWorkedExample().text()+"```\n")
	assertClassesAreThoseOfTheSpecification(t, string(specification))
}

func assertClassesAreThoseOfTheSpecification(t *testing.T, specification string) {
	t.Helper()
	_, table, _ := strings.Cut(specification, "| Class | Meaning | In Go |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var classes []string
	for row := range strings.SplitSeq(table, "\n") {
		classes = append(classes, strings.Split(row, "`")[1])
	}
	require.Equal(t, classNames, classes)
}
