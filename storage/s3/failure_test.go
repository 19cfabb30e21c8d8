package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// operations are the operations of a store, with the variants that send other requests.
var operations = map[string]func(context.Context, storage.Store) error{
	"Put": func(ctx context.Context, store storage.Store) error {
		_, err := store.Put(ctx, "object", strings.NewReader("content"), -1, storage.Condition{})
		return err
	},
	"Put if absent": func(ctx context.Context, store storage.Store) error {
		_, err := store.Put(ctx, "object", strings.NewReader("content"), 7, storage.IfAbsent())
		return err
	},
	"Put if it matches": func(ctx context.Context, store storage.Store) error {
		_, err := store.Put(ctx, "object", strings.NewReader("content"), 7, storage.IfMatch("etag"))
		return err
	},
	"large Put": func(ctx context.Context, store storage.Store) error {
		_, err := store.Put(ctx, "object", bytes.NewReader(make([]byte, 2*partSize)), -1, storage.Condition{})
		return err
	},
	"Get": func(ctx context.Context, store storage.Store) error {
		_, err := store.Get(ctx, "object", 0, -1)
		return err
	},
	"Get of nothing": func(ctx context.Context, store storage.Store) error {
		_, err := store.Get(ctx, "object", 0, 0)
		return err
	},
	"Stat": func(ctx context.Context, store storage.Store) error {
		_, err := store.Stat(ctx, "object")
		return err
	},
	"List": func(ctx context.Context, store storage.Store) error {
		for _, err := range store.List(ctx, "") {
			return err
		}
		return nil
	},
	"Delete": func(ctx context.Context, store storage.Store) error {
		return store.Delete(ctx, "object")
	},
}

// assertAllFail checks that every operation fails with the error want, within the given time. It runs all
// operations at the same time, because each waits for its retries. It returns the texts of the errors.
func assertAllFail(t *testing.T, store storage.Store, want error, within time.Duration) string {
	t.Helper()
	errs := make(chan error, len(operations))
	for name, operation := range operations {
		go func() {
			began := time.Now()
			err := operation(t.Context(), store)
			assert.ErrorIs(t, err, want, name)
			assert.Less(t, time.Since(began), within, name)
			errs <- err
		}()
	}
	var texts strings.Builder
	for range operations {
		fmt.Fprintln(&texts, <-errs)
	}
	return texts.String()
}

func TestWrongCredentialsAreErrDenied(t *testing.T) {
	server := testserver.MinIO(t)
	for name, wrong := range map[string]*credentials.Credentials{
		"unknown key":       credentials.NewStaticV4("CANARYACCESS", "canary-secret", ""),
		"wrong secret":      credentials.NewStaticV4(server.AccessKey(), "canary-secret", ""),
		"unknown session":   credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), "canary-token"),
		"no credentials":    credentials.NewStaticV4("", "", ""),
		"old signature":     credentials.NewStaticV2("CANARYACCESS", "canary-secret", ""),
		"unsigned requests": credentials.New(&credentials.Static{Value: credentials.Value{SignerType: credentials.SignatureAnonymous}}),
	} {
		for _, region := range []string{server.Region(), ""} {
			t.Run(name+" in region "+region, func(t *testing.T) {
				client, err := s3.NewClient(s3.Config{
					Endpoint:    "http://" + server.Endpoint(),
					Region:      region,
					Transport:   server.Transport(),
					Credentials: wrong,
				})
				require.NoError(t, err)
				store, err := s3.New(client, server.Bucket())
				require.NoError(t, err)
				texts := assertAllFail(t, store, storage.ErrDenied, 5*time.Second)
				assert.NotContains(t, strings.ToLower(texts), "canary")
				assert.NotContains(t, texts, server.AccessKey())
				assert.NotContains(t, texts, server.SecretKey())
			})
		}
	}
}

func TestMissingBucketIsErrNoBucket(t *testing.T) {
	server := testserver.MinIO(t)
	assertAllFail(t, open(t, server, "no-such-bucket"), storage.ErrNoBucket, 5*time.Second)
}

func TestUnreachableServerIsErrUnavailable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			store := openEndpoint(t, scheme+"://"+address)
			texts := assertAllFail(t, store, storage.ErrUnavailable, time.Minute)
			assert.NotContains(t, texts, "canary")
		})
	}
}

func openEndpoint(t *testing.T, endpoint string) *s3.Store {
	t.Helper()
	client, err := s3.NewClient(s3.Config{
		Endpoint:    endpoint,
		Region:      "us-east-1",
		Credentials: credentials.NewStaticV4("access", "canary-secret", "canary-token"),
	})
	require.NoError(t, err)
	store, err := s3.New(client, "bucket")
	require.NoError(t, err)
	return store
}

func TestSilentServerIsLeftWhenContextEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				io.Copy(io.Discard, connection) // until the client gives up
				connection.Close()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		connections.Wait()
	})
	store := openEndpoint(t, "http://"+listener.Addr().String())
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began := time.Now()
			assert.ErrorIs(t, operation(ctx, store), context.DeadlineExceeded)
			assert.Less(t, time.Since(began), 5*time.Second)
		})
	}
}

func TestServerKilledDuringPut(t *testing.T) {
	server := testserver.MinIO(t, testserver.Dedicated())
	store := open(t, server, server.Bucket())
	_, err := store.Put(t.Context(), "old", strings.NewReader("content"), -1, storage.Condition{})
	require.NoError(t, err)
	for _, name := range []string{"old", "new"} {
		t.Run(name+" object", func(t *testing.T) {
			read := 0
			endless := readerFunc(func(p []byte) (int, error) {
				if before := read; before < 5*partSize && before+len(p) >= 5*partSize {
					server.Kill(t)
				}
				read += len(p)
				return len(p), nil
			})
			began := time.Now()
			_, err := store.Put(t.Context(), name, endless, -1, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrUnavailable)
			assert.Less(t, time.Since(began), 40*time.Second, "about 15 seconds of retries, and 5 for the abort")
			server.Restart(t)
		})
	}
	assert.Equal(t, "content", string(read(t, store, "old")))
	_, err = store.Stat(t.Context(), "new")
	assert.ErrorIs(t, err, storage.ErrNotFound)
	_, err = store.Put(t.Context(), "new", bytes.NewReader(make([]byte, 2*partSize)), -1, storage.IfAbsent())
	assert.NoError(t, err, "a Put works after the restart")
}

func TestServerKilledDuringGet(t *testing.T) {
	server := testserver.MinIO(t, testserver.Dedicated())
	store := open(t, server, server.Bucket())
	content := noise(4 * partSize)
	_, err := store.Put(t.Context(), "object", bytes.NewReader(content), -1, storage.Condition{})
	require.NoError(t, err)
	object, err := store.Get(t.Context(), "object", 0, -1)
	require.NoError(t, err)
	defer object.Close()
	_, err = io.ReadFull(object, make([]byte, 1000))
	require.NoError(t, err)
	server.Kill(t)
	n, err := io.Copy(io.Discard, object)
	assert.ErrorIs(t, err, storage.ErrUnavailable, "a body that breaks off has no normal end")
	assert.Less(t, n, int64(len(content)-1000))

	server.Restart(t)
	assert.True(t, bytes.Equal(content, read(t, store, "object")))
}

func TestStoppedServerWorksAfterRestart(t *testing.T) {
	server := testserver.MinIO(t, testserver.Dedicated())
	store := open(t, server, server.Bucket())
	_, err := store.Put(t.Context(), "object", strings.NewReader("content"), -1, storage.Condition{})
	require.NoError(t, err)
	server.Stop(t)
	assertAllFail(t, store, storage.ErrUnavailable, time.Minute)
	server.Restart(t)
	assert.Equal(t, "content", string(read(t, store, "object")))
	for name, operation := range operations {
		if name == "Get" || name == "Stat" || name == "Put" {
			t.Run(name, func(t *testing.T) { assert.NoError(t, operation(t.Context(), store)) })
		}
	}
}

func TestForbiddenOperationsAreErrDenied(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	// Anonymous users may only list.
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},` +
		`"Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::` + store.bucket + `"]}]}`
	require.NoError(t, store.client.SetBucketPolicy(t.Context(), store.bucket, policy))
	_, err := store.Put(t.Context(), "object", strings.NewReader("content"), -1, storage.Condition{})
	require.NoError(t, err)

	client, err := minio.New(server.Endpoint(), &minio.Options{
		Creds:     credentials.NewStatic("", "", "", credentials.SignatureAnonymous),
		Region:    server.Region(),
		Transport: server.Transport(),
	})
	require.NoError(t, err)
	anonymous, err := s3.New(client, store.bucket)
	require.NoError(t, err)
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			err := operation(t.Context(), anonymous)
			if name == "List" {
				assert.NoError(t, err)
			} else {
				assert.ErrorIs(t, err, storage.ErrDenied)
			}
		})
	}
	assert.Equal(t, "content", string(read(t, store, "object")))
}

// readerFunc is a function that implements io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
