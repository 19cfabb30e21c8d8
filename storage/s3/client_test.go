package s3_test

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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

func TestNewRefusesInvalidBucketNames(t *testing.T) {
	client, err := s3.NewClient(s3.Config{Credentials: credentials.NewStaticV4("access", "secret", "")})
	require.NoError(t, err)
	for _, bucket := range []string{"", "ab", "UPPER", "under_score", "a/b", "..", "192.168.1.1", strings.Repeat("a", 64)} {
		t.Run(bucket, func(t *testing.T) {
			_, err := s3.New(client, bucket)
			assert.Error(t, err)
		})
	}
	_, err = s3.New(client, "bucket")
	assert.NoError(t, err)
}

func TestNewRefusesNilClient(t *testing.T) {
	_, err := s3.New(nil, "bucket")
	assert.Error(t, err)
}

func TestNewClientRequiresURL(t *testing.T) {
	for endpoint, want := range map[string]string{
		"":                                "https://s3.amazonaws.com",
		"http://127.0.0.1:9000":           "http://127.0.0.1:9000",
		"https://minio.example.org":       "https://minio.example.org",
		"https://minio.example.org:9000/": "https://minio.example.org:9000",
		"http://[::1]:9000":               "http://[::1]:9000",
	} {
		t.Run(endpoint, func(t *testing.T) {
			client, err := s3.NewClient(s3.Config{Endpoint: endpoint})
			require.NoError(t, err)
			assert.Equal(t, want, client.EndpointURL().String())
		})
	}
	for _, endpoint := range []string{
		"minio.example.org", "minio.example.org:9000", "127.0.0.1:9000", "ftp://minio.example.org", "https://", "https://minio.example.org/path",
		"https://minio.example.org?query", "https://user:canary@minio.example.org", "https://user:canary@minio.example.org:port", "://",
	} {
		t.Run(endpoint, func(t *testing.T) {
			_, err := s3.NewClient(s3.Config{Endpoint: endpoint})
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestNewClientTrustsOnlyCAFile(t *testing.T) {
	server := testserver.MinIO(t, testserver.TLS())
	config := s3.Config{
		Endpoint:    "https://" + server.Endpoint(),
		Region:      server.Region(),
		CAFile:      server.CAFile(),
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	}
	assertWorks(t, config, server.Bucket())

	config.CAFile, config.MaxRetries = "", -1
	client, err := s3.NewClient(config)
	require.NoError(t, err)
	store, err := s3.New(client, server.Bucket())
	require.NoError(t, err)
	_, err = store.Stat(t.Context(), "object")
	assert.ErrorIs(t, err, storage.ErrUnavailable, "no trusted authority has signed the certificate")

	other := httptest.NewTLSServer(http.NotFoundHandler())
	defer other.Close()
	config.CAFile = filepath.Join(t.TempDir(), "other.pem")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw})
	require.NoError(t, os.WriteFile(config.CAFile, authority, 0o600))
	client, err = s3.NewClient(config)
	require.NoError(t, err)
	store, err = s3.New(client, server.Bucket())
	require.NoError(t, err)
	_, err = store.Stat(t.Context(), "object")
	assert.ErrorContains(t, err, "certificate", "another authority has not signed it")

	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for name, file := range map[string]string{"empty file": empty, "missing file": empty + ".missing"} {
		t.Run(name, func(t *testing.T) {
			config := config
			config.CAFile = file
			_, err := s3.NewClient(config)
			assert.Error(t, err)
		})
	}
}

func TestNewClientFindsCredentials(t *testing.T) {
	server := testserver.MinIO(t)
	file := filepath.Join(t.TempDir(), "credentials")
	profile := "[default]\naws_access_key_id = " + server.AccessKey() + "\naws_secret_access_key = " + server.SecretKey() + "\n"
	require.NoError(t, os.WriteFile(file, []byte(profile), 0o600))
	for name, environment := range map[string]map[string]string{
		"AWS environment":      {"AWS_ACCESS_KEY_ID": server.AccessKey(), "AWS_SECRET_ACCESS_KEY": server.SecretKey()},
		"MinIO environment":    {"MINIO_ROOT_USER": server.AccessKey(), "MINIO_ROOT_PASSWORD": server.SecretKey()},
		"AWS credentials file": {"AWS_SHARED_CREDENTIALS_FILE": file},
		"AWS region":           {"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_REGION": server.Region()},
		"AWS default region":   {"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_DEFAULT_REGION": server.Region()},
	} {
		t.Run(name, func(t *testing.T) {
			withoutCredentials(t)
			for variable, value := range environment {
				t.Setenv(variable, value)
			}
			assertWorks(t, s3.Config{Endpoint: "http://" + server.Endpoint(), Transport: server.Transport()}, server.Bucket())
		})
	}
}

// withoutCredentials makes an environment in which no credentials are found.
func withoutCredentials(t *testing.T) {
	t.Helper()
	for _, variable := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
		"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
	} {
		t.Setenv(variable, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
}

// minio-go fetches credentials apart from the request that needs them, and all others wait for that.
func TestSilentIdentityServerIsErrUnavailable(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/identity" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"AccessKeyId":`)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-ended:
		case <-r.Context().Done():
		case <-time.After(2 * quickEnd):
		}
	}))
	defer server.Close()
	defer close(ended)
	withoutCredentials(t)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.URL+"/identity")
	transport := server.Client().Transport.(*http.Transport)
	transport.DisableKeepAlives = true // a fetch that outlives the test's environment asks another server, which would keep the connection
	config := s3.Config{Endpoint: server.URL, Region: "us-east-1", Transport: transport}
	client, err := s3.NewClientWithin(config, time.Second)
	require.NoError(t, err)
	store, err := s3.New(client, "bucket", quick...)
	require.NoError(t, err)
	for range 2 {
		begun := time.Now()
		_, err = store.Stat(t.Context(), "object")
		assert.ErrorIs(t, err, storage.ErrUnavailable)
		assert.Less(t, time.Since(begun), quickEnd)
	}
}

func TestPathStyleWorks(t *testing.T) {
	server := testserver.MinIO(t)
	assertWorks(t, s3.Config{
		Endpoint:    "http://" + server.Endpoint(),
		PathStyle:   true,
		Transport:   server.Transport(),
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	}, server.Bucket())
}

// A Store sends its checksums as headers before the data, so its client needs no support for trailing
// headers.
func TestClientWithoutTrailingHeadersWorks(t *testing.T) {
	server := testserver.MinIO(t)
	client, err := minio.New(server.Endpoint(), &minio.Options{
		Creds:     credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
		Transport: server.Transport(),
	})
	require.NoError(t, err)
	assertClientWorks(t, client, server.Bucket())
	assertClientWorks(t, client, server.Bucket(), s3.SignedPayload())
}

// assertWorks checks that a client with this configuration can write and read.
func assertWorks(t *testing.T, config s3.Config, bucket string) {
	t.Helper()
	client, err := s3.NewClient(config)
	require.NoError(t, err)
	assertClientWorks(t, client, bucket)
}

func assertClientWorks(t *testing.T, client *minio.Client, bucket string, options ...s3.Option) {
	t.Helper()
	store, err := s3.New(client, bucket, options...)
	require.NoError(t, err)
	for _, size := range []int{7, 2 * partSize} {
		_, err = store.Put(t.Context(), "object", strings.NewReader(strings.Repeat("x", size)), -1, storage.Condition{})
		require.NoError(t, err)
		assert.Len(t, read(t, store, "object"), size)
	}
}
