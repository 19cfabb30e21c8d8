// Package teststore reads and changes objects in a store without the library, and makes a store's calls fail, for
// tests.
package teststore

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// S3 returns a store in the test's bucket.
func S3(t testing.TB, server *testserver.MinIOServer) *s3.Store {
	t.Helper()
	client, err := s3.NewClient(s3.Config{
		Endpoint: "http://" + server.Endpoint(), Transport: server.Transport(), Region: server.Region(),
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	})
	require.NoError(t, err)
	store, err := s3.New(client, server.Bucket())
	require.NoError(t, err)
	return store
}

// Names lists the names of the objects that begin with prefix. It can be called in a Cleanup.
func Names(t testing.TB, store storage.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	for object, err := range store.List(context.WithoutCancel(t.Context()), prefix) {
		require.NoError(t, err)
		names = append(names, object.Name)
	}
	return names
}

// Read returns an object.
func Read(t testing.TB, store storage.Store, name string) []byte {
	t.Helper()
	object, err := store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	data, err := io.ReadAll(object)
	require.NoError(t, err)
	return data
}

// Write creates or replaces an object, as anyone with access to the store can.
func Write(t testing.TB, store storage.Store, name string, data []byte) {
	t.Helper()
	_, err := store.Put(t.Context(), name, bytes.NewReader(data), int64(len(data)), storage.Condition{})
	require.NoError(t, err)
}
