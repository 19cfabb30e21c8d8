package objects_test

import (
	"bytes"
	"context"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault/scope"
)

// openStore opens an empty store.
func openStore(t *testing.T) *dir.Store {
	t.Helper()
	store, err := dir.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// in returns the objects in a store, under a prefix.
func in(t *testing.T, store storage.Store) *objects.Objects {
	t.Helper()
	o, err := objects.New(store, "clinic/")
	require.NoError(t, err)
	return o
}

// patient returns a KeyID that starts with this byte.
func patient(first byte) keys.KeyID {
	return keys.NewKeyID(bytes.Repeat([]byte{first}, keys.KeyIDBytes))
}

// sealed returns an envelope of a recording.
func sealed(id keys.RecordingID) envelope.Envelope {
	wrapped := keys.NewWrappedKey("local", 1, []byte("wrapped"))
	return envelope.Envelope{ID: id, WrappedKey: wrapped, WrappedMetadataKey: wrapped, Sealed: []byte("sealed")}
}

func TestObjectsAreNamedAsDocumented(t *testing.T) {
	o := in(t, openStore(t))
	id := keystest.NewRecordingID(patient(1))
	of := id.KeyID().String() + "/" + id.Rec()
	assert.Equal(t, "clinic/recordings/", o.Root())
	assert.Equal(t, "clinic/recordings/"+id.KeyID().String()+"/", o.Patient(id.KeyID()))
	assert.Equal(t, "clinic/recordings/"+of+"/envelope", o.EnvelopeName(id))
	assert.Equal(t, "clinic/recordings/"+of+"/media", o.MediaName(id))
	assert.Equal(t, "holds/"+id.KeyID().String(), objects.HoldName(id.KeyID()))
}

func TestInvalidPrefixesAreRefused(t *testing.T) {
	for name, prefix := range map[string]string{
		"no slash": "a", "a slash alone": "/", "the parent": "../", "an empty segment": "a//", "not ASCII": "ä/",
		"too long": strings.Repeat("a/", objects.MaxPrefix/2) + "/",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := objects.New(openStore(t), prefix)
			assert.ErrorIs(t, err, storage.ErrInvalidName)
		})
	}
	_, err := objects.New(openStore(t), strings.Repeat("a/", objects.MaxPrefix/2))
	assert.NoError(t, err)
}

func TestWalkYieldsEveryRecordingOnce(t *testing.T) {
	store := openStore(t)
	o := in(t, store)
	whole := keystest.NewRecordingID(patient(0))
	orphan := keystest.NewRecordingID(patient(0))
	bare := keystest.NewRecordingID(patient(255))
	strays := []string{
		o.Root() + "README", o.Root() + "x/y/media", strings.TrimSuffix(o.MediaName(whole), "media") + "index",
		o.MediaName(bare) + "/envelope", o.Patient(patient(7)) + "envelope",
	}
	others := []string{
		o.EnvelopeName(whole), o.MediaName(whole), o.MediaName(orphan), o.EnvelopeName(bare), objects.HoldName(patient(0)), "recordings/elsewhere",
	}
	for _, name := range append(others, strays...) {
		teststore.Write(t, store, name, []byte("x"))
	}

	walk := func(s scope.Scope) (found map[keys.RecordingID]objects.Item, stray []string) {
		found = map[keys.RecordingID]objects.Item{}
		for item, err := range o.Walk(t.Context(), s) {
			require.NoError(t, err)
			if item.Stray != nil {
				stray = append(stray, item.Stray.Name)
				continue
			}
			assert.NotContains(t, found, item.ID)
			found[item.ID] = item
		}
		return found, stray
	}
	found, stray := walk(scope.All())
	assert.ElementsMatch(t, strays, stray)
	require.Len(t, found, 3)
	assert.Equal(t, o.EnvelopeName(whole), found[whole].Envelope.Name)
	assert.Equal(t, o.MediaName(whole), found[whole].Media.Name)
	assert.Nil(t, found[orphan].Envelope)
	assert.Nil(t, found[bare].Media)

	found, _ = walk(scope.Of(patient(0)))
	assert.Len(t, found, 2)
	total := 0
	for i := range 4 {
		shard, err := scope.Shard(i, 4)
		require.NoError(t, err)
		found, _ = walk(shard)
		total += len(found)
		for id := range found {
			assert.True(t, shard.Contains(id.KeyID()))
		}
	}
	assert.Equal(t, 3, total)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range o.Walk(ctx, scope.All()) {
		assert.ErrorIs(t, err, context.Canceled)
	}
	for range o.Walk(t.Context(), scope.All()) {
		break
	}
}

// together is a store whose first listings wait until as many of them run as are wanted.
type together struct {
	storage.Store
	wanted  int64
	running atomic.Int64
	all     chan struct{}
}

func (s *together) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if s.running.Add(1) == s.wanted {
			close(s.all)
		}
		select {
		case <-s.all:
			s.Store.List(ctx, prefix)(yield)
		case <-ctx.Done():
			yield(storage.Info{}, ctx.Err())
		}
	}
}

func TestNamedPatientsAreListedSideBySide(t *testing.T) {
	store := openStore(t)
	var ids []keys.KeyID
	for i := range byte(40) {
		ids = append(ids, patient(i))
		for range 3 {
			teststore.Write(t, store, in(t, store).EnvelopeName(keystest.NewRecordingID(patient(i))), []byte("x"))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	walk := func() iter.Seq2[objects.Item, error] {
		return in(t, &together{Store: store, wanted: objects.Listings, all: make(chan struct{})}).Walk(ctx, scope.Of(ids...))
	}
	var order []string
	for item, err := range walk() {
		require.NoError(t, err, "one listing after the other")
		order = append(order, item.ID.String())
	}
	assert.Len(t, order, 120)
	assert.IsNonDecreasing(t, order)
	for range walk() {
		break
	}
	cancel()
	var last error
	for _, last = range walk() {
	}
	assert.ErrorIs(t, last, context.Canceled)
}

// unlistable is a store that cannot list one patient.
type unlistable struct {
	storage.Store
	patient keys.KeyID
}

func (s unlistable) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	if strings.HasSuffix(prefix, s.patient.String()) {
		return func(yield func(storage.Info, error) bool) { yield(storage.Info{}, storage.ErrUnavailable) }
	}
	return s.Store.List(ctx, prefix)
}

func TestOneListingThatFailsEndsTheWalk(t *testing.T) {
	store := openStore(t)
	var ids []keys.KeyID
	for i := range byte(30) {
		ids = append(ids, patient(i))
		teststore.Write(t, store, in(t, store).EnvelopeName(keystest.NewRecordingID(patient(i))), []byte("x"))
	}
	found := 0
	var last error
	for _, err := range in(t, unlistable{store, patient(20)}).Walk(t.Context(), scope.Of(ids...)) {
		if last = err; err == nil {
			found++
		}
	}
	assert.ErrorIs(t, last, storage.ErrUnavailable)
	before := 0
	for _, id := range ids {
		if id.String() < patient(20).String() {
			before++
		}
	}
	assert.Equal(t, before, found, "those before it, in order")
}

func TestAnEnvelopeReadsAsItWasWritten(t *testing.T) {
	store := openStore(t)
	o := in(t, store)
	id := keystest.NewRecordingID(patient(1))
	_, err := o.Envelope(t.Context(), id)
	require.ErrorIs(t, err, storage.ErrNotFound)
	assert.False(t, objects.Damaged(err))

	require.NoError(t, o.Create(t.Context(), sealed(id)))
	require.ErrorIs(t, o.Create(t.Context(), sealed(id)), storage.ErrExists)
	first, err := o.Envelope(t.Context(), id)
	require.NoError(t, err)
	assert.True(t, first.Equal(sealed(id)))
	info, err := store.Stat(t.Context(), o.EnvelopeName(id))
	require.NoError(t, err)
	assert.Equal(t, info, first.Info)

	next := sealed(id)
	next.Sealed = []byte("sealed again")
	require.NoError(t, o.Replace(t.Context(), first, next))
	require.ErrorIs(t, o.Replace(t.Context(), first, sealed(id)), storage.ErrChanged)
	second, err := o.Envelope(t.Context(), id)
	require.NoError(t, err)
	assert.True(t, second.Equal(next))
}

func TestADamagedEnvelopeIsAnError(t *testing.T) {
	store := openStore(t)
	o := in(t, store)
	id := keystest.NewRecordingID(patient(1))
	text := string(sealed(id).Encode())
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":         {"", envelope.ErrMalformed},
		"not JSON":      {"envelope", envelope.ErrMalformed},
		"not canonical": {text + "\n", envelope.ErrMalformed},
		// Cut at the greatest size, these would be sound, or of another version.
		"too long":             {text + strings.Repeat(" ", envelope.MaxSize), envelope.ErrMalformed},
		"one byte too long":    {ofVersion2(envelope.MaxSize + 1), envelope.ErrMalformed},
		"of another recording": {string(sealed(keystest.NewRecordingID(patient(1))).Encode()), objects.ErrMisplaced},
		"of another patient":   {string(sealed(keystest.NewRecordingID(patient(2))).Encode()), objects.ErrMisplaced},
	} {
		t.Run(name, func(t *testing.T) {
			teststore.Write(t, store, o.EnvelopeName(id), []byte(c.text))
			found, err := o.Envelope(t.Context(), id)
			require.ErrorIs(t, err, c.want)
			assert.True(t, objects.Damaged(err))
			if c.want != objects.ErrMisplaced {
				assert.Zero(t, found)
				return
			}
			assert.Equal(t, c.text, string(found.Encode()), "the envelope that was found")
			assert.NotEqual(t, id, found.ID)
			assert.NotEmpty(t, found.Info.ETag)
		})
	}
}

// ofVersion2 returns an envelope of a version that this release does not know, of this size.
func ofVersion2(size int) string {
	const start = `{"version":2,"text":"`
	return start + strings.Repeat("x", size-len(start)-len(`"}`)) + `"}`
}

func TestAnUnsupportedEnvelopeIsNotDamaged(t *testing.T) {
	store := openStore(t)
	o := in(t, store)
	id := keystest.NewRecordingID(patient(1))
	for name, text := range map[string]string{
		"this one, as another version": strings.Replace(string(sealed(id).Encode()), `"version":1`, `"version":2`, 1),
		"small":                        ofVersion2(100),
		"of the greatest size":         ofVersion2(envelope.MaxSize),
	} {
		t.Run(name, func(t *testing.T) {
			teststore.Write(t, store, o.EnvelopeName(id), []byte(text))
			found, err := o.Envelope(t.Context(), id)
			require.ErrorIs(t, err, envelope.ErrUnsupported)
			assert.False(t, objects.Damaged(err))
			assert.Zero(t, found)
			item, err := o.Find(t.Context(), id)
			require.NoError(t, err)
			assert.NotNil(t, item.Envelope, "it is a recording")
		})
	}
}

func TestAnEnvelopeNeedsAnETag(t *testing.T) {
	store := openStore(t)
	id := keystest.NewRecordingID(patient(1))
	require.NoError(t, in(t, store).Create(t.Context(), sealed(id)))
	found, err := in(t, withoutETags{store}).Envelope(t.Context(), id)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	assert.False(t, objects.Damaged(err))
	assert.Zero(t, found)
}

// withoutETags is a store that gives no ETags.
type withoutETags struct{ storage.Store }

func (s withoutETags) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	object, err := s.Store.Get(ctx, name, offset, length)
	if err == nil {
		object.Info.ETag = ""
	}
	return object, err
}

func TestFindAndRemoveReachBothObjects(t *testing.T) {
	store := openStore(t)
	o := in(t, store)
	id := keystest.NewRecordingID(patient(1))
	item, err := o.Find(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, objects.Item{ID: id}, item)
	require.NoError(t, o.PutMedia(t.Context(), id, strings.NewReader("media"), -1))
	require.NoError(t, o.Create(t.Context(), sealed(id)))
	calls := &recorder{Store: store}
	item, err = o.In(calls).Find(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, o.MediaName(id), item.Media.Name)
	assert.Equal(t, o.EnvelopeName(id), item.Envelope.Name)
	require.NoError(t, o.In(calls).Remove(t.Context(), id))
	assert.Equal(t, []string{
		"stat " + o.MediaName(id), "stat " + o.EnvelopeName(id), "delete " + o.EnvelopeName(id), "delete " + o.MediaName(id),
	}, calls.calls)
	assert.Empty(t, teststore.Names(t, store, ""))
	require.NoError(t, o.Remove(t.Context(), id), "again")
}

// recorder is a store that records calls.
type recorder struct {
	storage.Store
	calls []string
}

func (r *recorder) Stat(ctx context.Context, name string) (storage.Info, error) {
	r.calls = append(r.calls, "stat "+name)
	return r.Store.Stat(ctx, name)
}

func (r *recorder) Delete(ctx context.Context, name string) error {
	r.calls = append(r.calls, "delete "+name)
	return r.Store.Delete(ctx, name)
}

func TestUploadsNameTheRecordingsOfMedia(t *testing.T) {
	id := keystest.NewRecordingID(patient(1))
	o := in(t, openStore(t))
	_, ok := in(t, struct{ storage.Store }{openStore(t)}).Uploads(t.Context())
	assert.False(t, ok, "this store cannot list them")

	want := map[string]keys.RecordingID{
		o.MediaName(id):             id,
		o.EnvelopeName(id):          {}, // an envelope is never uploaded in parts
		o.MediaName(id) + "x":       {},
		o.MediaName(id) + "/media":  {},
		o.Patient(id.KeyID()) + "x": {},
		o.Root() + "x/y/media":      {},
		"":                          {}, // the store does not know the name
	}
	lister := &uploads{Store: openStore(t)}
	for name := range want {
		lister.uploads = append(lister.uploads, storage.Upload{Name: name, ID: "upload of " + name})
	}
	listed, ok := in(t, lister).Uploads(t.Context())
	require.True(t, ok)
	found := map[string]keys.RecordingID{}
	for upload, err := range listed {
		require.NoError(t, err)
		found[upload.Name] = upload.Recording
		require.NoError(t, in(t, lister).AbortUpload(t.Context(), upload))
	}
	assert.Equal(t, want, found)
	assert.Equal(t, lister.uploads, lister.aborted, "as the store listed them")
	assert.Equal(t, o.Root(), lister.prefix)

	lister.err = storage.ErrDenied
	listed, _ = in(t, lister).Uploads(t.Context())
	var errs []error
	for upload, err := range listed {
		assert.Zero(t, upload)
		errs = append(errs, err)
	}
	assert.Equal(t, []error{storage.ErrDenied}, errs)
}

// uploads is a store with these unfinished uploads, or an error in their place.
type uploads struct {
	storage.Store
	prefix           string // that was listed
	uploads, aborted []storage.Upload
	err              error
}

func (u *uploads) Uploads(_ context.Context, prefix string) iter.Seq2[storage.Upload, error] {
	u.prefix = prefix
	return func(yield func(storage.Upload, error) bool) {
		if u.err != nil {
			yield(storage.Upload{}, u.err)
			return
		}
		for _, upload := range u.uploads {
			if !yield(upload, nil) {
				return
			}
		}
	}
}

func (u *uploads) AbortUpload(_ context.Context, upload storage.Upload) error {
	u.aborted = append(u.aborted, upload)
	return nil
}

func TestAHoldStandsUnlessItsObjectIsEmpty(t *testing.T) {
	store := openStore(t)
	id := patient(0)
	for name, step := range map[string]struct {
		text string
		held bool
	}{"a hold": {"{}", true}, "a cleared hold": {"", false}, "a damaged hold": {" ", true}} {
		t.Run(name, func(t *testing.T) {
			teststore.Write(t, store, objects.HoldName(id), []byte(step.text))
			hold, err := objects.Held(t.Context(), store, id)
			require.NoError(t, err)
			assert.Equal(t, step.held, hold != nil)
			same, err := in(t, store).Held(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, hold, same, "whatever the prefix")
		})
	}
	require.NoError(t, store.Delete(t.Context(), objects.HoldName(id)))
	hold, err := objects.Held(t.Context(), store, id)
	require.NoError(t, err)
	assert.Nil(t, hold)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = objects.Held(ctx, store, id)
	assert.ErrorIs(t, err, context.Canceled)
}
