// Package browser_test drives Debian's Chromium through examples/portal. It plays recordings and seeks in them
// as a person does, and re-enacts the bug of 2020. The screenshots are kept in screenshots/.
//
//	make browser
//	go test . -run Leaked -update    # replaces examples/portal/screenshot.png
package browser_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testserver"
)

// update makes the tests write the README's screenshot.
var update = flag.Bool("update", false, "write examples/portal/screenshot.png")

// binary is the portal's program, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "recvault-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "portal")
	build := exec.Command("go", "build", "-o", binary, "./examples/portal")
	build.Dir = filepath.Join("..", "..")
	if printed, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the portal: %v\n%s", err, printed)
		return 1
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// onEachDeployment runs a test on the embedded default and on a real Vault and a real MinIO.
func onEachDeployment(t *testing.T, test func(t *testing.T, environment []string)) {
	t.Run("embedded", func(t *testing.T) { test(t, nil) })
	t.Run("servers", func(t *testing.T) {
		_, environment := onServers(t)
		test(t, environment)
	})
}

// onServers returns a real Vault, and an environment that names it and a real MinIO.
func onServers(t *testing.T) (vault *testserver.VaultServer, environment []string) {
	t.Helper()
	vault, s3 := testserver.Vault(t), testserver.MinIO(t)
	return vault, []string{
		"VAULT_ADDR=" + vault.Address(),
		"VAULT_TOKEN=" + vault.RootToken(),
		"AWS_ENDPOINT_URL=http://" + s3.Endpoint(),
		"AWS_REGION=" + s3.Region(),
		"AWS_ACCESS_KEY_ID=" + s3.AccessKey(),
		"AWS_SECRET_ACCESS_KEY=" + s3.SecretKey(),
		"RECVAULT_BUCKET=" + s3.Bucket(),
	}
}

// startPortal runs the real program and returns its address. When the test ends, it sends SIGINT to the program
// and requires that the program removes its files.
func startPortal(t *testing.T, environment []string, arguments ...string) string {
	t.Helper()
	var log lockedBuffer
	command := exec.Command(binary, append([]string{"-addr", "127.0.0.1:0"}, arguments...)...)
	temporary := t.TempDir()
	// The portal gets no other environment variable, as one may name a server.
	command.Env = append([]string{"TMPDIR=" + temporary, "HOME=" + temporary}, environment...)
	command.Stderr = &log
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		require.NoError(t, command.Process.Signal(syscall.SIGINT))
		err := command.Wait()
		if err != nil || t.Failed() {
			t.Logf("the portal ended with %v and logged:\n%s", err, &log)
		}
		require.NoError(t, err, "the portal failed to clean up")
		left, err := os.ReadDir(temporary)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "portal: http"); ok {
			return strings.TrimSuffix("http"+url, "/")
		}
	}
	require.FailNow(t, "the portal did not start", "%s", &log)
	return ""
}

// lockedBuffer is a buffer that the portal's process writes while the test reads it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
