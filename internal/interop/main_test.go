// Package interop_test proves that recordings cross between recvault and two other implementations of the media's
// format, both ways: github.com/google/tink/go v1.7.0 and github.com/tink-crypto/tink-go/v2, each with its own public
// API and a process of its own.
//
//	make interop    # ends with one line of counts
package interop_test

import (
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/interop/peer"
)

var (
	seed       = flag.Uint64("seed", 1, "of the sizes and contents of recordings, and of the sizes of reads and writes")
	recordings = flag.Int("recordings", 1000, "number of recordings that each writer makes")
)

var (
	programs string   // the directory of tink1 and tink2
	counts   []string // what the tests counted, for one line at the end
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "recvault-interop-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-o", programs, "./tink1", "./tink2")
	if printed, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs of both Tinks: %v\n%s", err, printed)
		return 1
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if len(counts) > 0 {
			fmt.Println("interop: " + strings.Join(counts, "; "))
		}
	}
	return code
}

// tink is a process that encrypts and decrypts with one Tink.
type tink struct {
	jobs    *gob.Encoder
	results *gob.Decoder
}

// startTink starts a program, which runs until the test ends.
func startTink(t *testing.T, program string) *tink {
	t.Helper()
	command := exec.Command(filepath.Join(programs, program))
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, command.Wait())
	})
	return &tink{gob.NewEncoder(in), gob.NewDecoder(out)}
}

// do does a job. Its error is the Tink's own.
func (p *tink) do(t *testing.T, job peer.Job) ([]byte, error) {
	t.Helper()
	require.NoError(t, p.jobs.Encode(job))
	var result peer.Result
	require.NoError(t, p.results.Decode(&result))
	if result.Error != "" {
		return result.Data, errors.New(result.Error)
	}
	return result.Data, nil
}
