package vault_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

const (
	fullSegment  = segment.Size - 16
	firstSegment = fullSegment - segment.HeaderSize
)

func TestARecordingOpensByteIdenticallyWithItsPatientsGrant(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.grant(t, alice)
		writer, server := b.vaultOf(t, b.writer), b.vaultOf(t, b.server)
		data := random(t, firstSegment+2*fullSegment+1)
		for _, size := range []int{
			0, 1, 15, 16, 17, firstSegment - 1, firstSegment, firstSegment + 1,
			firstSegment + fullSegment - 1, firstSegment + fullSegment, firstSegment + fullSegment + 1,
			firstSegment + 2*fullSegment, firstSegment + 2*fullSegment + 1,
		} {
			want := data[:size]
			for name, put := range map[string]func() (vault.ID, error){
				"known size": func() (vault.ID, error) {
					return writer.Put(t.Context(), alice, bytes.NewReader(want), metadata())
				},
				"announced size": func() (vault.ID, error) {
					return writer.Put(t.Context(), alice, unsized{bytes.NewReader(want)}, metadata(), vault.WithSize(int64(size)))
				},
				"unknown size": func() (vault.ID, error) {
					return writer.Put(t.Context(), alice, unsized{iotest.HalfReader(bytes.NewReader(want))}, metadata())
				},
				"created": func() (vault.ID, error) {
					w, err := writer.Create(t.Context(), alice, vault.Metadata{})
					require.NoError(t, err)
					for piece := range slices.Chunk(want, 50_000) {
						n, err := w.Write(piece)
						require.NoError(t, err)
						require.Equal(t, len(piece), n)
					}
					require.NoError(t, w.SetMetadata(metadata()))
					err = w.Close()
					require.NoError(t, w.Close(), "a second Close")
					w.Abort()
					return w.ID(), err
				},
			} {
				id, err := put()
				require.NoError(t, err, "%s %d", name, size)
				recording, err := server.Open(t.Context(), grant, id)
				require.NoError(t, err, "%s %d", name, size)
				got, err := io.ReadAll(recording)
				require.NoError(t, err, "%s %d", name, size)
				require.True(t, bytes.Equal(want, got), "%s %d", name, size)

				info := recording.Info()
				assert.Equal(t, metadata(), info.Metadata)
				assert.Equal(t, id, info.ID)
				assert.EqualValues(t, size, info.Size)
				assert.EqualValues(t, size, recording.Size())
				assert.WithinDuration(t, time.Now(), info.CreatedAt, time.Minute)
				stat, err := server.Stat(t.Context(), grant, id)
				require.NoError(t, err)
				assert.Equal(t, info, stat)

				require.NoError(t, recording.Close())
				require.NoError(t, recording.Close())
				_, err = recording.Read(make([]byte, 1))
				require.ErrorIs(t, err, vault.ErrClosed)
			}
		}
		assert.Empty(t, b.Uploads(t))
	})
}

func TestARecordingIsAReaderASeekerAReaderAtAndAWriterTo(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := random(t, firstSegment+3*fullSegment+99)
		id := b.put(t, alice, data)
		recording, err := b.vaultOf(t, b.server).Open(t.Context(), b.grant(t, alice), id)
		require.NoError(t, err)
		defer recording.Close()
		_, err = recording.Seek(int64(firstSegment+fullSegment-3), io.SeekStart)
		require.NoError(t, err)
		var rest bytes.Buffer
		_, err = recording.WriteTo(&rest)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data[firstSegment+fullSegment-3:], rest.Bytes()))
		p := make([]byte, 70_000)
		_, err = recording.ReadAt(p, 65_000)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data[65_000:135_000], p))
		_, err = recording.Seek(0, io.SeekStart)
		require.NoError(t, err)
		// Small reads, of a part, as the whole is long.
		require.NoError(t, iotest.TestReader(io.NewSectionReader(recording, firstSegment-500, 1000), data[firstSegment-500:firstSegment+500]))
	})
}

func TestAGigabyteOpensByteIdentically(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	const size = 1 << 30
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, unsized{&pattern{left: size}}, metadata())
	require.NoError(t, err)
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), b.grant(t, alice), id)
	require.NoError(t, err)
	defer recording.Close()
	require.EqualValues(t, size, recording.Size())
	want, buffer, expected := &pattern{left: size}, make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(recording, buffer)
		_, _ = io.ReadFull(want, expected[:n])
		require.True(t, bytes.Equal(expected[:n], buffer[:n]))
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	assert.Zero(t, want.left)
}

// pattern yields bytes that tell where they are from.
type pattern struct {
	at, left int64
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.left))
	for i := range n {
		at := p.at + int64(i)
		b[i] = byte(at ^ at>>8 ^ at>>16 ^ at>>24)
	}
	p.at += int64(n)
	p.left -= int64(n)
	return n, nil
}

func TestAGrantForBobDoesNotOpenAlicesRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		own := b.put(t, bob, []byte("Bob's consultation"))
		grant := b.grant(t, bob)
		for range 2 {
			_, err := b.open(t, grant, id)
			require.ErrorIs(t, err, keys.ErrDenied)
			require.NotErrorIs(t, err, keys.ErrInvalidGrant)
		}
		_, err := b.vaultOf(t, b.server).Stat(t.Context(), grant, id)
		require.ErrorIs(t, err, keys.ErrDenied)
		got, err := b.open(t, grant, own)
		require.NoError(t, err)
		assert.Equal(t, "Bob's consultation", string(got))
	})
}

func TestARefusedAttemptIsInVaultsAuditLogWithWhoWhyAndWhich(t *testing.T) {
	b := servers(t)
	alice, bob := b.enrol(t), b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	_, err := b.open(t, b.grant(t, bob), id)
	require.ErrorIs(t, err, keys.ErrDenied)
	_, err = b.open(t, b.grant(t, alice), id)
	require.NoError(t, err)

	var refused, allowed int
	for _, entry := range b.vault.Audit(t) {
		if entry.Request.Path != b.vault.Mount()+"/decrypt/"+id.KeyID().String()+"-kek" {
			continue
		}
		assert.Equal(t, "dr-lee", entry.Auth.Metadata["subject"])
		assert.Equal(t, "TREAT", entry.Auth.Metadata["purpose"])
		assert.Equal(t, "request-1", entry.Auth.Metadata["request_id"])
		binding, err := base64.StdEncoding.DecodeString(fmt.Sprint(entry.Request.Data["context"]))
		require.NoError(t, err)
		assert.Equal(t, id.Binding().String(), string(binding))
		if entry.Error == "" {
			allowed++
		} else {
			assert.Contains(t, entry.Error, "permission denied")
			refused++
		}
	}
	assert.Positive(t, refused)
	assert.Positive(t, allowed)
}

// Nobody but a grant opens anything: the tokens of the processes themselves are tried as grants.
func TestNoProcessCanDecryptWithItsOwnRights(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	for _, role := range []string{"enroller", "writer", "granter", "revoker", "rotator", "retirer", "trimmer", "eraser", "auditor"} {
		secret, err := b.vault.Client(b.vault.RootToken()).Logical().WriteWithContext(t.Context(), "auth/token/create-orphan", map[string]any{
			"policies": []string{b.vault.Prefix() + "-" + role}, "no_default_policy": true,
		})
		require.NoError(t, err)
		own := keys.NewGrant(keys.GrantDetails{KeyID: id.KeyID()}, secret.Auth.ClientToken)
		_, err = b.open(t, own, id)
		assert.ErrorIs(t, err, keys.ErrDenied, role)
	}
	// Not even the admin's keyring opens anything without a grant: it never uses its own token for it.
	_, err := b.vaultOf(t, b.admin).Open(t.Context(), keys.NewGrant(keys.GrantDetails{}, "hvs.nonsense"), id)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.ErrorIs(t, err, keys.ErrInvalidGrant)
	_, err = b.vaultOf(t, b.admin).Open(t.Context(), keys.Grant{}, id)
	require.ErrorIs(t, err, keys.ErrInvalidGrant)
}

func TestWhatIsNotWhatWasWrittenForThisIDIsDamaged(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		grant := b.grant(t, alice)
		data := random(t, firstSegment+2*fullSegment+500)
		id, sibling, foreign := b.put(t, alice, data), b.put(t, alice, random(t, len(data))), b.put(t, bob, random(t, len(data)))
		sealed, media := teststore.Read(t, b.store, objectName(id, "envelope")), teststore.Read(t, b.store, objectName(id, "media"))
		part := func(of vault.ID, name string) []byte { return teststore.Read(t, b.store, objectName(of, name)) }
		// rename makes an envelope of another recording claim to be of this one.
		edit := func(text []byte, change func(fields map[string]any)) []byte {
			var fields map[string]any
			require.NoError(t, json.Unmarshal(text, &fields))
			change(fields)
			return fmt.Appendf(nil, `{"version":1,"id":"%s","wrapped_key":"%s","commitment":"%s","metadata":"%s"}`,
				fields["id"], fields["wrapped_key"], fields["commitment"], fields["metadata"])
		}
		rename := func(text []byte) []byte { return edit(text, func(f map[string]any) { f["id"] = id.String() }) }
		with := func(field string, of vault.ID) []byte {
			var other map[string]any
			require.NoError(t, json.Unmarshal(part(of, "envelope"), &other))
			return edit(sealed, func(f map[string]any) { f[field] = other[field] })
		}
		flip := func(data []byte, at int) []byte {
			flipped := bytes.Clone(data)
			flipped[at] ^= 4
			return flipped
		}
		swapped := bytes.Clone(media)
		copy(swapped[segment.Size:], media[2*segment.Size:])
		type change struct {
			name            string
			envelope, media []byte
		}
		for _, c := range []change{
			{"envelope of a sibling", part(sibling, "envelope"), media},
			{"envelope of another patient", part(foreign, "envelope"), media},
			{"envelope of a sibling, renamed", rename(part(sibling, "envelope")), media},
			{"envelope of another patient, renamed", rename(part(foreign, "envelope")), media},
			{"wrapped key of a sibling", with("wrapped_key", sibling), media},
			{"wrapped key of another patient", with("wrapped_key", foreign), media},
			{"commitment of a sibling", with("commitment", sibling), media},
			{"metadata of a sibling", with("metadata", sibling), media},
			{"envelope and media of a sibling", part(sibling, "envelope"), part(sibling, "media")},
			{"envelope and media of a sibling, renamed", rename(part(sibling, "envelope")), part(sibling, "media")},
			{"envelope cut", sealed[:len(sealed)/2], media},
			{"envelope empty", []byte{}, media},
			{"envelope extended", append(bytes.Clone(sealed), ' '), media},
			{"envelope too large", bytes.Repeat(sealed, 100), media},
			{"envelope flipped", flip(sealed, len(sealed)-10), media},
			{"media of a sibling", sealed, part(sibling, "media")},
			{"media of another patient", sealed, part(foreign, "media")},
			{"media empty", sealed, []byte{}},
			{"media cut by a byte", sealed, media[:len(media)-1]},
			{"media cut at a segment", sealed, media[:2*segment.Size]},
			{"media cut at a segment plus one", sealed, media[:2*segment.Size+1]},
			{"media extended", sealed, append(bytes.Clone(media), 0)},
			{"media extended by a segment", sealed, append(bytes.Clone(media), media[segment.Size:2*segment.Size]...)},
			{"media reordered", sealed, swapped},
			{"media header flipped", sealed, flip(media, 5)},
			{"media flipped at the start", sealed, flip(media, 100)},
			{"media flipped in the middle", sealed, flip(media, segment.Size+100)},
			{"media flipped at the end", sealed, flip(media, len(media)-1)},
			{"media with its start from a sibling", sealed, append(bytes.Clone(part(sibling, "media")[:segment.Size]), media[segment.Size:]...)},
		} {
			teststore.Write(t, b.store, objectName(id, "envelope"), c.envelope)
			teststore.Write(t, b.store, objectName(id, "media"), c.media)
			got, err := b.open(t, grant, id)
			assert.ErrorIs(t, err, vault.ErrDamaged, c.name)
			assert.True(t, bytes.HasPrefix(data, got), "%s: something else came out", c.name)
			if strings.HasPrefix(c.name, "envelope") {
				assert.Empty(t, got, c.name)
			}
		}
		require.NoError(t, b.store.Delete(t.Context(), objectName(id, "media")))
		teststore.Write(t, b.store, objectName(id, "envelope"), sealed)
		_, err := b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrDamaged, "media missing")

		teststore.Write(t, b.store, objectName(id, "media"), media)
		got, err := b.open(t, grant, id)
		require.NoError(t, err, "all put back")
		assert.True(t, bytes.Equal(data, got))
	})
}

func TestAnErasedPatientsRecordingsStayLost(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		sealed, media := teststore.Read(t, b.store, objectName(id, "envelope")), teststore.Read(t, b.store, objectName(id, "media"))
		grant := b.grant(t, alice)
		require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
		require.NoError(t, b.admin.Erase(t.Context(), id.KeyID()))

		// The old objects come back from a backup.
		teststore.Write(t, b.store, objectName(id, "envelope"), sealed)
		teststore.Write(t, b.store, objectName(id, "media"), media)
		_, err := b.open(t, grant, id)
		require.ErrorIs(t, err, keys.ErrErased)
		_, err = b.vaultOf(t, b.writer).Put(t.Context(), alice, strings.NewReader("x"), vault.Metadata{})
		require.ErrorIs(t, err, keys.ErrErased)

		// Enrolled anew, the patient has another key.
		_, err = b.admin.Enrol(t.Context(), alice)
		require.NoError(t, err)
		_, err = b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		again := b.put(t, alice, []byte("a new consultation"))
		got, err := b.open(t, b.grant(t, alice), again)
		require.NoError(t, err)
		assert.Equal(t, "a new consultation", string(got))
	})
}

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
			r := c.r
			if r == nil {
				r = unsized{strings.NewReader("a consultation")}
			}
			id, err := writer.Put(t.Context(), c.patient, r, c.metadata, c.options...)
			assert.ErrorIs(t, err, c.want, name)
			assert.True(t, id.IsZero(), name)
			assert.NotContains(t, err.Error(), "xxxx", name)
			if errors.Is(c.want, vault.ErrInvalidMetadata) || errors.Is(c.want, keys.ErrInvalidPatient) {
				_, err = writer.Create(t.Context(), c.patient, c.metadata)
				assert.ErrorIs(t, err, c.want, name)
			}
		}
		assert.Empty(t, teststore.Names(t, b.store, ""))
		assert.Empty(t, b.Uploads(t))

		grant := b.grant(t, alice)
		unknown := keys.NewRecordingID(grant.KeyID())
		_, err := server.Open(t.Context(), grant, unknown)
		require.ErrorIs(t, err, vault.ErrNotFound)
		_, err = server.Stat(t.Context(), grant, unknown)
		require.ErrorIs(t, err, vault.ErrNotFound)
		_, err = server.Open(t.Context(), grant, vault.ID{})
		require.ErrorIs(t, err, keys.ErrInvalidRecordingID)
		for _, text := range []string{"", ".", "x", "../../etc/passwd", grant.KeyID().String(), unknown.String() + "\n", strings.ToUpper(unknown.String()), "*." + unknown.Rec()} {
			_, err = vault.ParseID(text)
			assert.ErrorIs(t, err, keys.ErrInvalidRecordingID, text)
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
			require.ErrorIs(t, err, context.Canceled, "after %d", after)
			assert.Less(t, time.Since(start), 20*time.Second)
		}
		assert.Empty(t, teststore.Names(t, b.store, ""))
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
		assert.Empty(t, teststore.Names(t, b.store, ""))
		assert.Empty(t, b.Uploads(t))
		b.assertNoLeak(t, ignore)
	})
}

func TestACancelledReaderStops(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.grant(t, alice)
		id := b.put(t, alice, make([]byte, 8<<20))
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		ctx, cancel := context.WithCancel(t.Context())
		recording, err := b.vaultOf(t, b.server).Open(ctx, grant, id)
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, recording, 1<<20)
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, recording)
		require.ErrorIs(t, err, context.Canceled)
		_, err = recording.ReadAt(make([]byte, 10), 7<<20)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, recording.Close())
		_, err = b.vaultOf(t, b.server).Open(ctx, grant, id)
		require.ErrorIs(t, err, context.Canceled)
		b.assertNoLeak(t, ignore)
	})
}

// A watcher may close what another goroutine is reading, as at a logout.
func TestCloseDuringReadHandsOutNothingElse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.grant(t, alice)
		data := random(t, 3<<20)
		id := b.put(t, alice, data)
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		server := b.vaultOf(t, b.server)
		for i := range 30 {
			recording, err := server.Open(t.Context(), grant, id)
			require.NoError(t, err)
			var got bytes.Buffer
			done := make(chan error)
			go func() {
				var err error
				if i%2 == 0 {
					_, err = recording.WriteTo(&got)
				} else {
					_, err = io.Copy(&got, onlyReader{recording})
				}
				done <- err
			}()
			if i%3 > 0 {
				time.AfterFunc(time.Duration(i)*200*time.Microsecond, func() { _ = recording.Close() })
			} else {
				_ = recording.Close()
			}
			if err := <-done; err != nil {
				require.True(t, errors.Is(err, vault.ErrClosed) || errors.Is(err, context.Canceled), "%v", err)
			}
			require.True(t, bytes.HasPrefix(data, got.Bytes()), "something else came out")
			require.NoError(t, recording.Close())
		}
		require.NoError(t, server.Close())
		b.assertNoLeak(t, ignore)
	})
}

type onlyReader struct{ io.Reader }

// assertNoLeak looks for goroutines, once the idle connections of the backend's own clients are closed.
func (b *backend) assertNoLeak(t *testing.T, ignore goleak.Option) {
	t.Helper()
	b.CloseIdle()
	assert.NoError(t, goleak.Find(ignore))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAnUploadThatOutlastsTheFreshnessWindowWrapsAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		put := func(v *vault.Vault) (vault.ID, int) {
			before, err := b.writer.KeyID(t.Context(), alice)
			require.NoError(t, err)
			var rotated bool
			id, err := v.Put(t.Context(), alice, readerFunc(func([]byte) (int, error) {
				if !rotated {
					assert.NoError(t, b.admin.Rotate(t.Context(), before))
					rotated = true
				}
				return 0, io.EOF
			}), metadata())
			require.NoError(t, err)
			var fields struct {
				Wrapped keys.WrappedKey `json:"wrapped_key"`
			}
			require.NoError(t, json.Unmarshal(teststore.Read(t, b.store, objectName(id, "envelope")), &fields))
			version, err := fields.Wrapped.Version()
			require.NoError(t, err)
			return id, version
		}
		quick, version := put(b.vaultOf(t, b.writer))
		assert.Equal(t, 1, version, "within the window, the first wrap is kept")
		slow, version := put(b.vaultOf(t, b.writer, vault.WithFreshness(time.Nanosecond)))
		assert.Equal(t, 3, version, "after the window, the newest version wraps")
		for _, id := range []vault.ID{quick, slow} {
			_, err := b.open(t, b.grant(t, alice), id)
			require.NoError(t, err)
		}
	})
}

// faulty is a real store whose answers get lost.
type faulty struct {
	storage.Store
	put func(name string, store func() (storage.Info, error)) (storage.Info, error)
}

func (f *faulty) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	return f.put(name, func() (storage.Info, error) { return f.Store.Put(ctx, name, r, size, condition) })
}

func TestACommitWhoseAnswerIsLostIsLookedUpAndNeverLosesARecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		lost := fmt.Errorf("%w: connection reset", storage.ErrUnavailable)
		for name, c := range map[string]struct {
			answer func(store func() (storage.Info, error)) (storage.Info, error)
			check  func(id vault.ID, err error)
		}{
			"done, answer lost": {
				func(store func() (storage.Info, error)) (storage.Info, error) {
					_, err := store()
					require.NoError(t, err)
					return storage.Info{}, lost
				},
				func(id vault.ID, err error) {
					require.NoError(t, err)
					got, err := b.open(t, b.grant(t, alice), id)
					require.NoError(t, err)
					assert.Equal(t, "a consultation", string(got))
				},
			},
			"done, repeated and found": {
				func(store func() (storage.Info, error)) (storage.Info, error) {
					_, err := store()
					require.NoError(t, err)
					return storage.Info{}, storage.ErrExists
				},
				func(_ vault.ID, err error) { require.NoError(t, err) },
			},
			"not done, answer lost": {
				func(func() (storage.Info, error)) (storage.Info, error) { return storage.Info{}, lost },
				func(_ vault.ID, err error) {
					var uncertain *vault.UncertainError
					require.ErrorAs(t, err, &uncertain)
					require.ErrorIs(t, err, storage.ErrUnavailable)
					_, err = b.open(t, b.grant(t, alice), uncertain.ID)
					require.ErrorIs(t, err, vault.ErrNotFound)
					_, err = b.store.Stat(t.Context(), objectName(uncertain.ID, "media"))
					require.NoError(t, err, "a late commit must find its media")
					require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, uncertain.ID))
				},
			},
			"refused": {
				func(func() (storage.Info, error)) (storage.Info, error) { return storage.Info{}, storage.ErrFull },
				func(_ vault.ID, err error) {
					require.ErrorIs(t, err, storage.ErrFull)
				},
			},
			// The answer was lost, and when the request was repeated the credentials had expired.
			"done, answer lost, repetition refused": {
				func(store func() (storage.Info, error)) (storage.Info, error) {
					_, err := store()
					require.NoError(t, err)
					return storage.Info{}, storage.ErrDenied
				},
				func(id vault.ID, err error) {
					require.NoError(t, err)
					_, err = b.open(t, b.grant(t, alice), id)
					require.NoError(t, err)
				},
			},
		} {
			t.Run(name, func(t *testing.T) {
				before := len(teststore.Names(t, b.store, ""))
				v, err := vault.New(b.writer, &faulty{b.store, func(object string, store func() (storage.Info, error)) (storage.Info, error) {
					if strings.HasSuffix(object, "/envelope") {
						return c.answer(store)
					}
					return store()
				}})
				require.NoError(t, err)
				id, err := v.Put(t.Context(), alice, strings.NewReader("a consultation"), metadata())
				c.check(id, err)
				if err != nil {
					assert.Len(t, teststore.Names(t, b.store, ""), before, "something was left behind")
				}
			})
		}
	})
}

func TestListYieldsAPatientsOwnRecordings(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob, carol := b.enrol(t), b.enrol(t), b.enrol(t)
		want := map[vault.ID]int64{}
		for size := range 5 {
			want[b.put(t, alice, make([]byte, size*40_000))] = int64(size * 40_000)
			b.put(t, bob, []byte("x"))
		}
		some := keys.NewRecordingID(b.grant(t, alice).KeyID())
		// Garbage is not a recording: media without an envelope, and names that are not ours.
		teststore.Write(t, b.store, objectName(some, "media"), []byte("orphan"))
		teststore.Write(t, b.store, "r1/"+some.KeyID().String()+"/notes.txt", []byte("x"))
		teststore.Write(t, b.store, objectName(some, "thumbnail"), []byte("x"))
		v := b.vaultOf(t, b.writer)
		got := map[vault.ID]int64{}
		var order []string
		for entry, err := range v.List(t.Context(), alice) {
			require.NoError(t, err)
			got[entry.ID] = entry.Size
			order = append(order, entry.ID.String())
			assert.WithinDuration(t, time.Now(), entry.Written, time.Minute)
		}
		assert.Equal(t, want, got)
		assert.True(t, slices.IsSorted(order))

		order = nil
		for entry, err := range b.vaultOf(t, b.server).ListByKeyID(t.Context(), b.grant(t, alice).KeyID()) {
			require.NoError(t, err)
			order = append(order, entry.ID.String())
			if len(order) == 3 {
				break
			}
		}
		assert.Len(t, order, 3)
		for range v.List(t.Context(), carol) {
			assert.Fail(t, "Carol has no recordings")
		}
		for _, err := range v.List(t.Context(), "") {
			require.ErrorIs(t, err, keys.ErrInvalidPatient)
		}
		for _, err := range v.ListByKeyID(t.Context(), keys.KeyID{}) {
			require.ErrorIs(t, err, keys.ErrInvalidKeyID)
		}
		teststore.Write(t, b.store, objectName(some, "envelope"), []byte("x"))
		require.NoError(t, b.store.Delete(t.Context(), objectName(some, "media")))
		var damaged int
		for entry, err := range v.List(t.Context(), alice) {
			require.NoError(t, err)
			if entry.Size == -1 {
				damaged++
			}
		}
		assert.Equal(t, 1, damaged)
	})
}

func TestDeleteRemovesAPatientsOwnRecordingOnly(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id, other := b.put(t, alice, []byte("one")), b.put(t, alice, []byte("two"))
		v := b.vaultOf(t, b.writer)
		require.ErrorIs(t, v.Delete(t.Context(), bob, id), vault.ErrNotFound)
		require.ErrorIs(t, v.Delete(t.Context(), bob, vault.ID{}), vault.ErrNotFound)
		require.ErrorIs(t, v.Delete(t.Context(), "", id), keys.ErrInvalidPatient)
		_, err := b.open(t, b.grant(t, alice), id)
		require.NoError(t, err)
		require.NoError(t, v.Delete(t.Context(), alice, id))
		require.NoError(t, v.Delete(t.Context(), alice, id), "again")
		_, err = b.open(t, b.grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrNotFound)
		got, err := b.open(t, b.grant(t, alice), other)
		require.NoError(t, err)
		assert.Equal(t, "two", string(got))
		assert.Len(t, teststore.Names(t, b.store, ""), 2)
	})
}

// While a recording is deleted, a reader finds it whole, finds that it is gone, or stops with an error.
// It never finds it damaged.
func TestOpenBesideDeleteIsNeverDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.grant(t, alice)
		for range 10 {
			id := b.put(t, alice, make([]byte, 100_000))
			var deleted atomic.Bool
			done := make(chan error)
			go func() {
				err := b.vaultOf(t, b.writer).Delete(context.Background(), alice, id)
				deleted.Store(true)
				done <- err
			}()
			for !deleted.Load() {
				if _, err := b.open(t, grant, id); err != nil {
					assert.ErrorIs(t, err, vault.ErrNotFound)
				}
			}
			require.NoError(t, <-done)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	b := embedded(t)
	_, err := vault.New(nil, b.store)
	require.Error(t, err)
	_, err = vault.New(b.writer, nil)
	require.Error(t, err)
	for _, prefix := range []string{"", "/", "a", "a//", "../", "a b/", strings.Repeat("a/", 300)} {
		_, err = vault.New(b.writer, b.store, vault.WithPrefix(prefix))
		assert.ErrorIs(t, err, storage.ErrInvalidName, prefix)
	}
	_, err = vault.New(b.writer, b.store, vault.WithFreshness(0))
	require.Error(t, err)
}

func TestPrefixesKeepVaultsApart(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	north, south := b.vaultOf(t, b.writer, vault.WithPrefix("clinics/north/")), b.vaultOf(t, b.writer, vault.WithPrefix("clinics/south/"))
	id, err := north.Put(t.Context(), alice, strings.NewReader("north"), metadata())
	require.NoError(t, err)
	_, err = south.Open(t.Context(), b.grant(t, alice), id)
	require.ErrorIs(t, err, vault.ErrNotFound)
	recording, err := north.Open(t.Context(), b.grant(t, alice), id)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	for _, name := range teststore.Names(t, b.store, "") {
		assert.True(t, strings.HasPrefix(name, "clinics/north/r1/"+id.KeyID().String()+"/"), name)
	}
}

func TestFilesTellTheirSize(t *testing.T) {
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
	v, err := vault.New(b.writer, &sizes{b.store, &announced})
	require.NoError(t, err)
	id, err := v.Put(t.Context(), alice, file, metadata())
	require.NoError(t, err)
	assert.Equal(t, segment.CiphertextSize(99_500), announced)
	got, err := b.open(t, b.grant(t, alice), id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data[500:], got))

	// What claims to be empty, as files in /proc do, is read all the same.
	proc, err := os.Open("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	defer proc.Close()
	id, err = v.Put(t.Context(), alice, proc, metadata())
	require.NoError(t, err)
	got, err = b.open(t, b.grant(t, alice), id)
	require.NoError(t, err)
	assert.NotEmpty(t, got)
}

// sizes notes the size that was announced for media.
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
