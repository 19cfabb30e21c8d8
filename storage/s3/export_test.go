package s3

// SetMaxParts lets a store use fewer parts for an upload than S3 permits, which are hundreds of gigabytes.
func (s *Store) SetMaxParts(n int64) { s.maxParts = n }
