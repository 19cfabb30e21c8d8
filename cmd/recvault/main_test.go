package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

// update makes the tests write the golden files before they compare them.
var update = flag.Bool("update", false, "write the golden files in testdata")

// deployment is the place, in a directory or on servers, where a test's commands find keys and recordings.
type deployment struct {
	t    *testing.T
	home string // an empty directory for the test's files

	environment map[string]string
	vault       *testserver.VaultServer // nil without servers
	tokens      map[string]string       // by role; empty for a directory, which has no roles
	secrets     []string                // that no command may print

	binary string // if not empty, commands run as processes of this program
}

// onEachBackend runs a test in a directory, and on real servers with a token for each role.
func onEachBackend(t *testing.T, test func(t *testing.T, d *deployment)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) { test(t, inDirectory(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, onServers(t)) })
}

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	return &deployment{t: t, home: t.TempDir(), environment: map[string]string{}}
}

func inDirectory(t *testing.T) *deployment {
	t.Helper()
	d := newDeployment(t)
	d.environment["RECVAULT_DIR"] = filepath.Join(d.home, "recvault")
	d.run("setup").ok()
	return d
}

func onServers(t *testing.T) *deployment {
	t.Helper()
	return onVault(t, testserver.Vault(t))
}

// onVault is onServers with this Vault.
func onVault(t *testing.T, v *testserver.VaultServer) *deployment {
	t.Helper()
	d := newDeployment(t)
	m := testserver.MinIO(t)
	d.vault = v
	d.environment["VAULT_ADDR"] = v.Address()
	d.environment["RECVAULT_MOUNT"] = v.Mount()
	d.environment["RECVAULT_POLICY_PREFIX"] = v.Prefix()
	d.environment["AWS_ENDPOINT_URL"] = "http://" + m.Endpoint()
	d.environment["AWS_REGION"] = m.Region()
	d.environment["RECVAULT_BUCKET"] = m.Bucket()
	d.environment["RECVAULT_PREFIX"] = "clinic/"
	d.environment["AWS_ACCESS_KEY_ID"] = m.AccessKey()
	d.environment["AWS_SECRET_ACCESS_KEY"] = m.SecretKey()
	d.secrets = append(d.secrets, m.SecretKey(), v.RootToken())
	d.tokens = map[string]string{"setup": v.RootToken()}
	d.as("setup").run("setup", "--max-grant-ttl", "1h", "--no-doctor").ok()
	for _, role := range []string{"enroller", "writer", "granter", "revoker", "rotator", "retirer", "trimmer", "eraser", "auditor"} {
		d.tokens[role] = v.RoleToken(role)
		d.secrets = append(d.secrets, d.tokens[role])
	}
	return d
}

// in returns the deployment for a subtest.
func (d *deployment) in(t *testing.T) *deployment {
	copied := *d
	copied.t = t
	return &copied
}

// as returns the deployment with a role's token.
func (d *deployment) as(role string) *deployment {
	d.t.Helper()
	if len(d.tokens) == 0 {
		return d
	}
	require.Contains(d.t, d.tokens, role)
	return d.with("VAULT_TOKEN", d.tokens[role])
}

// with returns the deployment with other variables in the environment: names and values.
func (d *deployment) with(pairs ...string) *deployment {
	copied := *d
	copied.environment = maps.Clone(d.environment)
	for i := 0; i < len(pairs); i += 2 {
		copied.environment[pairs[i]] = pairs[i+1]
	}
	return &copied
}

// outcome is the result of a command.
type outcome struct {
	t              *testing.T
	args           []string
	code           int
	stdout, stderr string
}

func (d *deployment) run(args ...string) *outcome {
	d.t.Helper()
	return d.runWith(nil, args...)
}

// runWith runs a command with standard input, and checks that it prints no secret.
func (d *deployment) runWith(stdin io.Reader, args ...string) *outcome {
	d.t.Helper()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	var stdout, stderr bytes.Buffer
	o := &outcome{t: d.t, args: args}
	if d.binary == "" {
		o.code = run(d.t.Context(), args, func(name string) string { return d.environment[name] }, stdin, &stdout, &stderr)
	} else {
		command := d.command(args...)
		command.Stdin, command.Stdout, command.Stderr = stdin, &stdout, &stderr
		err := command.Run()
		if _, exited := err.(*exec.ExitError); err != nil && !exited {
			require.NoError(d.t, err)
		}
		o.code = command.ProcessState.ExitCode()
	}
	o.stdout, o.stderr = stdout.String(), stderr.String()
	for _, secret := range d.secrets {
		assert.NotContains(d.t, o.stdout, secret, "%q printed a secret", args)
		assert.NotContains(d.t, o.stderr, secret, "%q printed a secret", args)
		assert.NotContains(d.t, strings.Join(args, " "), secret, "a secret among the arguments")
	}
	return o
}

// command returns a process of the program.
func (d *deployment) command(args ...string) *exec.Cmd {
	command := exec.CommandContext(context.WithoutCancel(d.t.Context()), d.binary, args...)
	for name, value := range d.environment {
		command.Env = append(command.Env, name+"="+value)
	}
	return command
}

// folder is the directory in which the program is built.
var folder string

// program builds the command, once for all tests.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "recvault")
	output, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "recvault-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(folder)
	os.Exit(code)
}

// asProcess returns the deployment with commands that run as processes of the built program.
func (d *deployment) asProcess() *deployment {
	d.t.Helper()
	path, err := program()
	require.NoError(d.t, err)
	copied := *d
	copied.binary = path
	return &copied
}

// exits checks the exit code.
func (o *outcome) exits(code int) *outcome {
	o.t.Helper()
	require.Equal(o.t, code, o.code, "%q\nstdout: %s\nstderr: %s", o.args, o.stdout, o.stderr)
	return o
}

func (o *outcome) ok() *outcome {
	o.t.Helper()
	return o.exits(exitOK)
}

// line returns the only line that was printed.
func (o *outcome) line() string {
	o.t.Helper()
	text, ok := strings.CutSuffix(o.ok().stdout, "\n")
	require.True(o.t, ok && text != "" && !strings.Contains(text, "\n"), "%q printed %q", o.args, o.stdout)
	return text
}

// object decodes the only JSON object that was printed.
func (o *outcome) object() map[string]any {
	o.t.Helper()
	return decodeOne(o.t, o.stdout)
}

// failure decodes the error: the last line on standard error.
func (o *outcome) failure() failure {
	o.t.Helper()
	lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
	for _, line := range lines {
		decodeOne(o.t, line)
	}
	var f failure
	require.NoError(o.t, json.Unmarshal([]byte(lines[len(lines)-1]), &f), "%q", o.stderr)
	require.Equal(o.t, o.code, f.Exit)
	require.NotEmpty(o.t, f.Error)
	return f
}

func decodeOne(t *testing.T, text string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	var object map[string]any
	require.NoError(t, decoder.Decode(&object), "%q", text)
	_, err := decoder.Token()
	require.ErrorIs(t, err, io.EOF, "one object: %q", text)
	return object
}

// file writes a file in the test's directory and returns its path.
func (d *deployment) file(name string, data []byte) string {
	d.t.Helper()
	path := filepath.Join(d.home, name)
	require.NoError(d.t, os.WriteFile(path, data, 0o600))
	return path
}

// path returns the path of a file in the test's directory. The file need not exist.
func (d *deployment) path(name string) string { return filepath.Join(d.home, name) }

// patient makes an identifier of the test's own, and returns the file that holds it.
func (d *deployment) patient(name string) string {
	d.t.Helper()
	identifier := "canary-" + name + "-" + rand.Text()
	d.secrets = append(d.secrets, identifier)
	return d.file(name, []byte(identifier+"\n"))
}

// enrol makes and enrols a patient.
func (d *deployment) enrol(name string) (file, keyID string) {
	d.t.Helper()
	file = d.patient(name)
	return file, d.as("enroller").run("enrol", "--patient-file", file).line()
}

// grant issues a grant and returns the file that holds it.
func (d *deployment) grant(patient, name string) string {
	d.t.Helper()
	path := d.path(name)
	d.as("granter").run("grant", "--patient-file", patient, "--subject", "dr-lee", "--purpose", "TREAT", "--out", path).ok()
	text, err := os.ReadFile(path)
	require.NoError(d.t, err)
	d.secrets = append(d.secrets, strings.TrimSpace(string(text)))
	return path
}

// put stores a recording and returns its ID.
func (d *deployment) put(patient string, data []byte) string {
	d.t.Helper()
	file := d.file("recording-"+rand.Text()+".webm", data)
	return d.as("writer").run("put", "--patient-file", patient, "--title", "Follow-up", file).line()
}

func random(t testing.TB, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, err := rand.Read(data)
	require.NoError(t, err)
	return data
}
