package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

func TestBadInputGetsATypedErrorAndWritesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		writer, server := b.vaultOf(t, b.writer), b.vaultOf(t, b.server)
		broken := errors.New("camera unplugged")
		big := strings.Repeat("x", 40_000)
		for name, c := range map[string]struct {
			patient  keys.Patient
			r        io.Reader
			metadata vault.Metadata
			options  []vault.PutOption
			want     error
		}{
			"empty patient":           {patient: "", want: keys.ErrInvalidPatient},
			"oversized patient":       {patient: keys.Patient(big), want: keys.ErrInvalidPatient},
			"patient not UTF-8":       {patient: "\xff", want: keys.ErrInvalidPatient},
			"patient not enrolled":    {patient: "nobody", want: keys.ErrNotEnrolled},
			"bad content type":        {patient: alice, metadata: vault.Metadata{ContentType: "video\r\nX: y"}, want: vault.ErrInvalidMetadata},
			"oversized content type":  {patient: alice, metadata: vault.Metadata{ContentType: "video/" + big}, want: vault.ErrInvalidMetadata},
			"oversized title":         {patient: alice, metadata: vault.Metadata{Title: big}, want: vault.ErrInvalidMetadata},
			"title not UTF-8":         {patient: alice, metadata: vault.Metadata{Title: "\xff"}, want: vault.ErrInvalidMetadata},
			"negative duration":       {patient: alice, metadata: vault.Metadata{Duration: -1}, want: vault.ErrInvalidMetadata},
			"year 10000":              {patient: alice, metadata: vault.Metadata{RecordedAt: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}, want: vault.ErrInvalidMetadata},
			"oversized attributes":    {patient: alice, metadata: vault.Metadata{Attributes: map[string]string{"x": big}}, want: vault.ErrInvalidMetadata},
			"attribute without name":  {patient: alice, metadata: vault.Metadata{Attributes: map[string]string{"": "x"}}, want: vault.ErrInvalidMetadata},
			"attributes of escapes":   {patient: alice, metadata: vault.Metadata{Attributes: map[string]string{"x": strings.Repeat("\x01", 30_000)}}, want: vault.ErrInvalidMetadata},
			"failing reader":          {patient: alice, r: io.MultiReader(bytes.NewReader(make([]byte, 200_000)), iotest.ErrReader(broken)), want: broken},
			"fewer than announced":    {patient: alice, options: []vault.PutOption{vault.WithSize(1000)}, want: storage.ErrSize},
			"more than announced":     {patient: alice, options: []vault.PutOption{vault.WithSize(1)}, want: storage.ErrSize},
			"larger than the format":  {patient: alice, options: []vault.PutOption{vault.WithSize(1 << 60)}, want: storage.ErrTooLarge},
			"none announced, failing": {patient: alice, r: unsized{iotest.ErrReader(broken)}, want: broken},
		} {
			t.Run(name, func(t *testing.T) {
				r := c.r
				if r == nil {
					r = unsized{strings.NewReader("a consultation")}
				}
				id, err := writer.Put(t.Context(), c.patient, r, c.metadata, c.options...)
				require.ErrorIs(t, err, c.want)
				assert.True(t, id.IsZero())
				assert.NotContains(t, err.Error(), "xxxx")
				if errors.Is(c.want, vault.ErrInvalidMetadata) || errors.Is(c.want, keys.ErrInvalidPatient) {
					_, err = writer.Create(t.Context(), c.patient, c.metadata)
					assert.ErrorIs(t, err, c.want)
				}
			})
		}
		assert.Empty(t, b.Names(t))
		assert.Empty(t, b.Uploads(t))

		grant := b.Grant(t, alice)
		unknown := keystest.NewRecordingID(grant.KeyID())
		_, err := server.Open(t.Context(), grant, unknown)
		require.ErrorIs(t, err, vault.ErrNotFound)
		_, err = server.Stat(t.Context(), grant, unknown)
		require.ErrorIs(t, err, vault.ErrNotFound)
		_, err = server.Open(t.Context(), grant, vault.ID{})
		require.ErrorIs(t, err, keys.ErrInvalidRecordingID)
		for _, text := range []string{"", ".", "x", "../../etc/passwd", grant.KeyID().String(), unknown.String() + "\n", strings.ToUpper(unknown.String()), "*." + unknown.Rec()} {
			_, err = vault.ParseID(text)
			assert.ErrorIs(t, err, keys.ErrInvalidRecordingID, "%q", text)
		}

		id := b.put(t, alice, []byte("Alice's consultation"))
		_, err = server.Open(t.Context(), keys.Grant{}, id)
		require.ErrorIs(t, err, keys.ErrInvalidGrant)
		_, err = server.Open(t.Context(), keys.NewGrant(grant.Details(), "nonsense"), id)
		require.ErrorIs(t, err, keys.ErrInvalidGrant)

		once, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{TTL: time.Minute, MaxUses: 1, Subject: "dr-lee", Purpose: keys.Treatment})
		require.NoError(t, err)
		_, err = b.open(t, once, id)
		require.NoError(t, err)
		_, err = b.open(t, once, id)
		require.ErrorIs(t, err, keys.ErrInvalidGrant, "exhausted")
		require.ErrorIs(t, err, keys.ErrDenied, "exhausted")

		short, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{TTL: time.Second, Subject: "dr-lee", Purpose: keys.Treatment})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err = b.open(t, short, id)
			return err != nil
		}, 10*time.Second, 20*time.Millisecond)
		require.ErrorIs(t, err, keys.ErrInvalidGrant, "expired")
		require.ErrorIs(t, err, keys.ErrDenied, "expired")

		require.NoError(t, b.server.RevokeSelf(t.Context(), grant))
		_, err = b.open(t, grant, id)
		require.ErrorIs(t, err, keys.ErrInvalidGrant, "revoked")
		require.ErrorIs(t, err, keys.ErrDenied, "revoked")
	})
}

// meeting is a keyring in which each Wrap waits for another one.
type meeting struct {
	vault.Keyring
	met chan struct{}
}

func (k meeting) Wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	select {
	case k.met <- struct{}{}:
	case <-k.met:
	case <-time.After(10 * time.Second):
		return "", errors.New("there is no other call")
	}
	return k.Keyring.Wrap(ctx, binding, key)
}

func TestPutMakesItsTwoWrapsSideBySide(t *testing.T) {
	b := embedded(t)
	v := b.vaultOf(t, meeting{b.writer, make(chan struct{})})
	_, err := v.Put(t.Context(), b.enrol(t), strings.NewReader("a consultation"), metadata())
	require.NoError(t, err)
}

func TestFilesReportTheirSize(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	path := filepath.Join(t.TempDir(), "video")
	data := random(t, 100_000)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Seek(500, io.SeekStart)
	require.NoError(t, err)
	var announced int64
	v, err := vault.New(b.writer, &sizes{b.Store, &announced})
	require.NoError(t, err)
	id, err := v.Put(t.Context(), alice, file, metadata())
	require.NoError(t, err)
	assert.Equal(t, segment.CiphertextSize(99_500), announced)
	got, err := b.open(t, b.Grant(t, alice), id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data[500:], got))

	// Files in /proc report a size of 0 and are not empty.
	proc, err := os.Open("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	defer proc.Close()
	id, err = v.Put(t.Context(), alice, proc, metadata())
	require.NoError(t, err)
	got, err = b.open(t, b.Grant(t, alice), id)
	require.NoError(t, err)
	assert.NotEmpty(t, got)
}

// sizes records the size that Put is given for media.
type sizes struct {
	storage.Store
	announced *int64
}

func (s *sizes) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if strings.HasSuffix(name, "/media") {
		*s.announced = size
	}
	return s.Store.Put(ctx, name, r, size, condition)
}

func TestACancelledPutStopsAndLeavesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		writer := b.vaultOf(t, b.writer)
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		for _, after := range []int64{0, 1, firstSegment + 1, 17 << 20, 40 << 20} {
			ctx, cancel := context.WithCancel(t.Context())
			source := &pattern{left: after + 64<<20}
			r := readerFunc(func(p []byte) (int, error) {
				if source.at >= after {
					cancel()
				}
				return source.Read(p)
			})
			start := time.Now()
			_, err := writer.Put(ctx, alice, r, metadata())
			require.ErrorIs(t, err, context.Canceled, "after %d bytes", after)
			assert.Less(t, time.Since(start), 20*time.Second)
		}
		assert.Empty(t, b.Names(t))
		assert.Empty(t, b.Uploads(t))
		b.assertNoLeak(t, ignore)
	})
}

func TestAnAbortedOrCancelledWriterLeavesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		writer := b.vaultOf(t, b.writer)
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		for _, size := range []int{0, 1, 100_000, 20 << 20} {
			w, err := writer.Create(t.Context(), alice, metadata())
			require.NoError(t, err)
			_, err = w.Write(make([]byte, size))
			require.NoError(t, err)
			w.Abort()
			w.Abort()
			require.ErrorIs(t, w.Close(), vault.ErrAborted)
			require.ErrorIs(t, w.SetMetadata(metadata()), vault.ErrClosed)
			_, err = w.Write([]byte("x"))
			require.ErrorIs(t, err, vault.ErrAborted)

			ctx, cancel := context.WithCancel(t.Context())
			w, err = writer.Create(ctx, alice, metadata())
			require.NoError(t, err)
			_, err = w.Write(make([]byte, size))
			require.NoError(t, err)
			cancel() // while the store waits for more
			require.Eventually(t, func() bool {
				_, err = w.Write([]byte("x"))
				return err != nil
			}, 10*time.Second, time.Millisecond)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, w.Close(), context.Canceled)
		}
		assert.Empty(t, b.Names(t))
		assert.Empty(t, b.Uploads(t))
		b.assertNoLeak(t, ignore)
	})
}
