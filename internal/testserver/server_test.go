package testserver

import (
	"context"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver/binary"
)

func TestServerOnTakenPortIsNotReady(t *testing.T) {
	t.Parallel()
	t.Run("vault", func(t *testing.T) {
		t.Parallel()
		other := Vault(t, Dedicated())
		s, err := newServer(t.Context(), binary.Vault, options{})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.remove()) })
		s.address = other.vault.address
		v := &vault{server: s, identity: randomName(16)}
		assert.ErrorIs(t, v.start(t.Context(), v), errEnded)
		assert.Nil(t, s.process)
	})
	t.Run("minio", func(t *testing.T) {
		t.Parallel()
		other := MinIO(t, Dedicated())
		s, err := newServer(t.Context(), binary.MinIO, options{})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.remove()) })
		s.address = other.Endpoint()
		m := &minioServer{server: s, accessKey: randomName(8), secretKey: randomName(16)}
		assert.ErrorIs(t, m.start(t.Context(), m), errEnded)
		assert.Nil(t, s.process)
	})
}

// taken is a Vault that finds its port taken at the first few starts, by a listener of the test.
type taken struct {
	*vault
	t         *testing.T
	times     int
	addresses []string
}

func (c *taken) command() (arguments, environment []string, err error) {
	c.addresses = append(c.addresses, c.address)
	if len(c.addresses) <= c.times {
		var config net.ListenConfig
		listener, err := config.Listen(c.t.Context(), "tcp", c.address)
		require.NoError(c.t, err)
		c.t.Cleanup(func() { assert.NoError(c.t, listener.Close()) })
	}
	return c.vault.command()
}

func TestServerTriesAnotherPort(t *testing.T) {
	t.Parallel()
	Vault(t) // skips the test without the program
	s, err := newServer(t.Context(), binary.Vault, options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.remove()) })
	c := &taken{vault: &vault{server: s, identity: randomName(16)}, t: t, times: 2}
	require.NoError(t, s.start(t.Context(), c))
	require.Len(t, c.addresses, 3)
	assert.NotEqual(t, c.addresses[0], c.addresses[2])
	assert.NotEqual(t, c.addresses[1], c.addresses[2])
	assert.Equal(t, c.addresses[2], s.address)
}

func TestStartStopsWhenContextEnds(t *testing.T) {
	t.Parallel()
	Vault(t)
	s, err := newServer(t.Context(), binary.Vault, options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.remove()) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := &vault{server: s, identity: randomName(16)}
	assert.ErrorIs(t, v.start(ctx, v), context.Canceled)
	assert.Nil(t, s.process)
}

func TestSharedServerCannotBeEnded(t *testing.T) {
	t.Parallel()
	v, m := Vault(t), MinIO(t)
	for name, end := range map[string]func(testing.TB){
		"seal vault":    v.Seal,
		"stop vault":    v.Stop,
		"kill vault":    v.Kill,
		"restart vault": v.Restart,
		"stop minio":    m.Stop,
		"kill minio":    m.Kill,
		"restart minio": m.Restart,
	} {
		t.Run(name, func(t *testing.T) {
			inner := &recorder{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				end(inner)
			}()
			<-done
			assert.Contains(t, inner.fatal, "request it with Dedicated()")
		})
	}
	assert.NoError(t, v.vault.ready(t.Context()))
	assert.NoError(t, m.minio.ready(t.Context()))
}

// recorder records a failure instead of failing the enclosing test.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Fatal(args ...any) {
	for _, arg := range args {
		text, _ := arg.(string)
		r.fatal += text
	}
	runtime.Goexit()
}

func TestLogTailIsBounded(t *testing.T) {
	t.Parallel()
	s := &server{dir: t.TempDir()}
	assert.Zero(t, s.logSize())
	assert.NotEmpty(t, s.logTail(0), "logTail returns the reason why there is no log")

	require.NoError(t, os.WriteFile(s.logFile(), []byte(strings.Repeat("early\n", 10)+strings.Repeat("line\n", logLines+1)+"last\n"), 0o600))
	assert.Equal(t, strings.Repeat("line\n", logLines-1)+"last\n", string(s.logTail(0)))
	assert.Equal(t, "last\n", string(s.logTail(s.logSize()-5)))
	assert.Empty(t, s.logTail(s.logSize()+1))
}
