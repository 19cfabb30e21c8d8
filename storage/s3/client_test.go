package s3_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	client, err := s3.NewClient(s3.Config{Credentials: credentials.NewStaticV4("access", "secret", "")})
	require.NoError(t, err)
	_, err = s3.New(nil, "bucket")
	assert.Error(t, err)
	for _, bucket := range []string{"", "ab", "UPPER", "under_score", "a/b", "..", "192.168.1.1", strings.Repeat("a", 64)} {
		_, err = s3.New(client, bucket)
		assert.Error(t, err, bucket)
	}
	_, err = s3.New(client, "bucket")
	assert.NoError(t, err)
}

func TestNewClientTakesAURL(t *testing.T) {
	for endpoint, want := range map[string]string{
		"":                                "https://s3.amazonaws.com",
		"http://127.0.0.1:9000":           "http://127.0.0.1:9000",
		"https://minio.example.org":       "https://minio.example.org",
		"https://minio.example.org:9000/": "https://minio.example.org:9000",
		"http://[::1]:9000":               "http://[::1]:9000",
	} {
		client, err := s3.NewClient(s3.Config{Endpoint: endpoint})
		require.NoError(t, err, endpoint)
		assert.Equal(t, want, client.EndpointURL().String())
	}
	for _, endpoint := range []string{
		"minio.example.org", "minio.example.org:9000", "127.0.0.1:9000", "ftp://minio.example.org", "https://", "https://minio.example.org/path",
		"https://minio.example.org?query", "https://user:canary@minio.example.org", "https://user:canary@minio.example.org:port", "://",
	} {
		_, err := s3.NewClient(s3.Config{Endpoint: endpoint})
		require.Error(t, err, endpoint)
		assert.NotContains(t, err.Error(), "canary")
	}
}

func TestNewClientTrustsTheCAFile(t *testing.T) {
	server := testserver.MinIO(t, testserver.TLS())
	config := s3.Config{
		Endpoint:    "https://" + server.Endpoint(),
		Region:      server.Region(),
		CAFile:      server.CAFile(),
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	}
	works(t, config, server.Bucket())

	config.CAFile = ""
	client, err := s3.NewClient(config)
	require.NoError(t, err)
	store, err := s3.New(client, server.Bucket())
	require.NoError(t, err)
	_, err = store.Stat(t.Context(), "object")
	assert.ErrorIs(t, err, storage.ErrUnavailable, "nobody vouches for the server")

	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for _, file := range []string{empty, empty + ".missing"} {
		config.CAFile = file
		_, err = s3.NewClient(config)
		assert.Error(t, err)
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
			for _, variable := range []string{
				"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
				"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
			} {
				t.Setenv(variable, "")
			}
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
			for variable, value := range environment {
				t.Setenv(variable, value)
			}
			works(t, s3.Config{Endpoint: "http://" + server.Endpoint(), Transport: server.Transport()}, server.Bucket())
		})
	}
}

func TestPathStyle(t *testing.T) {
	server := testserver.MinIO(t)
	works(t, s3.Config{
		Endpoint:    "http://" + server.Endpoint(),
		PathStyle:   true,
		Transport:   server.Transport(),
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	}, server.Bucket())
}

// A Store sends its checksums in headers in front of the data, so it needs no client that is able to send
// them behind.
func TestAClientWithoutTrailingHeadersWillDo(t *testing.T) {
	server := testserver.MinIO(t)
	client, err := minio.New(server.Endpoint(), &minio.Options{
		Creds:     credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
		Transport: server.Transport(),
	})
	require.NoError(t, err)
	worksWith(t, client, server.Bucket())
	worksWith(t, client, server.Bucket(), s3.SignedPayload())
}

// works checks that a client that is configured so can write and read.
func works(t *testing.T, config s3.Config, bucket string) {
	t.Helper()
	client, err := s3.NewClient(config)
	require.NoError(t, err)
	worksWith(t, client, bucket)
}

func worksWith(t *testing.T, client *minio.Client, bucket string, options ...s3.Option) {
	t.Helper()
	store, err := s3.New(client, bucket, options...)
	require.NoError(t, err)
	for _, size := range []int{7, 2 * partSize} {
		_, err = store.Put(t.Context(), "object", strings.NewReader(strings.Repeat("x", size)), -1, storage.Condition{})
		require.NoError(t, err)
		assert.Len(t, read(t, store, "object"), size)
	}
}
