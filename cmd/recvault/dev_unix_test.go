//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/testserver/binary"
	"github.com/recvault/recvault/internal/testserver/process"
)

// devRun is a running recvault dev.
type devRun struct {
	t       *testing.T
	command *exec.Cmd
	printed string // on standard output
}

// startDev starts recvault dev on a directory and waits until its servers are ready.
func startDev(d *deployment, data string) *devRun {
	d.t.Helper()
	run := &devRun{t: d.t, command: d.command("dev", "--data", data)}
	stdout, err := os.Create(d.path("stdout"))
	require.NoError(d.t, err)
	defer stdout.Close()
	run.command.Stdout = stdout
	stderr, err := run.command.StderrPipe()
	require.NoError(d.t, err)
	require.NoError(d.t, run.command.Start())
	d.t.Cleanup(func() { _ = run.command.Process.Kill() })
	line, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(d.t, err)
	require.Contains(d.t, line, "Ctrl-C stops both servers")
	run.printed = readFile(d.t, stdout.Name())
	return run
}

// end sends a signal and returns the error of the process.
func (r *devRun) end(signal os.Signal) error {
	r.t.Helper()
	require.NoError(r.t, r.command.Process.Signal(signal))
	return r.command.Wait()
}

// exported returns the environment of a shell in which the printed settings were run, with a role's token.
func exported(t *testing.T, printed, role string) map[string]string {
	t.Helper()
	common, choice, found := strings.Cut(printed, "# And one of these")
	require.True(t, found)
	for line := range strings.Lines(choice) {
		if strings.Contains(line, filepath.Join(tokensDir, role)+"'") || role == "" && strings.HasPrefix(line, "unset VAULT_TOKEN") {
			common += line
		}
	}
	shell := exec.Command("sh", "-e", "-c", common+"env -0")
	shell.Env = []string{"PATH=" + os.Getenv("PATH"), "VAULT_TOKEN=of another Vault", "AWS_SECRET_ACCESS_KEY=of another store"}
	output, err := shell.Output()
	require.NoError(t, err)
	environment := map[string]string{}
	for pair := range strings.SplitSeq(string(output), "\x00") {
		name, value, _ := strings.Cut(pair, "=")
		environment[name] = value
	}
	return environment
}

// asPrinted returns the deployment with the printed settings of a process.
func (d *deployment) asPrinted(printed, role string) *deployment {
	d.t.Helper()
	copied := *d
	copied.environment = exported(d.t, printed, role)
	copied.binary = ""
	return &copied
}

// storeAsPrinted enrols a patient, puts a recording and returns its ID and the file of a grant for it.
func (d *deployment) storeAsPrinted(printed string, data []byte) (id, grant string) {
	d.t.Helper()
	patient := d.patient("alice")
	d.asPrinted(printed, "enroller").run("enrol", "--patient-file", patient).ok()
	id = d.asPrinted(printed, "writer").run("put", "--patient-file", patient, d.file("recording", data)).line()
	grant = d.path("grant")
	d.asPrinted(printed, "granter").run("grant", "--patient-file", patient, "--subject", "dr-lee", "--purpose", "TREAT", "--out", grant).ok()
	return id, grant
}

// play opens a recording with a grant alone.
func (d *deployment) play(printed, id, grant string) string {
	d.t.Helper()
	return d.asPrinted(printed, "").run("get", "--grant-file", grant, "--out", "-", id).ok().stdout
}

func TestDevKeepsRecordingsOverRestarts(t *testing.T) {
	testserver.Vault(t) // skips the test without the programs
	testserver.MinIO(t)
	d := newDeployment(t).asProcess()
	for _, name := range []string{"PATH", "HOME", "XDG_CACHE_HOME", binary.Vault.Variable(), binary.MinIO.Variable()} {
		d.environment[name] = os.Getenv(name)
	}
	d.environment["VAULT_ADDR"], d.environment["VAULT_TOKEN"] = "http://127.0.0.1:1", "of another Vault"
	data := d.path("it's data") // must be quoted
	first := startDev(d, data)
	recording := random(t, 100_000)
	id, grant := d.storeAsPrinted(first.printed, recording)
	require.Equal(t, string(recording), d.play(first.printed, id, grant))

	files, err := filepath.Glob(filepath.Join(data, tokensDir, "*"))
	require.NoError(t, err)
	require.Len(t, files, 11, "nine roles, the root token and the S3 secret")
	for _, path := range append(files, filepath.Join(data, vaultKeys)) {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
		assert.NotContains(t, first.printed, strings.TrimSpace(readFile(t, path)))
	}

	again := d.run("dev", "--data", data).exits(exitFailure)
	assert.Contains(t, again.stderr, "already runs")
	require.NoError(t, first.end(syscall.SIGINT), "Ctrl-C is how it ends")
	for _, server := range []string{"VAULT_ADDR", "AWS_ENDPOINT_URL"} {
		url := exported(t, first.printed, "")[server]
		_, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		assert.ErrorIs(t, err, syscall.ECONNREFUSED, server)
	}

	second := startDev(d, data)
	assert.Equal(t, first.printed, second.printed, "settings that were exported still hold")
	assert.Equal(t, string(recording), d.play(first.printed, id, grant))
	require.Error(t, second.end(syscall.SIGKILL))

	third := startDev(d, data)
	assert.Equal(t, first.printed, third.printed)
	assert.Equal(t, string(recording), d.play(first.printed, id, grant))
	require.NoError(t, os.Remove(grant))
	other, grant := d.storeAsPrinted(third.printed, recording)
	assert.Equal(t, string(recording), d.play(third.printed, other, grant))
	require.NoError(t, third.end(syscall.SIGTERM))
}

func TestDevRefusesSettingsOfOtherServers(t *testing.T) {
	d := newDeployment(t)
	for name, args := range map[string][]string{
		"a directory":         {"--dir", d.path("dir")},
		"a token":             {"--token-file", d.path("token")},
		"Vault alone":         {"--vault-addr", "http://127.0.0.1:1"},
		"the S3 server alone": {"--endpoint", "http://127.0.0.1:1"},
		"no credentials":      {"--vault-addr", "http://127.0.0.1:1", "--endpoint", "http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			d.in(t).run(append([]string{"dev", "--data", d.path("data")}, args...)...).exits(exitUsage)
		})
	}
}

// composeFile has what the test below checks of compose.yaml.
type composeFile struct {
	Services map[string]struct {
		Image, Command string
		NetworkMode    string `yaml:"network_mode"`
		Environment    map[string]string
		Ports, Volumes []string
	}
	Volumes map[string]any
}

// No test machine has a container engine, so the commands of compose.yaml run on the programs that are built here.
func TestComposeCommandsWork(t *testing.T) {
	testserver.Vault(t)
	testserver.MinIO(t)
	var file composeFile
	require.NoError(t, yaml.Unmarshal([]byte(readFile(t, filepath.Join("..", "..", "compose.yaml"))), &file))
	vaultService, minioService, setupService := file.Services["vault"], file.Services["minio"], file.Services["setup"]
	assert.Equal(t, "server", vaultService.Command, "to which the image's entry point adds the configuration")
	for name, service := range file.Services {
		assert.NotContains(t, service.Image, ":latest")
		for _, port := range service.Ports {
			assert.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s: only this machine reaches port %s", name, port)
		}
		if name != "vault" {
			assert.Equal(t, "service:vault", service.NetworkMode, name)
		}
	}
	assert.Contains(t, file.Volumes, strings.Split(vaultService.Volumes[0], ":")[0])
	assert.Contains(t, file.Volumes, strings.Split(minioService.Volumes[0], ":")[0])

	d := newDeployment(t)
	vaultAddress, minioAddress := freeAddress(t), freeAddress(t)
	here := strings.NewReplacer(
		"0.0.0.0:8200", vaultAddress, "127.0.0.1:8200", vaultAddress, "/vault/file", d.path("vault"),
		"0.0.0.0:9000", minioAddress, "127.0.0.1:9000", minioAddress, " /data", " "+d.path("minio"),
		"${PWD}/recvault-dev", d.path("it's"), "${RECVAULT_S3_SECRET:-recvault-development}", "recvault-development")
	config := here.Replace(vaultService.Environment["VAULT_LOCAL_CONFIG"])
	require.True(t, json.Valid([]byte(config)))
	start := func(program binary.Program, args string, environment map[string]string) *process.Process {
		path, err := program.Find()
		require.NoError(t, err)
		log, err := os.OpenFile(d.path(string(program)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		defer log.Close()
		command := process.Command{Args: append([]string{path}, strings.Fields(args)...), Env: []string{"HOME=" + d.home}, Dir: d.home, Log: log}
		for name, value := range environment {
			command.Env = append(command.Env, name+"="+here.Replace(value))
		}
		server, err := process.Start(command)
		require.NoError(t, err)
		t.Cleanup(func() {
			server.Kill()
			if t.Failed() {
				t.Log(readFile(t, log.Name()))
			}
		})
		return server
	}
	setup := func() string {
		for name, value := range setupService.Environment {
			d.environment[name] = here.Replace(value)
		}
		var o *outcome
		require.Eventually(t, func() bool { // restart: on-failure
			o = d.run(strings.Fields(here.Replace(setupService.Command))...)
			return o.code == exitOK
		}, time.Minute, 100*time.Millisecond)
		return o.stdout
	}

	vaultArgs := vaultService.Command + " -config=" + d.file("local.json", []byte(config))
	servers := []*process.Process{
		start(binary.Vault, vaultArgs, nil),
		start(binary.MinIO, here.Replace(minioService.Command), minioService.Environment),
	}
	printed := setup()
	recording := random(t, 100_000)
	id, grant := d.storeAsPrinted(printed, recording)
	for _, server := range servers {
		require.NoError(t, server.Terminate(time.Minute))
	}
	start(binary.Vault, vaultArgs, nil)
	start(binary.MinIO, here.Replace(minioService.Command), minioService.Environment)
	assert.Equal(t, printed, setup(), "it unseals Vault and finds everything as it was")
	assert.Equal(t, string(recording), d.play(printed, id, grant))
	log, err := os.ReadFile(d.path("vault.log"))
	require.NoError(t, err)
	assert.True(t, bytes.Contains(log, []byte(`"path":"recordings/decrypt/`)), "the audit log is in the container's")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// TestDevTakesNoConfigurationFile: the file may name a deployment, which dev would set up.
func TestDevTakesNoConfigurationFile(t *testing.T) {
	d := newDeployment(t)
	config := d.file("config.yaml", []byte("vault-addr: https://vault.example.org\nendpoint: https://minio.example.org\n"))
	o := d.with("RECVAULT_CONFIG", config).run("dev", "--data", d.path("data")).exits(exitUsage)
	assert.Contains(t, o.stderr, "RECVAULT_CONFIG")
	assert.NoDirExists(t, d.path("data"))
}
