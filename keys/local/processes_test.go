package local_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/local"
)

// childEnv names the function of children that the test binary runs instead of the tests.
const childEnv = "RECVAULT_LOCAL_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

var children = map[string]func(dir string, args []string) error{
	"enrol":  enrolChild,
	"rotate": rotateChild,
	"use":    useChild,
	"end":    endChild,
	"churn":  churnChild,
	"open":   openChild,
}

// child returns a command that runs the test binary as another process.
func child(t *testing.T, name, dir string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, append([]string{dir}, args...)...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// runAll runs processes concurrently and returns the lines that they printed.
func runAll(t *testing.T, cmds ...*exec.Cmd) []string {
	t.Helper()
	outputs := make([]bytes.Buffer, len(cmds))
	for i, cmd := range cmds {
		cmd.Stdout = &outputs[i]
		require.NoError(t, cmd.Start())
	}
	var lines []string
	for i, cmd := range cmds {
		assert.NoError(t, cmd.Wait())
		lines = append(lines, strings.Split(strings.TrimSpace(outputs[i].String()), "\n")...)
	}
	require.False(t, t.Failed(), "a process failed")
	return lines
}

const processes, rounds = 4, 10

// enrolChild enrols patients, and wraps a key for each.
func enrolChild(dir string, _ []string) error {
	keyring, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	for i := range rounds {
		id, err := keyring.Enrol(context.Background(), keys.Patient("patient-"+strconv.Itoa(i)))
		if err != nil {
			return err
		}
		key := keys.NewKey()
		binding := keystest.NewRecordingID(id).Binding()
		wrapped, err := keyring.Wrap(context.Background(), binding, key)
		if err != nil {
			return err
		}
		fmt.Println(binding.RecordingID(), wrapped, hex.EncodeToString(key.Bytes()))
	}
	return nil
}

func parseRecording(t *testing.T, fields []string) recording {
	t.Helper()
	require.Len(t, fields, 3)
	id, err := keys.ParseRecordingID(fields[0])
	require.NoError(t, err)
	key, err := hex.DecodeString(fields[2])
	require.NoError(t, err)
	return recording{id.Binding(), keys.WrappedKey(fields[1]), key}
}

func TestProcessesThatEnrolAPatientShareOneKey(t *testing.T) {
	dir := newDir(t) // the first process makes it
	var cmds []*exec.Cmd
	for range processes {
		cmds = append(cmds, child(t, "enrol", dir))
	}
	lines := runAll(t, cmds...)
	require.Len(t, lines, processes*rounds)

	keyring := open(t, dir, local.Options{})
	grants := make(map[keys.KeyID]keys.Grant)
	for i := range rounds {
		grant := issue(t, keyring, keys.Patient("patient-"+strconv.Itoa(i)), 0)
		grants[grant.KeyID()] = grant
	}
	for _, line := range lines {
		rec := parseRecording(t, strings.Fields(line))
		assert.NoError(t, unwrap(keyring, grants[rec.binding.KeyID()], rec))
	}
}

// rotateChild rotates the envelope key of the KeyID in args.
func rotateChild(dir string, args []string) error {
	keyring, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	id, err := keys.ParseKeyID(args[0])
	for range rounds {
		if err == nil {
			err = keyring.Rotate(context.Background(), id)
		}
	}
	return err
}

func TestProcessesThatRotateLoseNoVersion(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	id := enrol(t, keyring, "alice")
	rec := wrap(t, keyring, id)
	var cmds []*exec.Cmd
	for range processes {
		cmds = append(cmds, child(t, "rotate", dir, id.String()))
	}
	runAll(t, cmds...)
	versions, err := keyring.Versions(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, keys.Versions{Latest: 1 + processes*rounds, MinDecryption: 1, MinAvailable: 1, Rotated: versions.Rotated, Now: versions.Now, Label: versions.Label}, versions)
	assert.NoError(t, unwrap(keyring, issue(t, keyring, "alice", 0), rec))
}

// useChild tries to unwrap with the grant, and prints how often it succeeded.
func useChild(dir string, args []string) error {
	keyring, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	grant, err := keys.ParseGrant(args[0])
	if err != nil {
		return err
	}
	id, err := keys.ParseRecordingID(args[1])
	if err != nil {
		return err
	}
	used := 0
	for range rounds {
		if _, err := keyring.Unwrap(context.Background(), grant, id.Binding(), keys.WrappedKey(args[2])); err == nil {
			used++
		}
	}
	fmt.Println(used)
	return nil
}

func TestProcessesShareTheUsesOfAGrant(t *testing.T) {
	const uses = 17
	require.Less(t, uses, processes*rounds)
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	grant := issue(t, keyring, "alice", uses)
	var cmds []*exec.Cmd
	for range processes {
		cmds = append(cmds, child(t, "use", dir, grant.Reveal(), rec.binding.RecordingID().String(), string(rec.wrapped)))
	}
	sum := 0
	for _, line := range runAll(t, cmds...) {
		used, err := strconv.Atoi(line)
		require.NoError(t, err)
		sum += used
	}
	assert.Equal(t, uses, sum)
	assertEnded(t, unwrap(keyring, grant, rec), "used up by the other processes")
}

// endChild revokes a grant and erases its patient.
func endChild(dir string, args []string) error {
	keyring, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	if err := keyring.Revoke(context.Background(), args[0]); err != nil {
		return err
	}
	id, err := keys.ParseKeyID(args[1])
	if err != nil {
		return err
	}
	return keyring.Erase(context.Background(), id)
}

func TestChangesByAnotherProcessAreSeenAtOnce(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	rec := wrap(t, keyring, enrol(t, keyring, "alice"))
	revoked, kept := issue(t, keyring, "alice", 0), issue(t, keyring, "alice", 0)
	require.NoError(t, unwrap(keyring, revoked, rec))
	runAll(t, child(t, "end", dir, revoked.Accessor(), rec.binding.KeyID().String()))
	assertEnded(t, unwrap(keyring, revoked, rec), "revoked by another process")
	assert.ErrorIs(t, unwrap(keyring, kept, rec), keys.ErrErased)
}

// churnChild makes changes until it is killed. It prints each one after the call for it returned, and
// announces each retirement and erasure before the call.
func churnChild(dir string, args []string) error {
	keyring, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for i := 0; ; i++ {
		patient := keys.Patient(args[0] + "-" + strconv.Itoa(i))
		id, err := keyring.Enrol(ctx, patient)
		if err != nil {
			return err
		}
		key := keys.NewKey()
		binding := keystest.NewRecordingID(id).Binding()
		for range 2 {
			wrapped, err := keyring.Wrap(ctx, binding, key)
			if err != nil {
				return err
			}
			fmt.Println("wrapped", string(patient), binding.RecordingID(), wrapped, hex.EncodeToString(key.Bytes()))
			if err := keyring.Rotate(ctx, id); err != nil {
				return err
			}
		}
		grant, err := keyring.Issue(ctx, patient, keys.GrantOptions{TTL: time.Hour, Subject: "s", Purpose: keys.Treatment, MaxUses: 2})
		if err != nil {
			return err
		}
		fmt.Println("issued", string(patient), grant.Reveal())
		if err := keyring.RevokeSelf(ctx, grant); err != nil {
			return err
		}
		fmt.Println("revoked", string(patient), grant.Reveal())
		if i%2 == 1 {
			fmt.Println("retiring", string(patient))
			if err := keyring.Retire(ctx, id, 2); err != nil {
				return err
			}
			fmt.Println("retired", string(patient))
			if err := keyring.Trim(ctx, id, 2); err != nil {
				return err
			}
			fmt.Println("trimmed", string(patient))
		}
		if i%2 == 0 {
			fmt.Println("erasing", string(patient))
			if err := keyring.Erase(ctx, id); err != nil {
				return err
			}
			fmt.Println("erased", string(patient))
		}
	}
}

// openChild prints a line and then opens a new keyring.
func openChild(dir string, _ []string) error {
	fmt.Println("opening")
	_, err := local.Open(dir, local.Options{})
	return err
}

// killed starts a process, kills it a delay after it printed a number of lines, and returns all lines.
func killed(t *testing.T, cmd *exec.Cmd, after int, delay time.Duration) []string {
	t.Helper()
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	reader := bufio.NewReader(output)
	var lines []string
	for {
		line, err := reader.ReadString('\n')
		if err == io.EOF {
			break // without a line that was cut short
		}
		require.NoError(t, err)
		lines = append(lines, strings.TrimSpace(line))
		if len(lines) == after {
			time.Sleep(delay) // so that the kill comes at any point, not only just after a line
			require.NoError(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // killed
	require.GreaterOrEqual(t, len(lines), after, "the process ended by itself")
	return lines
}

func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	dir := newDir(t)
	facts := make(map[string][]string) // patient -> lines about them, in order
	for round := range 12 {
		name := "patient-" + strconv.Itoa(round)
		delay := time.Duration(rand.IntN(3000)) * time.Microsecond
		for _, line := range killed(t, child(t, "churn", dir, name), 1+rand.IntN(40), delay) {
			patient := strings.Fields(line)[1]
			facts[patient] = append(facts[patient], line)
		}

		keyring := open(t, dir, local.Options{})
		assert.Empty(t, list(t, dir, "tmp"))
		for patient, lines := range facts {
			checkFacts(t, keyring, keys.Patient(patient), lines)
		}
		require.NoError(t, keyring.Close())
		require.False(t, t.Failed(), "killed %v after the line that was waited for", delay)
	}
}

func checkFacts(t *testing.T, keyring *local.Keyring, patient keys.Patient, lines []string) {
	t.Helper()
	erasing := strings.Contains(strings.Join(lines, "\n"), "erasing")
	retiring := strings.Contains(strings.Join(lines, "\n"), "retiring") // version 1
	grant := issue(t, keyring, patient, 0)
	for _, line := range lines {
		fields := strings.Fields(line)
		switch fields[0] {
		case "wrapped":
			rec := parseRecording(t, fields[2:])
			version, err := rec.wrapped.Version()
			require.NoError(t, err)
			err = unwrap(keyring, grant, rec)
			switch {
			case err == nil:
			case erasing:
				assert.ErrorIs(t, err, keys.ErrErased)
			case retiring && version == 1:
				assert.ErrorIs(t, err, keys.ErrRetired)
			default:
				assert.NoError(t, err, "a wrapped key was lost")
			}
		case "retired":
			versions, err := keyring.Versions(t.Context(), grant.KeyID())
			require.NoError(t, err)
			assert.Equal(t, 2, versions.MinDecryption, "a retirement was lost")
		case "trimmed":
			versions, err := keyring.Versions(t.Context(), grant.KeyID())
			require.NoError(t, err)
			assert.Equal(t, 2, versions.MinAvailable, "a trim was lost")
		case "revoked":
			revoked, err := keys.ParseGrant(fields[2])
			require.NoError(t, err)
			assert.ErrorIs(t, keyring.RevokeSelf(t.Context(), revoked), keys.ErrInvalidGrant, "a revocation was lost")
		case "erased":
			_, err := keyring.Versions(t.Context(), grant.KeyID())
			assert.ErrorIs(t, err, keys.ErrErased, "an erasure was lost")
		}
	}
}

func TestKeyringOpensAfterAKillDuringOpen(t *testing.T) {
	for range 25 {
		dir := newDir(t)
		delay := time.Duration(rand.IntN(4000)) * time.Microsecond
		killed(t, child(t, "open", dir), 1, delay)
		keyring := open(t, dir, local.Options{})
		rec := wrap(t, keyring, enrol(t, keyring, "alice"))
		assert.NoError(t, unwrap(keyring, issue(t, keyring, "alice", 0), rec), "killed after %v", delay)
		require.NoError(t, keyring.Close())
	}
}
