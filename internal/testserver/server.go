package testserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/testserver/binary"
	"github.com/recvault/recvault/internal/testserver/process"
)

const (
	startTimeout  = 60 * time.Second // until a server answers
	startAttempts = 5                // each on a new port, unless the server already had one
	stopTimeout   = 30 * time.Second // after SIGTERM
	pollInterval  = 5 * time.Millisecond
	readyTimeout  = 5 * time.Second // for one check whether a server is ready
	logLines      = 200             // maximum that is printed of a log
)

var (
	errNotBuilt = errors.New(`run "make servers" to build it`)
	errEnded    = errors.New("the server ended")
)

// server is what the servers have in common: a program, a directory, an address and, while the server
// runs, a process.
type server struct {
	program binary.Program
	path    string        // of the program
	dir     string        // contains all files that the server writes
	address string        // host and port; a restart keeps them
	tls     *certificates // nil for unencrypted HTTP

	mu      sync.Mutex
	process *process.Process // nil while the server is stopped
}

// configuration is the part that differs between the servers.
type configuration interface {
	// command writes the server's configuration for its address, and returns its arguments and environment.
	command() (arguments, environment []string, err error)

	// ready returns nil if this server answers at its address, and an error if none or another does.
	ready(ctx context.Context) error
}

func newServer(ctx context.Context, program binary.Program, o options) (*server, error) {
	path, err := program.Find()
	if errors.Is(err, binary.ErrMissing) {
		if os.Getenv("RECVAULT_SERVERS") != "require" {
			return nil, fmt.Errorf("%w: %w, or name one in %s", err, errNotBuilt, program.Variable())
		}
		path, err = program.Build(ctx)
	}
	if err != nil {
		return nil, err
	}
	// t.TempDir would not do: the guard must be able to remove the whole directory.
	dir, err := os.MkdirTemp("", "recvault-"+string(program)+"-")
	if err != nil {
		return nil, err
	}
	s := &server{program: program, path: path, dir: dir}
	if o.tls {
		files, err := writeCertificates(dir)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		s.tls = &files
	}
	return s, nil
}

// start starts the server and waits until it is ready. Another process may take the chosen port before the
// server binds it. Then start tries again: on a new port, unless the server already had an address.
func (s *server) start(ctx context.Context, c configuration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	fresh := s.address == ""
	var err error
	for range startAttempts {
		if fresh {
			if s.address, err = freeAddress(ctx); err != nil {
				return err
			}
		}
		if s.process, err = s.attempt(ctx, c); !errors.Is(err, errEnded) {
			return err
		}
	}
	return err
}

func (s *server) attempt(ctx context.Context, c configuration) (*process.Process, error) {
	arguments, environment, err := c.command()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	logged := s.logSize()
	// The rest of the environment is left out, as it may contain the developer's VAULT_* and MINIO_* settings.
	environment = append(environment, "PATH="+os.Getenv("PATH"), "HOME="+s.dir)
	started, err := process.Start(process.Command{
		Args: append([]string{s.path}, arguments...), Env: environment, Dir: s.dir, Remove: true, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.program, err)
	}
	for {
		if started.Ended() {
			return nil, fmt.Errorf("start %s: %w:\n%s", s.program, errEnded, s.logTail(logged))
		}
		err := c.ready(ctx)
		if err == nil {
			return started, nil
		}
		select {
		case <-ctx.Done():
			started.Kill()
			return nil, fmt.Errorf("start %s: %w: %w:\n%s", s.program, ctx.Err(), err, s.logTail(logged))
		case <-time.After(pollInterval):
		}
	}
}

// freeAddress returns a loopback address with a free port. The port is below the range that systems assign to
// outgoing connections, so that none of these takes it while the server is stopped.
func freeAddress(ctx context.Context) (string, error) {
	const low, ports, attempts = 20000, 12000, 100
	for range attempts {
		offset, err := rand.Int(rand.Reader, big.NewInt(ports))
		if err != nil {
			return "", err
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(low+int(offset.Int64())))
		var config net.ListenConfig
		if listener, err := config.Listen(ctx, "tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", fmt.Errorf("no free port in %d attempts", attempts)
}

// stop shuts the server down. It returns nil if the server is not running.
func (s *server) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	err := s.process.Terminate(stopTimeout)
	s.process = nil
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.program, err)
	}
	return nil
}

// kill ends the server at once, if it is running.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.Kill()
		s.process = nil
	}
}

// remove kills the server and removes its directory.
func (s *server) remove() error {
	s.kill()
	return os.RemoveAll(s.dir)
}

// transport returns a new transport that trusts the server's certificate.
func (s *server) transport() (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if s.tls == nil {
		return transport, nil
	}
	authority, err := os.ReadFile(s.tls.ca)
	if err != nil {
		return nil, err
	}
	transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s: no certificate", s.tls.ca)
	}
	return transport, nil
}

func (s *server) url() string {
	if s.tls != nil {
		return "https://" + s.address
	}
	return "http://" + s.address
}

func (s *server) caFile() string {
	if s.tls == nil {
		return ""
	}
	return s.tls.ca
}

func (s *server) logFile() string { return filepath.Join(s.dir, "log") }

// logSize returns the size of the log in bytes.
func (s *server) logSize() int64 { return fileSize(s.logFile()) }

// fileSize returns the size of a file in bytes, or 0 if it does not exist.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail returns the last lines of the log, starting at byte from or later.
func (s *server) logTail(from int64) []byte {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.SplitAfter(log[min(from, int64(len(log))):], []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-logLines-1):], nil)
}

// randomName returns 2n random characters in lower-case hexadecimal.
func randomName(n int) string {
	random := make([]byte, n)
	_, _ = rand.Read(random) // never fails: crypto/rand crashes the program instead
	return hex.EncodeToString(random)
}
