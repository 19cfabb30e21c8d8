package s3

import (
	"time"

	"github.com/minio/minio-go/v7"
)

// NewClientWithin is NewClient with another limit for a request for the machine's identity.
func NewClientWithin(config Config, credentialTimeout time.Duration) (*minio.Client, error) {
	return newClient(config, credentialTimeout)
}

// SetMaxParts limits the parts of an upload to n. S3's own limit would take hundreds of gigabytes to test.
func (s *Store) SetMaxParts(n int64) { s.maxParts = n }

// SetCopyPartSize sets the size of a copy's parts. It must be at least 16 MiB.
func (s *Store) SetCopyPartSize(n int64) { s.copyPartSize = n }
