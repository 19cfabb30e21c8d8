package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Config says which server to use and how. The zero Config is Amazon S3 with the environment's
// credentials.
type Config struct {
	// Endpoint is the server's URL, "https://minio.example.org:9000" or, unencrypted,
	// "http://127.0.0.1:9000". It has no path: the bucket is given to [New]. If empty, it is that of
	// Amazon S3.
	Endpoint string

	// Region is the bucket's region. If empty, it is taken from AWS_REGION or AWS_DEFAULT_REGION in
	// the environment, and if they are empty too, the server is asked.
	Region string

	// PathStyle puts the bucket's name into the URL's path everywhere. Otherwise it stands in the
	// host's name where the endpoint is known to want that (Amazon, Google, Alibaba), and in the path
	// elsewhere.
	PathStyle bool

	// CAFile names a file with the certificates, in PEM, of the authorities to trust in place of the
	// system's. It is not used with a Transport.
	CAFile string

	// Transport sends the requests. If nil, it is one made for large transfers, which gives up
	// connecting after 3 seconds, and waiting for an answer after a minute.
	Transport http.RoundTripper

	// Credentials sign the requests. If nil, they are looked for where AWS and MinIO programs do, in
	// this order: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, MINIO_ROOT_USER and
	// MINIO_ROOT_PASSWORD there, the AWS credentials file, and the identity of the machine, container
	// or Kubernetes service account (IAM, IRSA). Requests are not signed if there are none.
	Credentials *credentials.Credentials
}

// attempts is how often a request is sent that fails for reasons that may pass. With minio-go's backoff
// of at most a second, a server that refuses connections is given up within 3 seconds.
const attempts = 4

// NewClient returns a client for [New]. It sends nothing.
func NewClient(config Config) (*minio.Client, error) {
	client, err := newClient(config)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	return client, nil
}

func newClient(config Config) (*minio.Client, error) {
	host, secure, err := parseEndpoint(config.Endpoint)
	if err != nil {
		return nil, err
	}
	if config.Transport == nil {
		config.Transport, err = newTransport(secure, config.CAFile)
		if err != nil {
			return nil, err
		}
	}
	if config.Region == "" {
		config.Region = os.Getenv("AWS_REGION")
	}
	if config.Region == "" {
		config.Region = os.Getenv("AWS_DEFAULT_REGION")
	}
	if config.Credentials == nil {
		config.Credentials = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{},
			&credentials.EnvMinio{},
			&credentials.FileAWSCredentials{},
			&credentials.IAM{},
		})
	}
	lookup := minio.BucketLookupAuto
	if config.PathStyle {
		lookup = minio.BucketLookupPath
	}
	return minio.New(host, &minio.Options{
		Creds:           config.Credentials,
		Secure:          secure,
		Region:          config.Region,
		BucketLookup:    lookup,
		Transport:       config.Transport,
		TrailingHeaders: true, // for other uses of the client: the Store sends its checksums in front
		MaxRetries:      attempts,
	})
}

// parseEndpoint returns the host, with its port, of an endpoint's URL. The errors do not repeat the URL: it
// may hold a password, if mistakenly.
func parseEndpoint(endpoint string) (host string, secure bool, err error) {
	if endpoint == "" {
		return "s3.amazonaws.com", true, nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", false, errors.New(`the endpoint is not a URL like "https://minio.example.org:9000"`)
	case u.User != nil:
		return "", false, errors.New("the endpoint's URL has a user in it: give credentials apart")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", false, errors.New("the endpoint's URL has more than a scheme, a host and a port")
	}
	return u.Host, u.Scheme == "https", nil
}

// newTransport returns minio-go's own transport, less patient, and with buffers that suit large bodies.
func newTransport(secure bool, caFile string) (*http.Transport, error) {
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	transport.DialContext = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns // there is one host, and jobs keep many requests under way
	transport.ReadBufferSize = 64 << 10
	transport.WriteBufferSize = 64 << 10
	if caFile == "" {
		return transport, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("the CA file holds no certificate")
	}
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.RootCAs = pool
	return transport, nil
}
