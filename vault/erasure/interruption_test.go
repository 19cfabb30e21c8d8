package erasure_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

// faultyKeyring is a keyring that one call to may fail.
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

func TestTheNextErasureFinishesAnInterruptedOne(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
			patient, id := d.Enrol(t)
			recording := d.put(t, patient)
			d.put(t, patient)
			plan, err := d.erasure(t).PlanPatient(t.Context(), id)
			require.NoError(t, err)
			e := newErasure(t, faultyKeyring{d.eraser, f}, f.Store(d.Store), erasure.Options{})
			receipt, err := e.ConfirmPatient(ctx, id, approve(plan.Digest))
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
				_, versionsErr := d.admin.Versions(t.Context(), id)
				if !errors.Is(err, erasure.ErrIncomplete) {
					require.NoError(t, versionsErr)
					require.NoError(t, d.open(t, patient, recording), "an erasure that did not begin changed nothing")
				}
				receipt, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.NoError(t, err)
				assert.Equal(t, versionsErr != nil, receipt.Resumed)
			}
			assert.Empty(t, d.Objects(t, "", id))
			_, err = d.admin.Versions(t.Context(), id)
			require.ErrorIs(t, err, keys.ErrErased)
			assert.NotEmpty(t, receipt.Proof)
			assert.NotEmpty(t, receipt.Digest)
		})
	})
}

func TestTheNextErasureFinishesThatOfARecording(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, _ := d.Enrol(t)
		kept := d.put(t, patient)
		teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
			recording := d.put(t, patient)
			plan, err := d.erasure(t).PlanRecording(t.Context(), recording)
			require.NoError(t, err)
			e := newErasure(t, faultyKeyring{d.eraser, f}, f.Store(d.Store), erasure.Options{})
			receipt, err := e.ConfirmRecording(ctx, recording, approve(plan.Digest))
			if !f.Hit() {
				require.NoError(t, err)
			}
			if err != nil {
				if !errors.Is(err, erasure.ErrIncomplete) {
					require.NoError(t, d.open(t, patient, recording))
				}
				receipt, err = d.erasure(t).ConfirmRecording(t.Context(), recording, approve(plan.Digest))
				require.NoError(t, err)
			}
			_, err = d.Store.Stat(t.Context(), d.objects.EnvelopeName(recording))
			require.ErrorIs(t, err, storage.ErrNotFound)
			_, err = d.Store.Stat(t.Context(), d.objects.MediaName(recording))
			require.ErrorIs(t, err, storage.ErrNotFound)
			assert.NotEmpty(t, receipt.Digest)
		})
		require.NoError(t, d.open(t, patient, kept))
	})
}

// childEnv is the environment variable with the childTask, as JSON, of a test binary that runs again as another
// process of the deployment.
const childEnv = "ERASURE_TEST_CHILD"

// childTask is the erasure that a child process does.
type childTask struct {
	Place  testdeployment.Place
	KeyID  keys.KeyID
	Digest string
}

// runChild erases a patient. It prints a line when it begins and when it ends.
func runChild() int {
	if err := eraseAsChild(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func eraseAsChild() error {
	var task childTask
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &task); err != nil {
		return err
	}
	d, err := testdeployment.Open(task.Place)
	if err != nil {
		return err
	}
	e, err := erasure.New(d.Keyring(testdeployment.Eraser), d.Store, erasure.Options{})
	if err != nil {
		return err
	}
	fmt.Println("begin")
	if _, err = e.ConfirmPatient(context.Background(), task.KeyID, approve(task.Digest)); err == nil {
		fmt.Println("end")
	}
	return err
}

func TestTheNextErasureFinishesAKilledOne(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id, plan := d.planned(t)
		took := d.killEraser(t, id, plan.Digest, time.Hour)
		assert.Empty(t, d.Objects(t, "", id))

		const leastRounds, mostRounds = 10, 100
		halves := 0
		for round := 0; round < leastRounds || halves == 0 && round < mostRounds; round++ {
			patient, id, plan := d.planned(t)
			d.killEraser(t, id, plan.Digest, rand.N(took))

			_, versionsErr := d.admin.Versions(t.Context(), id)
			left := d.Objects(t, "", id)
			if versionsErr == nil {
				require.Len(t, left, plan.Objects, "nothing is deleted before the key is destroyed")
				d.put(t, patient)
				var err error
				plan, err = d.erasure(t).PlanPatient(t.Context(), id)
				require.NoError(t, err)
				left = d.Objects(t, "", id)
			} else {
				require.ErrorIs(t, versionsErr, keys.ErrErased)
				if len(left) > 0 {
					halves++
				}
			}
			receipt, err := d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
			require.NoError(t, err)
			assert.Equal(t, versionsErr != nil, receipt.Resumed)
			assert.LessOrEqual(t, receipt.ObjectsDeleted, len(left), "the server may still carry out what the killed one has sent")
			assert.Empty(t, d.Objects(t, "", id))
		}
		assert.Positive(t, halves, "no eraser was killed between the destruction of the key and the end")
	})
}

// planned returns a patient with 8 recordings and the plan to erase them.
func (d *deployment) planned(t *testing.T) (keys.Patient, keys.KeyID, erasure.Plan) {
	t.Helper()
	patient, id := d.Enrol(t)
	for range 8 {
		d.put(t, patient)
	}
	plan, err := d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	return patient, id, plan
}

// killEraser erases a patient in a process that it kills after this time, unless it ended before. It returns how
// long the process worked.
func (d *deployment) killEraser(t *testing.T, id keys.KeyID, digest string, after time.Duration) time.Duration {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	task, err := json.Marshal(childTask{d.Place, id, digest})
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), childEnv+"="+string(task))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan(), "the eraser did not begin")
	began := time.Now()
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	ended := lines.Scan()
	took := time.Since(began)
	if timer.Stop() {
		require.True(t, ended, "the eraser has failed")
	}
	_ = cmd.Process.Kill() // under the race detector it exits late
	_ = cmd.Wait()
	return took
}

// hookedKeyring is a keyring that runs a hook before a call.
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

// hookedStore is a store that runs a hook before or in place of a call.
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

// TestRecordingsUnderANewKeyAreNotErased enrols an erased patient again, and records, while the erasure still runs.
func TestRecordingsUnderANewKeyAreNotErased(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		for name, hook := range map[string]func(do func()) (*hookedKeyring, *hookedStore){
			"before the objects are listed": func(do func()) (*hookedKeyring, *hookedStore) {
				return &hookedKeyring{Keyring: d.eraser}, &hookedStore{Store: d.Store, list: on(3, do)}
			},
			"after they were listed": func(do func()) (*hookedKeyring, *hookedStore) {
				return &hookedKeyring{Keyring: d.eraser, versions: on(3, do)}, &hookedStore{Store: d.Store}
			},
			"before they are listed again": func(do func()) (*hookedKeyring, *hookedStore) {
				return &hookedKeyring{Keyring: d.eraser}, &hookedStore{Store: d.Store, list: on(4, do)}
			},
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				d.put(t, patient)
				plan, err := d.erasure(t).PlanPatient(t.Context(), id)
				require.NoError(t, err)
				var recorded vault.ID
				keyring, store := hook(func() {
					_, err := d.admin.Enrol(t.Context(), patient)
					require.NoError(t, err)
					recorded = d.put(t, patient)
				})
				_, err = newErasure(t, keyring, store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.False(t, recorded.IsZero())
				require.ErrorIs(t, err, erasure.ErrIncomplete)
				require.ErrorIs(t, err, erasure.ErrPlanChanged)
				require.NoError(t, d.open(t, patient, recorded))
				_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.ErrorIs(t, err, erasure.ErrPlanChanged)
				require.NoError(t, d.open(t, patient, recorded))
			})
		}
	})
}

// on returns a hook that acts on one call, counted from 1.
func on(want int, do func()) func(int) {
	return func(call int) {
		if call == want {
			do()
		}
	}
}

func TestObjectsWrittenDuringAnErasureAreDeleted(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	d.put(t, patient)
	late := d.objects.EnvelopeName(keystest.NewRecordingID(id))
	text := teststore.Read(t, d.Store, d.Objects(t, "", id)[0])
	plan, err := d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	var once sync.Once
	store := &hookedStore{Store: d.Store, delete: func(ctx context.Context, name string) error {
		once.Do(func() { teststore.Write(t, d.Store, late, text) })
		return d.Store.Delete(ctx, name)
	}}
	receipt, err := newErasure(t, d.eraser, store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.NoError(t, err)
	assert.Empty(t, d.Objects(t, "", id))
	assert.Equal(t, 3, receipt.ObjectsDeleted)
	assert.Len(t, receipt.Recordings, 2)

	// If objects keep appearing, the erasure gives up.
	patient, id = d.Enrol(t)
	d.put(t, patient)
	plan, err = d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	endless := d.objects.MediaName(keystest.NewRecordingID(id))
	store = &hookedStore{Store: d.Store, delete: func(ctx context.Context, name string) error {
		if err := d.Store.Delete(ctx, name); err != nil {
			return err
		}
		teststore.Write(t, d.Store, endless, text)
		return nil
	}}
	_, err = newErasure(t, d.eraser, store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(""))
	require.NoError(t, err)
	assert.Empty(t, d.Objects(t, "", id))
}

// TestThePlanIsCheckedAgainBeforeTheKeyGoes: it may have changed while the proof was prepared.
func TestThePlanIsCheckedAgainBeforeTheKeyGoes(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		for name, happens := range map[string]func(t *testing.T, patient keys.Patient, id keys.KeyID, digest string) (opens vault.ID){
			"a recording is put": func(t *testing.T, patient keys.Patient, _ keys.KeyID, _ string) vault.ID { return d.put(t, patient) },
			"the patient is erased and enrolled again": func(t *testing.T, patient keys.Patient, id keys.KeyID, digest string) vault.ID {
				_, err := d.erasure(t).ConfirmPatient(t.Context(), id, approve(digest))
				require.NoError(t, err)
				_, err = d.admin.Enrol(t.Context(), patient)
				require.NoError(t, err)
				return d.put(t, patient)
			},
			"the key is rotated": func(t *testing.T, _ keys.Patient, id keys.KeyID, _ string) vault.ID {
				require.NoError(t, d.admin.Rotate(t.Context(), id))
				return vault.ID{}
			},
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				d.put(t, patient)
				plan, err := d.erasure(t).PlanPatient(t.Context(), id)
				require.NoError(t, err)
				var opens vault.ID
				keyring := &hookedKeyring{Keyring: d.eraser, rewrap: func() { opens = happens(t, patient, id, plan.Digest) }}
				_, err = newErasure(t, keyring, d.Store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.ErrorIs(t, err, erasure.ErrPlanChanged)
				require.NotErrorIs(t, err, erasure.ErrIncomplete)
				_, err = d.admin.Versions(t.Context(), id)
				require.NoError(t, err)
				if !opens.IsZero() {
					require.NoError(t, d.open(t, patient, opens))
				}
			})
		}
	})
}

// TestANewKeyIsNotDestroyed: the last check before the key is destroyed is whether it is still the same key.
func TestANewKeyIsNotDestroyed(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t) // without recordings, which would show it
		plan, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		keyring := &hookedKeyring{Keyring: d.eraser, versions: on(2, func() { d.replaceKey(t, patient, id) })}
		_, err = newErasure(t, keyring, d.Store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.ErrorIs(t, err, erasure.ErrPlanChanged)
		_, err = d.admin.Versions(t.Context(), id)
		require.NoError(t, err)
	})
}

// replaceKey replaces a patient's key by one that was made later. Vault gives times to the second.
func (d *deployment) replaceKey(t *testing.T, patient keys.Patient, id keys.KeyID) {
	t.Helper()
	old, err := d.admin.Versions(t.Context(), id)
	require.NoError(t, err)
	for versions := old; versions.Rotated.Equal(old.Rotated); {
		require.NoError(t, d.admin.Erase(t.Context(), id))
		_, err := d.admin.Enrol(t.Context(), patient)
		require.NoError(t, err)
		versions, err = d.admin.Versions(t.Context(), id)
		require.NoError(t, err)
	}
}

// TestAFailedErasureReportsWhetherItBegan: if the keyring fails to destroy the key, the error is ErrIncomplete only
// if the key may be gone.
func TestAFailedErasureReportsWhetherItBegan(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		for name, fate := range map[string]struct{ erases, silent, begun bool }{
			"the key is there":         {erases: false, silent: false, begun: false},
			"the key is there, unseen": {erases: false, silent: true, begun: true},
			"the key is gone":          {erases: true, silent: false, begun: true},
			"the key is gone, unseen":  {erases: true, silent: true, begun: true},
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				recording := d.put(t, patient)
				plan, err := d.erasure(t).PlanPatient(t.Context(), id)
				require.NoError(t, err)
				keyring := &failingKeyring{Keyring: d.eraser, erases: fate.erases, turnsSilent: fate.silent}
				_, err = newErasure(t, keyring, d.Store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.ErrorIs(t, err, keys.ErrUnavailable)
				assert.Equal(t, fate.begun, errors.Is(err, erasure.ErrIncomplete))
				if !fate.erases {
					require.NoError(t, d.open(t, patient, recording))
				}
				_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.NoError(t, err)
			})
		}
	})
}

// failingKeyring returns an error when it is to destroy a key, which it destroys or does not. From then on it may give
// no more answers.
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

// TestNothingIsDeletedBeforeTheKeyIsSeenGone: if the keyring does not answer, there may be a new key.
func TestNothingIsDeletedBeforeTheKeyIsSeenGone(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	d.put(t, patient)
	plan, err := d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	keyring := &silentKeyring{Keyring: d.eraser}
	_, err = newErasure(t, keyring, d.Store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, keys.ErrUnavailable)
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	assert.Len(t, d.Objects(t, "", id), 2)
	_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.NoError(t, err)
	assert.Empty(t, d.Objects(t, "", id))
}

// silentKeyring does not answer after it has destroyed a key.
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

// lyingKeyring returns success and does not destroy the key. It may also hide that the key is still there.
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

// forgetful is a keyring that answers for no item.
type forgetful struct{ erasure.Keyring }

func (forgetful) Rewrap(context.Context, keys.KeyID, []keys.RewrapItem) ([]keys.RewrapResult, error) {
	return nil, nil
}

func TestIncompleteAnswersEraseAndProveNothing(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	recording := d.put(t, patient)
	e := newErasure(t, forgetful{d.eraser}, d.Store, erasure.Options{})
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, keys.ErrUnavailable)
	require.NotErrorIs(t, err, erasure.ErrIncomplete)
	require.NoError(t, d.open(t, patient, recording))
}

func TestThereIsNoReceiptForAKeyThatStillWorks(t *testing.T) {
	d := embedded(t)
	for name, c := range map[string]struct {
		hides bool
		want  error
	}{
		"the key is seen":   {false, erasure.ErrPlanChanged},
		"the key is hidden": {true, erasure.ErrKeyWorks},
	} {
		t.Run(name, func(t *testing.T) {
			patient, id := d.Enrol(t)
			d.put(t, patient)
			e := newErasure(t, &lyingKeyring{Keyring: d.eraser, hides: c.hides}, d.Store, erasure.Options{})
			plan, err := e.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			receipt, err := e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, erasure.ErrIncomplete)
			assert.Zero(t, receipt)
		})
	}
}

// TestEnvelopesThatProveNothingAreSkipped: a wrapped key that did not work before proves nothing by failing.
func TestEnvelopesThatProveNothingAreSkipped(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		for name, damage := range map[string]func(text, other string) string{
			"no envelope":          func(string, string) string { return "no envelope" },
			"an unknown version":   func(text, _ string) string { return strings.Replace(text, `"version":1`, `"version":9`, 1) },
			"of another recording": func(_, other string) string { return other },
			"another wrapped key":  func(text, _ string) string { return strings.Replace(text, ":v1:", ":v1:AAAA", 1) },
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				first, second := d.put(t, patient), d.put(t, patient)
				if first.String() > second.String() {
					first, second = second, first
				}
				text := string(teststore.Read(t, d.Store, d.objects.EnvelopeName(first)))
				other := string(teststore.Read(t, d.Store, d.objects.EnvelopeName(second)))
				teststore.Write(t, d.Store, d.objects.EnvelopeName(first), []byte(damage(text, other)))
				plan, err := d.erasure(t).PlanPatient(t.Context(), id)
				require.NoError(t, err)
				receipt, err := d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.NoError(t, err)
				require.Len(t, receipt.Proof, 2)
				assert.Equal(t, second, receipt.Proof[1].Recording)
				assert.Equal(t, "succeeded", receipt.Proof[1].Before)
			})
		}
	})
}

func TestAnErasureThatTakesTooLongCanBeRunAgain(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	d.put(t, patient)
	plan, err := d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	options := erasure.Options{DeleteTimeout: 200 * time.Millisecond}
	store := &hookedStore{Store: d.Store, delete: func(ctx context.Context, name string) error {
		deadline, _ := ctx.Deadline()
		assert.LessOrEqual(t, time.Until(deadline), options.DeleteTimeout)
		if !strings.HasSuffix(name, "/media") {
			return d.Store.Delete(ctx, name)
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	_, err = newErasure(t, d.eraser, store, options).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, storage.ErrUnavailable)
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	assert.Len(t, d.Objects(t, "", id), 1)
	_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.NoError(t, err)
	assert.Empty(t, d.Objects(t, "", id))
}

// TestMinIOWaitsForASlowReader: it does not delete an object while somebody reads it.
func TestMinIOWaitsForASlowReader(t *testing.T) {
	d := servers(t)
	patient, id := d.Enrol(t)
	recording, err := d.vault.Put(t.Context(), patient, bytes.NewReader(make([]byte, 32<<20)), vault.Metadata{})
	require.NoError(t, err)
	plan, err := d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	reader, err := d.Store.Get(t.Context(), d.objects.MediaName(recording), 0, -1)
	require.NoError(t, err)
	options := erasure.Options{DeleteTimeout: time.Second}
	_, err = newErasure(t, d.eraser, d.Store, options).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	assert.Equal(t, []string{d.objects.MediaName(recording)}, d.Objects(t, "", id))

	require.NoError(t, reader.Close())
	receipt, err := d.erasure(t).ConfirmPatient(t.Context(), id, approve(""))
	require.NoError(t, err)
	assert.Equal(t, 1, receipt.ObjectsDeleted)
	assert.Empty(t, d.Objects(t, "", id))
}

func unavailable(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, keys.ErrUnavailable)
}

// TestAResumedErasureRemovesWrappedAnswers: a run that was interrupted after the key was destroyed leaves the answers that
// a grant had Vault wrap.
func TestAResumedErasureRemovesWrappedAnswers(t *testing.T) {
	d := servers(t)
	patient, id := d.Enrol(t)
	e, err := d.objects.Envelope(t.Context(), d.put(t, patient))
	require.NoError(t, err)
	thief := d.Vault.Client(d.Grant(t, patient).Token())
	thief.SetWrappingLookupFunc(func(string, string) string { return "87600h" })
	answer, err := thief.Logical().WriteWithContext(t.Context(), d.Vault.Mount()+"/decrypt/"+id.String()+"-kek", map[string]any{
		"ciphertext": string(e.WrappedKey), "context": base64.StdEncoding.EncodeToString(e.ID.Binding().Bytes()),
	})
	require.NoError(t, err)

	broken := &failOnce{path: "/sys/leases/revoke-prefix/"}
	config := api.DefaultConfig()
	transport := config.HttpClient.Transport.(*http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	config.Address, broken.RoundTripper = d.Vault.Address(), transport
	config.HttpClient.Transport = broken
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.SetToken(d.Vault.RoleToken("eraser"))
	eraser, err := transit.New(client, transit.Options{Mount: d.Vault.Mount(), Prefix: d.Vault.Prefix(), MaxRetries: -1})
	require.NoError(t, err)
	er := newErasure(t, eraser, d.Store, erasure.Options{})
	plan, err := er.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	_, err = er.ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, erasure.ErrIncomplete)
	receipt, err := er.ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.NoError(t, err)
	assert.True(t, receipt.Resumed)
	_, err = d.Vault.Client(d.Vault.RootToken()).Logical().UnwrapWithContext(t.Context(), answer.WrapInfo.Token)
	assert.Error(t, err, "a recording key outlived the erasure")
}

// failOnce fails the first request to a path.
type failOnce struct {
	http.RoundTripper
	path string
	done atomic.Bool
}

func (f *failOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, f.path) && f.done.CompareAndSwap(false, true) {
		return nil, errors.New("connection lost")
	}
	return f.RoundTripper.RoundTrip(r)
}
