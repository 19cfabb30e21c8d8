package s3

import (
	"cmp"
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

// Config selects a server, its certificates and the credentials. The zero Config means Amazon S3 with the
// credentials of the environment.
type Config struct {
	// Endpoint is the server's URL, such as "https://minio.example.org:9000" or, unencrypted,
	// "http://127.0.0.1:9000". It has no path: [New] takes the bucket. The default is Amazon S3.
	Endpoint string

	// Region is the bucket's region. The default is AWS_REGION or AWS_DEFAULT_REGION in the
	// environment. If both are empty, the client requests the region from the server.
	Region string

	// PathStyle puts the bucket's name into the path of every URL. By default, it is part of the host
	// name on endpoints that are known to require that (Amazon, Google, Alibaba), and in the path on
	// others.
	PathStyle bool

	// CAFile names a PEM file with the certificates of the authorities to trust, which replace those of
	// the system. A Transport ignores it.
	CAFile string

	// Transport sends the requests. The default suits large transfers. It gives up connecting after 3
	// seconds. The client limits the answers of any Transport: an error's body to 64 KiB, and every other
	// answer that is not an object's contents to 8 MiB. It follows no redirect. [RequestTimeout] and
	// [IdleTimeout], options of [New], limit how long a Store waits.
	Transport http.RoundTripper

	// MaxRetries is how often a request is sent again after a failure that may be temporary: no connection, an answer
	// that breaks off, an overloaded server or an internal error. The wait before a retry is half a second on average
	// and at most one. With the default of 31, the client gives up a server that refuses connections after about 15
	// seconds. [RequestTimeout] limits a request with all its retries, and so does the context. Negative means never.
	MaxRetries int

	// Credentials sign the requests. If nil, NewClient looks for them where AWS and MinIO programs do,
	// in this order: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, MINIO_ROOT_USER and
	// MINIO_ROOT_PASSWORD there, the AWS credentials file, and the identity of the machine, container
	// or Kubernetes service account (IAM, IRSA). If it finds none, requests are not signed. It waits at most
	// 30 seconds for each answer to a request for an identity. minio-go fetches credentials for all requests
	// together, so neither a request's context nor [RequestTimeout] ends that: Credentials of the caller's own
	// need a limit of their own, such as http.Client.Timeout, for the whole of an answer.
	Credentials *credentials.Credentials
}

// maxRetries is the default of Config.MaxRetries. minio-go waits a random time before each retry, of at most a second
// and half a second on average, so the client rides out an outage of ten seconds.
const maxRetries = 31

// credentialTimeout limits one request for the identity of the machine, with its answer's body.
const credentialTimeout = 30 * time.Second

// NewClient returns a client for [New]. It sends no request.
func NewClient(config Config) (*minio.Client, error) {
	client, err := newClient(config, credentialTimeout)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	return client, nil
}

func newClient(config Config, credentialTimeout time.Duration) (*minio.Client, error) {
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
	config.Region = cmp.Or(config.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if config.Credentials == nil {
		config.Credentials = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{},
			&credentials.EnvMinio{},
			&credentials.FileAWSCredentials{},
			// minio-go holds a lock while it waits for the answer, and later requests wait for that without a limit.
			&credentials.IAM{Client: &http.Client{Transport: limiter{config.Transport}, Timeout: credentialTimeout}},
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
		Transport:       limiter{config.Transport},
		TrailingHeaders: true,                                              // for the client's other users: the Store sends checksums as headers
		MaxRetries:      1 + max(cmp.Or(config.MaxRetries, maxRetries), 0), // for minio-go, the first attempt counts
	})
}

// parseEndpoint returns the host and port of an endpoint's URL. The errors do not repeat the URL, as it may
// contain a password by mistake.
func parseEndpoint(endpoint string) (host string, secure bool, err error) {
	if endpoint == "" {
		return "s3.amazonaws.com", true, nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", false, errors.New(`the endpoint is not a URL like "https://minio.example.org:9000"`)
	case u.User != nil:
		return "", false, errors.New("the endpoint's URL contains a user: set Credentials instead")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", false, errors.New("the endpoint's URL may only have a scheme, a host and a port")
	}
	return u.Host, u.Scheme == "https", nil
}

// newTransport returns minio-go's default transport with a shorter connection timeout, shorter headers and larger buffers.
func newTransport(secure bool, caFile string) (*http.Transport, error) {
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	transport.DialContext = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	transport.MaxResponseHeaderBytes = maxHeaders
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns // there is one host, and jobs send many requests at once
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
		return nil, fmt.Errorf("the CA file %s contains no certificate", caFile)
	}
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.RootCAs = pool
	return transport, nil
}
