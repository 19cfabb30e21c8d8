package s3

// SetMaxParts limits the parts of an upload to n. S3's own limit would take hundreds of gigabytes to test.
func (s *Store) SetMaxParts(n int64) { s.maxParts = n }

// SetCopyPartSize sets the size of a copy's parts. It must be at least 16 MiB.
func (s *Store) SetCopyPartSize(n int64) { s.copyPartSize = n }
