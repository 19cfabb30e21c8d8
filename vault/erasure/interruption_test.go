package erasure_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

type faultyKeyring struct {
	erasure.Keyring
	fault *teststore.Fault
}

func (k faultyKeyring) Erase(ctx context.Context, id keys.KeyID) error {
	return k.fault.Call(keys.ErrUnavailable, func() error { return k.Keyring.Erase(ctx, id) })
}

func (k faultyKeyring) Versions(ctx context.Context, id keys.KeyID) (v keys.Versions, err error) {
	err = k.fault.Call(keys.ErrUnavailable, func() (err error) { v, err = k.Keyring.Versions(ctx, id); return })
	return v, err
}

func (k faultyKeyring) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) (r []keys.RewrapResult, err error) {
	err = k.fault.Call(keys.ErrUnavailable, func() (err error) { r, err = k.Keyring.Rewrap(ctx, id, items); return })
	return r, err
}

func TestAnErasureThatWasInterruptedAtAnyCallIsFinishedByTheNext(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
			patient, id := b.enrol(t)
			recording := b.put(t, patient)
			b.put(t, patient)
			plan, err := b.erasure(t).PlanPatient(t.Context(), id)
			require.NoError(t, err)
			e := newErasure(t, faultyKeyring{b.eraser, f}, f.Store(b.store), erasure.Options{Operator: operator})
			receipt, err := e.ConfirmPatient(ctx, id, plan.Digest)
			if !f.Hit() {
				require.NoError(t, err)
			}
			if err != nil {
				if ctx.Err() == nil {
					assert.True(t, unavailable(err), "%v", err)
				} else {
					assert.ErrorIs(t, err, context.Canceled)
				}
				assert.Zero(t, receipt)
				_, versionsErr := b.admin.Versions(t.Context(), id)
				if !errors.Is(err, erasure.ErrIncomplete) {
					require.NoError(t, versionsErr)
					require.NoError(t, b.open(t, patient, recording), "an erasure that has not begun has touched nothing")
				}
				receipt, err = b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
				require.NoError(t, err)
				assert.Equal(t, versionsErr != nil, receipt.Resumed)
			}
			assert.Empty(t, b.objects(t, id))
			_, err = b.admin.Versions(t.Context(), id)
			require.ErrorIs(t, err, keys.ErrErased)
			assert.NotEmpty(t, receipt.Proof)
			assert.NotEmpty(t, receipt.Digest)
		})
	})
}

func TestTheErasureOfARecordingThatWasInterruptedAtAnyCallIsFinishedByTheNext(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.enrol(t)
		kept := b.put(t, patient)
		teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
			recording := b.put(t, patient)
			plan, err := b.erasure(t).PlanRecording(t.Context(), recording)
			require.NoError(t, err)
			e := newErasure(t, faultyKeyring{b.eraser, f}, f.Store(b.store), erasure.Options{Operator: operator})
			receipt, err := e.ConfirmRecording(ctx, recording, plan.Digest)
			if !f.Hit() {
				require.NoError(t, err)
			}
			if err != nil {
				if !errors.Is(err, erasure.ErrIncomplete) {
					require.NoError(t, b.open(t, patient, recording))
				}
				receipt, err = b.erasure(t).ConfirmRecording(t.Context(), recording, plan.Digest)
				require.NoError(t, err)
			}
			_, err = b.store.Stat(t.Context(), objectName(recording, "envelope"))
			require.ErrorIs(t, err, storage.ErrNotFound)
			_, err = b.store.Stat(t.Context(), objectName(recording, "media"))
			require.ErrorIs(t, err, storage.ErrNotFound)
			assert.NotEmpty(t, receipt.Digest)
		})
		require.NoError(t, b.open(t, patient, kept))
	})
}

// The environment of a test binary that runs again as another process of the deployment's.
const (
	childEnv  = "ERASURE_TEST_CHILD"
	rootEnv   = "ERASURE_TEST_ROOT"
	vaultEnv  = "ERASURE_TEST_VAULT"
	tokenEnv  = "ERASURE_TEST_TOKEN"
	mountEnv  = "ERASURE_TEST_MOUNT"
	prefixEnv = "ERASURE_TEST_PREFIX"
	minioEnv  = "ERASURE_TEST_MINIO"
	bucketEnv = "ERASURE_TEST_BUCKET"
	accessEnv = "ERASURE_TEST_ACCESS_KEY"
	secretEnv = "ERASURE_TEST_SECRET_KEY"
	keyIDEnv  = "ERASURE_TEST_KEY_ID"
	digestEnv = "ERASURE_TEST_DIGEST"
)

// runChild erases a patient and says when it begins and ends.
func runChild() int {
	if err := eraseAsChild(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func eraseAsChild() error {
	keyring, store, err := openAsChild()
	if err != nil {
		return err
	}
	e, err := erasure.New(keyring, store, erasure.Options{Operator: operator})
	if err != nil {
		return err
	}
	id, err := keys.ParseKeyID(os.Getenv(keyIDEnv))
	if err != nil {
		return err
	}
	fmt.Println("begin")
	if _, err = e.ConfirmPatient(context.Background(), id, os.Getenv(digestEnv)); err == nil {
		fmt.Println("end")
	}
	return err
}

func openAsChild() (erasure.Keyring, storage.Store, error) {
	if os.Getenv(childEnv) == "embedded" {
		keyring, store, err := openEmbedded(os.Getenv(rootEnv))
		return keyring, store, err
	}
	config := api.DefaultConfig()
	config.Address = os.Getenv(vaultEnv)
	vaultClient, err := api.NewClient(config)
	if err != nil {
		return nil, nil, err
	}
	vaultClient.SetToken(os.Getenv(tokenEnv))
	keyring, err := transit.New(vaultClient, transit.Options{Mount: os.Getenv(mountEnv), Prefix: os.Getenv(prefixEnv)})
	if err != nil {
		return nil, nil, err
	}
	client, err := s3.NewClient(s3.Config{
		Endpoint:    "http://" + os.Getenv(minioEnv),
		Credentials: credentials.NewStaticV4(os.Getenv(accessEnv), os.Getenv(secretEnv), ""),
	})
	if err != nil {
		return nil, nil, err
	}
	store, err := s3.New(client, os.Getenv(bucketEnv))
	return keyring, store, err
}

func TestAnErasureThatWasKilledIsFinishedByTheNext(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, id, plan := b.planned(t)
		took := b.killEraser(t, id, plan.Digest, time.Hour)
		assert.Empty(t, b.objects(t, id))

		const leastRounds, mostRounds = 10, 100
		halves := 0
		for round := 0; round < leastRounds || halves == 0 && round < mostRounds; round++ {
			patient, id, plan := b.planned(t)
			b.killEraser(t, id, plan.Digest, rand.N(took))

			_, versionsErr := b.admin.Versions(t.Context(), id)
			left := b.objects(t, id)
			if versionsErr == nil {
				require.Len(t, left, plan.Objects, "nothing goes before the key")
				_, err := b.vault(t).Put(t.Context(), patient, strings.NewReader(content), vault.Metadata{})
				require.NoError(t, err)
				plan, err = b.erasure(t).PlanPatient(t.Context(), id)
				require.NoError(t, err)
				left = b.objects(t, id)
			} else {
				require.ErrorIs(t, versionsErr, keys.ErrErased)
				if len(left) > 0 {
					halves++
				}
			}
			receipt, err := b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
			require.NoError(t, err)
			assert.Equal(t, versionsErr != nil, receipt.Resumed)
			assert.Equal(t, len(left), receipt.ObjectsDeleted)
			assert.Empty(t, b.objects(t, id))
		}
		assert.Positive(t, halves, "nobody was killed between the destruction of the key and the end")
	})
}

// planned is a patient with some recordings, who is to be erased.
func (b *backend) planned(t *testing.T) (keys.Patient, keys.KeyID, erasure.Plan) {
	t.Helper()
	patient, id := b.enrol(t)
	for range 8 {
		b.put(t, patient)
	}
	plan, err := b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	return patient, id, plan
}

// killEraser erases a patient in a process that is killed so long after it began, if it has not ended by
// then, and returns how long it worked.
func (b *backend) killEraser(t *testing.T, id keys.KeyID, digest string, after time.Duration) time.Duration {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(append(os.Environ(), b.child...), keyIDEnv+"="+id.String(), digestEnv+"="+digest)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan(), "the eraser does not begin")
	began := time.Now()
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	ended := lines.Scan()
	took := time.Since(began)
	if timer.Stop() {
		require.True(t, ended, "the eraser has failed")
	}
	_ = cmd.Process.Kill() // the race detector makes it linger
	_ = cmd.Wait()
	return took
}

// hookedKeyring does something before a call.
type hookedKeyring struct {
	erasure.Keyring
	rewrap   func()
	versions func(call int)
	calls    int
}

func (k *hookedKeyring) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	if k.rewrap != nil {
		k.rewrap()
	}
	return k.Keyring.Rewrap(ctx, id, items)
}

func (k *hookedKeyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	k.calls++
	if k.versions != nil {
		k.versions(k.calls)
	}
	return k.Keyring.Versions(ctx, id)
}

// hookedStore does something else than a call.
type hookedStore struct {
	storage.Store
	put    func(func() (storage.Info, error)) (storage.Info, error)
	list   func(call int)
	delete func(ctx context.Context, name string) error
	lists  int
}

func (s *hookedStore) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	put := func() (storage.Info, error) { return s.Store.Put(ctx, name, r, size, condition) }
	if s.put != nil {
		return s.put(put)
	}
	return put()
}

func (s *hookedStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	s.lists++
	if s.list != nil {
		s.list(s.lists)
	}
	return s.Store.List(ctx, prefix)
}

func (s *hookedStore) Delete(ctx context.Context, name string) error {
	if s.delete != nil {
		return s.delete(ctx, name)
	}
	return s.Store.Delete(ctx, name)
}

// TestWhatIsRecordedAfterAPatientIsEnrolledAnewIsNotErased enrols an erased patient anew, and records, while the
// erasure still runs.
func TestWhatIsRecordedAfterAPatientIsEnrolledAnewIsNotErased(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for name, hook := range map[string]func(do func()) (*hookedKeyring, *hookedStore){
			"before the objects are listed": func(do func()) (*hookedKeyring, *hookedStore) {
				return &hookedKeyring{Keyring: b.eraser}, &hookedStore{Store: b.store, list: on(3, do)}
			},
			"after they were listed": func(do func()) (*hookedKeyring, *hookedStore) {
				return &hookedKeyring{Keyring: b.eraser, versions: on(3, do)}, &hookedStore{Store: b.store}
			},
			"before they are listed again": func(do func()) (*hookedKeyring, *hookedStore) {
				return &hookedKeyring{Keyring: b.eraser}, &hookedStore{Store: b.store, list: on(4, do)}
			},
		} {
			patient, id := b.enrol(t)
			b.put(t, patient)
			plan, err := b.erasure(t).PlanPatient(t.Context(), id)
			require.NoError(t, err)
			var recorded vault.ID
			keyring, store := hook(func() {
				_, err := b.admin.Enrol(t.Context(), patient)
				require.NoError(t, err)
				recorded = b.put(t, patient)
			})
			e := newErasure(t, keyring, store, erasure.Options{Operator: operator})
			_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
			require.False(t, recorded.IsZero(), name)
			require.ErrorIs(t, err, erasure.ErrIncomplete, name)
			require.ErrorIs(t, err, erasure.ErrPlanChanged, name)
			require.NoError(t, b.open(t, patient, recorded), name)
			_, err = b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
			require.ErrorIs(t, err, erasure.ErrPlanChanged, name)
			require.NoError(t, b.open(t, patient, recorded), name)
		}
	})
}

func on(want int, do func()) func(int) {
	return func(call int) {
		if call == want {
			do()
		}
	}
}

func TestWhatIsWrittenWhileObjectsAreDeletedIsDeletedToo(t *testing.T) {
	b := embedded(t)
	patient, id := b.enrol(t)
	b.put(t, patient)
	late := objectName(keys.NewRecordingID(id), "envelope")
	text := teststore.Read(t, b.store, b.objects(t, id)[0])
	plan, err := b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	var once sync.Once
	store := &hookedStore{Store: b.store, delete: func(ctx context.Context, name string) error {
		once.Do(func() { teststore.Write(t, b.store, late, text) })
		return b.store.Delete(ctx, name)
	}}
	receipt, err := newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
	require.NoError(t, err)
	assert.Empty(t, b.objects(t, id))
	assert.Equal(t, 3, receipt.ObjectsDeleted)
	assert.Len(t, receipt.Recordings, 2)

	// One that does not end is given up.
	patient, id = b.enrol(t)
	b.put(t, patient)
	plan, err = b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	endless := objectName(keys.NewRecordingID(id), "media")
	store = &hookedStore{Store: b.store, delete: func(ctx context.Context, name string) error {
		if err := b.store.Delete(ctx, name); err != nil {
			return err
		}
		teststore.Write(t, b.store, endless, text)
		return nil
	}}
	_, err = newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	_, err = b.erasure(t).ConfirmPatient(t.Context(), id, "")
	require.NoError(t, err)
	assert.Empty(t, b.objects(t, id))
}

// TestWhatHappensWhileTheProofIsPreparedIsNoticed: a plan that held when Confirm began may hold no more when
// it comes to destroying the key.
func TestWhatHappensWhileTheProofIsPreparedIsNoticed(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for name, happens := range map[string]func(patient keys.Patient, id keys.KeyID, digest string) (opens vault.ID){
			"a recording is put": func(patient keys.Patient, _ keys.KeyID, _ string) vault.ID { return b.put(t, patient) },
			"another finishes, and the patient is enrolled anew": func(patient keys.Patient, id keys.KeyID, digest string) vault.ID {
				_, err := b.erasure(t).ConfirmPatient(t.Context(), id, digest)
				require.NoError(t, err)
				_, err = b.admin.Enrol(t.Context(), patient)
				require.NoError(t, err)
				return b.put(t, patient)
			},
			"the key is rotated": func(_ keys.Patient, id keys.KeyID, _ string) vault.ID {
				require.NoError(t, b.admin.Rotate(t.Context(), id))
				return vault.ID{}
			},
		} {
			patient, id := b.enrol(t)
			b.put(t, patient)
			plan, err := b.erasure(t).PlanPatient(t.Context(), id)
			require.NoError(t, err)
			var opens vault.ID
			keyring := &hookedKeyring{Keyring: b.eraser, rewrap: func() { opens = happens(patient, id, plan.Digest) }}
			_, err = newErasure(t, keyring, b.store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
			require.ErrorIs(t, err, erasure.ErrPlanChanged, name)
			require.NotErrorIs(t, err, erasure.ErrIncomplete, name)
			_, err = b.admin.Versions(t.Context(), id)
			require.NoError(t, err, name)
			if !opens.IsZero() {
				require.NoError(t, b.open(t, patient, opens), name)
			}
		}
	})
}

// TestAKeyThatIsNewIsNoticedLast: the last thing that is asked before the key goes is whether it is the same.
func TestAKeyThatIsNewIsNoticedLast(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t) // and no recordings, which would show
		plan, err := b.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		keyring := &hookedKeyring{Keyring: b.eraser, versions: on(2, func() {
			b.enrolAnew(t, patient, id)
		})}
		_, err = newErasure(t, keyring, b.store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
		require.ErrorIs(t, err, erasure.ErrPlanChanged)
		_, err = b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
	})
}

// enrolAnew replaces a patient's key by one that was made later. Vault tells the time to the second.
func (b *backend) enrolAnew(t *testing.T, patient keys.Patient, id keys.KeyID) {
	t.Helper()
	old, err := b.admin.Versions(t.Context(), id)
	require.NoError(t, err)
	for versions := old; versions == old; {
		require.NoError(t, b.admin.Erase(t.Context(), id))
		_, err := b.admin.Enrol(t.Context(), patient)
		require.NoError(t, err)
		versions, err = b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
	}
}

// TestAnErasureIsSaidToHaveBegunOnlyIfItMayHave: if the keyring fails to destroy the key, it is asked what became of it.
func TestAnErasureIsSaidToHaveBegunOnlyIfItMayHave(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for _, fate := range []struct {
			erases, silent, begun bool
		}{
			{erases: false, silent: false, begun: false},
			{erases: false, silent: true, begun: true},
			{erases: true, silent: false, begun: true},
			{erases: true, silent: true, begun: true},
		} {
			patient, id := b.enrol(t)
			recording := b.put(t, patient)
			plan, err := b.erasure(t).PlanPatient(t.Context(), id)
			require.NoError(t, err)
			keyring := &failingKeyring{Keyring: b.eraser, erases: fate.erases, turnsSilent: fate.silent}
			_, err = newErasure(t, keyring, b.store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
			require.ErrorIs(t, err, keys.ErrUnavailable)
			assert.Equal(t, fate.begun, errors.Is(err, erasure.ErrIncomplete), "%+v", fate)
			if !fate.erases {
				require.NoError(t, b.open(t, patient, recording))
			}
			_, err = b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
			require.NoError(t, err)
		}
	})
}

// failingKeyring fails to destroy a key, or to say that it did.
type failingKeyring struct {
	erasure.Keyring
	erases, turnsSilent bool
	silent              bool
}

func (k *failingKeyring) Erase(ctx context.Context, id keys.KeyID) error {
	k.silent = k.turnsSilent
	if k.erases {
		if err := k.Keyring.Erase(ctx, id); err != nil {
			return err
		}
	}
	return keys.ErrUnavailable
}

func (k *failingKeyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	if k.silent {
		return keys.Versions{}, keys.ErrUnavailable
	}
	return k.Keyring.Versions(ctx, id)
}

// TestNothingIsDeletedUnlessTheKeyIsSeenToBeDestroyed: where the keyring cannot be asked, the key that is there
// may be a new one.
func TestNothingIsDeletedUnlessTheKeyIsSeenToBeDestroyed(t *testing.T) {
	b := embedded(t)
	patient, id := b.enrol(t)
	b.put(t, patient)
	plan, err := b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	keyring := &silentKeyring{Keyring: b.eraser}
	_, err = newErasure(t, keyring, b.store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
	require.ErrorIs(t, err, keys.ErrUnavailable)
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	assert.Len(t, b.objects(t, id), 2)
	_, err = b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
	require.NoError(t, err)
	assert.Empty(t, b.objects(t, id))
}

// silentKeyring answers no more once it has destroyed a key.
type silentKeyring struct {
	erasure.Keyring
	silent bool
}

func (k *silentKeyring) Erase(ctx context.Context, id keys.KeyID) error {
	k.silent = true
	return k.Keyring.Erase(ctx, id)
}

func (k *silentKeyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	if k.silent {
		return keys.Versions{}, keys.ErrUnavailable
	}
	return k.Keyring.Versions(ctx, id)
}

// lyingKeyring says that it destroyed a key.
type lyingKeyring struct {
	erasure.Keyring
	erased bool
	hides  bool
}

func (k *lyingKeyring) Erase(context.Context, keys.KeyID) error {
	k.erased = true
	return nil
}

func (k *lyingKeyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	if k.erased && k.hides {
		return keys.Versions{}, keys.ErrErased
	}
	return k.Keyring.Versions(ctx, id)
}

func TestAKeyThatWasNotDestroyedHasNoReceipt(t *testing.T) {
	b := embedded(t)
	for hides, want := range map[bool]error{false: erasure.ErrPlanChanged, true: erasure.ErrKeyWorks} {
		patient, id := b.enrol(t)
		b.put(t, patient)
		keyring := &lyingKeyring{Keyring: b.eraser, hides: hides}
		e := newErasure(t, keyring, b.store, erasure.Options{Operator: operator})
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		receipt, err := e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, err, erasure.ErrIncomplete)
		assert.Zero(t, receipt)
	}
}

// TestEnvelopesThatProveNothingArePassedOver: a wrapped key that never worked shows nothing by failing.
func TestEnvelopesThatProveNothingArePassedOver(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for name, damage := range map[string]func(text, other string) string{
			"no envelope":          func(string, string) string { return "no envelope" },
			"of another recording": func(_, other string) string { return other },
			"another wrapped key":  func(text, _ string) string { return strings.Replace(text, ":v1:", ":v1:AAAA", 1) },
		} {
			patient, id := b.enrol(t)
			first, second := b.put(t, patient), b.put(t, patient)
			if first.String() > second.String() {
				first, second = second, first
			}
			text, other := teststore.Read(t, b.store, objectName(first, "envelope")), teststore.Read(t, b.store, objectName(second, "envelope"))
			teststore.Write(t, b.store, objectName(first, "envelope"), []byte(damage(string(text), string(other))))
			plan, err := b.erasure(t).PlanPatient(t.Context(), id)
			require.NoError(t, err)
			receipt, err := b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
			require.NoError(t, err, name)
			require.Len(t, receipt.Proof, 2, name)
			assert.Equal(t, second, receipt.Proof[1].Recording, name)
			assert.Equal(t, "succeeded", receipt.Proof[1].Before, name)
		}
	})
}

func TestADeletionThatTakesTooLongIsToldAndCanBeRunAgain(t *testing.T) {
	b := embedded(t)
	patient, id := b.enrol(t)
	b.put(t, patient)
	plan, err := b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	options := erasure.Options{Operator: operator, DeleteTimeout: 200 * time.Millisecond}
	store := &hookedStore{Store: b.store, delete: func(ctx context.Context, name string) error {
		deadline, _ := ctx.Deadline()
		assert.LessOrEqual(t, time.Until(deadline), options.DeleteTimeout)
		if !strings.HasSuffix(name, "/media") {
			return b.store.Delete(ctx, name)
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	_, err = newErasure(t, b.eraser, store, options).ConfirmPatient(t.Context(), id, plan.Digest)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	assert.Len(t, b.objects(t, id), 1)
	_, err = b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
	require.NoError(t, err)
	assert.Empty(t, b.objects(t, id))
}

// TestMinIOWaitsForASlowReader: it does not delete what somebody is reading.
func TestMinIOWaitsForASlowReader(t *testing.T) {
	b := servers(t)
	patient, id := b.enrol(t)
	recording, err := b.vault(t).Put(t.Context(), patient, bytes.NewReader(make([]byte, 32<<20)), vault.Metadata{})
	require.NoError(t, err)
	plan, err := b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	reader, err := b.store.Get(t.Context(), objectName(recording, "media"), 0, -1)
	require.NoError(t, err)
	options := erasure.Options{Operator: operator, DeleteTimeout: time.Second}
	_, err = newErasure(t, b.eraser, b.store, options).ConfirmPatient(t.Context(), id, plan.Digest)
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	assert.Equal(t, []string{objectName(recording, "media")}, b.objects(t, id))

	require.NoError(t, reader.Close())
	receipt, err := b.erasure(t).ConfirmPatient(t.Context(), id, "")
	require.NoError(t, err)
	assert.Equal(t, 1, receipt.ObjectsDeleted)
	assert.Empty(t, b.objects(t, id))
}

func unavailable(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, keys.ErrUnavailable)
}
