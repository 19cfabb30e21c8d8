// Package devserver runs a real Vault and a real MinIO for developers. A directory keeps each server's data, port and
// log, so that the next start goes on where the last one ended.
package devserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/internal/testserver/binary"
	"github.com/recvault/recvault/internal/testserver/process"
)

const (
	startTimeout = 60 * time.Second // until a server answers
	stopTimeout  = 30 * time.Second // after SIGTERM
	lockTimeout  = 5 * time.Second  // for a server that is being ended, after its process was killed
	pollInterval = 50 * time.Millisecond
)

// Server is a running Vault or MinIO. It ends with the process that started it, even if that is killed.
type Server struct {
	Address string // host and port, on the loopback interface
	Dir     string // of its data, port and log

	program binary.Program
	process *process.Process
}

// StartVault starts the program of Vault on a directory. Vault is sealed, and at the first start not initialised.
func StartVault(ctx context.Context, path, dir string) (*Server, error) {
	s := &Server{Dir: dir, program: binary.Vault}
	return s, s.start(ctx, "127.0.0.1:8200", "/v1/sys/seal-status", func() ([]string, error) {
		config, err := json.Marshal(map[string]any{
			"listener":      map[string]any{"tcp": map[string]any{"address": s.Address, "tls_disable": true}},
			"storage":       map[string]any{"file": map[string]any{"path": filepath.Join(dir, "data")}},
			"api_addr":      s.URL(),
			"disable_mlock": true,
			"log_level":     "info",
		})
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "config.json")
		return []string{path, "server", "-config=" + file}, os.WriteFile(file, config, 0o600)
	})
}

// StartMinIO starts the program of MinIO on a directory, with the root user's credentials. The secret has 8 characters
// or more.
func StartMinIO(ctx context.Context, path, dir, accessKey, secretKey string) (*Server, error) {
	s := &Server{Dir: dir, program: binary.MinIO}
	return s, s.start(ctx, "127.0.0.1:9000", "/minio/health/ready", func() ([]string, error) {
		return []string{path, "server", "--address", s.Address, filepath.Join(dir, "data")}, nil
	}, "MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
}

// start starts the server and waits until a request for the path succeeds. It takes the port of the last start, or
// that of the preferred address, or another one if that is taken.
func (s *Server) start(ctx context.Context, preferred, path string, command func() ([]string, error), env ...string) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// The server inherits the lock with its log, so it lasts until the server has ended.
	locking, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	if err := filelock.Lock(locking, log); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("start %s: it already runs on %s", s.program, s.Dir)
	} else if err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	if err := s.chooseAddress(ctx, preferred); err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	args, err := command()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	// The developer's own VAULT_* and MINIO_* settings are left out.
	env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+s.Dir)
	s.process, err = process.Start(process.Command{Args: args, Env: env, Dir: s.Dir, Log: log})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	if err := s.await(ctx, path); err != nil {
		s.process.Kill()
		return fmt.Errorf("start %s: %w (see %s)", s.program, err, s.LogFile())
	}
	return nil
}

// chooseAddress sets the address, and keeps it for the next start.
func (s *Server) chooseAddress(ctx context.Context, preferred string) error {
	file := filepath.Join(s.Dir, "address")
	if kept, err := os.ReadFile(file); err == nil {
		preferred = string(kept)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", preferred)
	if err != nil {
		if listener, err = config.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	s.Address = listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(s.Address), 0o600)
}

// await waits until the server answers.
func (s *Server) await(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy
	for {
		if err := s.Ended(); err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+path, nil)
		if err != nil {
			return err
		}
		if response, err := client.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// URL returns the server's URL.
func (s *Server) URL() string { return "http://" + s.Address }

// LogFile returns the path of the server's log.
func (s *Server) LogFile() string { return filepath.Join(s.Dir, "log") }

// Ended returns an error if the server has ended.
func (s *Server) Ended() error {
	if s.process.Ended() {
		return fmt.Errorf("%s has ended (see %s)", s.program, s.LogFile())
	}
	return nil
}

// Stop shuts the server down, and waits for at most 30 seconds until it has ended.
func (s *Server) Stop() error {
	if err := s.process.Terminate(stopTimeout); err != nil {
		return fmt.Errorf("stop %s: %w", s.program, err)
	}
	return nil
}
