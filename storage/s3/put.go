package s3

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/recvault/recvault/storage"
)

// Limits of multipart uploads.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const (
	maxSize     = 5 << 40  // S3's former limit of an object, which other servers may still have
	maxParts    = 10_000   // S3's limit of one upload
	minPartSize = 16 << 20 // our choice; S3's limit is 5 MiB

	// The parts that are sent at the same time, if they fit into maxBuffers bytes.
	maxConcurrent = 4
	maxBuffers    = maxConcurrent * minPartSize
)

const (
	// How long a request may outlive the context if its outcome decides what remains in the bucket.
	grace = 2 * time.Second
	// How long the removal of a failed upload's parts may take, and the first wait before it is repeated.
	abortTimeout = 5 * time.Second
	abortPause   = 20 * time.Millisecond
)

// checksum is the kind that the server compares.
const checksum = minio.ChecksumCRC64NVME

// putIDKey is the metadata key of the ID of the Put that wrote an object: see confirm.
const putIDKey = "Recvault-Put"

// Put implements [storage.Store]. It sends up to 16 MiB in one request. It sends more data in parts of
// 16 MiB, four at a time, each again if it fails; that takes 64 MiB of memory. If the known size exceeds
// 10,000 such parts (156 GiB), the parts are larger and fewer are sent at a time. Beyond 625 GiB, memory
// is 1/10,000 of the size. Data of unknown size beyond 156 GiB, or of known size beyond 5 TiB, fails with
// [storage.ErrTooLarge].
//
// The context does not interrupt a Read of r that blocks. After the context has ended, Put may take a few
// more seconds to remove what it has sent, and to find out whether the write has already succeeded; if so,
// it returns no error. If the server does not answer that question either, Put returns an error although
// the object may have been written. [RequestTimeout] limits the wait for a server that is silent. The
// error for a 404 without S3's code for a missing bucket is [storage.ErrUnavailable]: it is not from an S3 server. The
// Info's Modified is zero, because S3 does not return it.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("put: %w", err)
	}
	p := &put{
		store:     s,
		name:      name,
		condition: condition,
		unchecked: s.signed,
		id:        rand.Text(),
		source:    newSource(r, size),
		partSize:  s.partSize(size),
	}
	info, err := p.run(ctx)
	if err != nil {
		return storage.Info{}, fmt.Errorf("put %s: %w", name, err)
	}
	return info, nil
}

// partSize returns the size of an object's parts, a multiple of 1 MiB, such that maxParts suffice.
func (s *Store) partSize(size int64) int64 {
	const unit = 1 << 20
	needed := (size + s.maxParts - 1) / s.maxParts
	return max(minPartSize, (needed+unit-1)/unit*unit)
}

// put is one call of Put.
type put struct {
	store     *Store
	name      string
	condition storage.Condition
	unchecked bool // an upload's parts have no checksums
	id        string
	source    *source
	partSize  int64
}

// run sends the data: in one request if one part can hold it, otherwise in parts.
func (p *put) run(ctx context.Context) (storage.Info, error) {
	if p.source.size > maxSize {
		return storage.Info{}, fmt.Errorf("%w: %d bytes", storage.ErrTooLarge, p.source.size)
	}
	buffer := p.buffer()
	n, last, err := p.source.fill(ctx, buffer)
	switch {
	case err != nil:
		return storage.Info{}, err
	case last:
		return p.sendWhole(ctx, buffer[:n])
	default:
		return p.sendParts(ctx, func(uploadID string) ([]minio.ObjectPart, error) {
			return p.upload(ctx, uploadID, buffer)
		})
	}
}

// sendWhole sends the object in one request.
func (p *put) sendWhole(ctx context.Context, data []byte) (storage.Info, error) {
	options := p.options()
	p.setCondition(&options)
	options.DisableContentSha256 = true // no streaming signature by minio-go: the checksum protects the data
	sum := checksum.EncodeToString(data)
	if p.store.signed {
		// The signed SHA-256 is sent a second time, which keeps minio-go from adding a trailing checksum.
		options.UserMetadata[minio.ChecksumSHA256.Key()] = minio.ChecksumSHA256.EncodeToString(data)
	} else {
		options.UserMetadata[checksum.Key()] = sum
	}
	var sent minio.UploadInfo
	ctx, watch := p.store.watch(ctx)
	defer watch.stop()
	err := resend(func() (err error) {
		sent, err = p.store.core.PutObject(ctx, p.store.bucket, p.name, watch.body(data), int64(len(data)), "", p.sha256Hex(data), options)
		return err
	})
	if err == nil && !p.store.signed && sent.ChecksumCRC64NVME != sum {
		return storage.Info{}, errUnchecked
	}
	if err == nil {
		p.release(data)
	}
	return p.confirm(ctx, sent.ETag, err)
}

// sendParts makes the object of the parts that send sends to a multipart upload.
func (p *put) sendParts(ctx context.Context, send func(uploadID string) ([]minio.ObjectPart, error)) (info storage.Info, err error) {
	uploadID, err := p.begin(ctx)
	if err != nil {
		return storage.Info{}, err
	}
	defer func() {
		if err != nil {
			p.abort(ctx, uploadID)
		}
	}()
	parts, err := send(uploadID)
	if err != nil {
		return storage.Info{}, err
	}
	etag, err := p.join(ctx, uploadID, parts)
	return p.confirm(ctx, etag, err)
}

// begin starts a multipart upload and returns its ID. If the context ends, it still waits for the ID for the
// grace period, because an upload can only be aborted by its ID.
func (p *put) begin(ctx context.Context) (string, error) {
	extended, cancel := withGrace(ctx)
	defer cancel()
	extended, watch := p.store.watch(extended)
	defer watch.stop()
	options := p.options()
	if !p.unchecked {
		options.UserMetadata["X-Amz-Checksum-Algorithm"] = checksum.String()
		options.UserMetadata[minio.ChecksumFullObjectMode.Key()] = minio.ChecksumFullObjectMode.String()
	}
	id, err := p.store.core.NewMultipartUpload(extended, p.store.bucket, p.name, options)
	if err != nil {
		return "", p.classify(ctx, timeoutOr(extended, err))
	}
	return id, nil
}

// sendPart sends one part. If the context ends, the part is either cut, so that the server does not store it, or
// sent in full; then sendPart waits for the answer for the grace period, because an abort that overtakes the server's
// work on a part may miss it.
func (p *put) sendPart(ctx context.Context, uploadID string, number int, data []byte) (minio.ObjectPart, error) {
	options := minio.PutObjectPartOptions{DisableContentSha256: true, Sha256Hex: p.sha256Hex(data)}
	sum := checksum.EncodeToString(data)
	if !p.store.signed {
		options.CustomHeader = http.Header{http.CanonicalHeaderKey(checksum.Key()): {sum}}
	}
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	sending, watch := p.store.watch(sending)
	defer watch.stop()
	body := &partData{ctx: ctx, data: watch.body(data)}
	defer context.AfterFunc(ctx, func() { body.whenLost(cancel) })()
	var part minio.ObjectPart
	err := resend(func() (err error) {
		part, err = p.store.core.PutObjectPart(sending, p.store.bucket, p.name, uploadID, number, body, int64(len(data)), options)
		return err
	})
	if err == nil && !p.store.signed && part.ChecksumCRC64NVME != sum {
		err = errUnchecked
	}
	return part, timeoutOr(sending, err)
}

// join makes an object of the parts if the condition holds, and returns its ETag. The server compares the
// checksum of the whole object with the checksums of its parts.
func (p *put) join(ctx context.Context, uploadID string, parts []minio.ObjectPart) (etag string, err error) {
	ctx, cancel := withGrace(ctx)
	defer cancel()
	ctx, watch := p.store.watchSlow(ctx)
	defer watch.stop()
	var options minio.PutObjectOptions
	p.setCondition(&options)
	if !p.unchecked {
		whole, err := checksum.FullObjectChecksum(parts)
		if err != nil {
			return "", err
		}
		options.UserMetadata = map[string]string{
			checksum.Key():                     whole.Encoded(),
			minio.ChecksumFullObjectMode.Key(): minio.ChecksumFullObjectMode.String(),
		}
	}
	list := make([]minio.CompletePart, len(parts))
	for i, part := range parts {
		list[i] = minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag, ChecksumCRC64NVME: part.ChecksumCRC64NVME}
	}
	joined, err := p.store.core.CompleteMultipartUpload(ctx, p.store.bucket, p.name, uploadID, list, options)
	return joined.ETag, timeoutOr(ctx, err)
}

// abort removes an upload's parts, even if the context has ended. A server may still finish a part whose request has
// broken off, and keep it after the abort (documented for Amazon S3, seen on versitygw). So abort repeats until the
// server lists no part. If it fails, the upload remains incomplete: see the package's comment.
func (p *put) abort(ctx context.Context, uploadID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	for pause := abortPause; ; pause *= 2 {
		err := p.store.core.AbortMultipartUpload(ctx, p.store.bucket, p.name, uploadID)
		if err != nil && !hasCode(err, minio.NoSuchUpload) {
			return
		}
		left, err := p.store.core.ListObjectParts(ctx, p.store.bucket, p.name, uploadID, 0, 1)
		if err != nil || len(left.ObjectParts) == 0 { // usually NoSuchUpload
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// confirm returns the result of a write whose last request ended with err. If the reply to a successful
// request is lost, minio-go sends the request again, and the server refuses it: the condition fails on our
// own object. So every Put stores its ID with the object. After an error, confirm compares the ID of the
// object in the bucket with ours: if they are equal, the write has succeeded.
func (p *put) confirm(ctx context.Context, etag string, err error) (storage.Info, error) {
	info := storage.Info{Name: p.name, Size: p.source.read, ETag: etag}
	if err == nil {
		return info, nil
	}
	err = p.classify(ctx, err)
	if !isUncertain(err) {
		return storage.Info{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	found, statErr := p.store.core.StatObject(ctx, p.store.bucket, p.name, minio.StatObjectOptions{})
	if statErr != nil || found.UserMetadata[putIDKey] != p.id {
		return storage.Info{}, err
	}
	info.ETag = found.ETag
	return info, nil
}

// options returns the options of the first request, with the metadata that the object keeps.
func (p *put) options() minio.PutObjectOptions {
	return minio.PutObjectOptions{UserMetadata: map[string]string{putIDKey: p.id}}
}

// setCondition adds the condition to the request that makes the object. minio-go's own PutObject sends it
// with the first request of a multipart upload, where it has no effect.
func (p *put) setCondition(options *minio.PutObjectOptions) {
	switch {
	case p.condition.IsIfAbsent():
		options.SetMatchETagExcept("*")
	case p.condition.ETag() != "":
		options.SetMatchETag(p.condition.ETag())
	}
}

// sha256Hex returns the SHA-256 of the data in hexadecimal if requests sign it, otherwise "".
func (p *put) sha256Hex(data []byte) string {
	if !p.store.signed {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// buffer returns a buffer for one part, or for the whole object if it is smaller.
func (p *put) buffer() []byte {
	switch {
	case p.source.size >= 0 && p.source.size < minPartSize:
		return make([]byte, p.source.size)
	case p.partSize > minPartSize:
		return make([]byte, p.partSize)
	default:
		return p.store.buffers.Get().(*[minPartSize]byte)[:]
	}
}

// release returns a buffer to the pool, given any slice that starts with it. It must only be called when the
// server has acknowledged the data: after an error, the transport may still be reading the buffer.
func (p *put) release(buffer []byte) {
	if cap(buffer) == minPartSize {
		p.store.buffers.Put((*[minPartSize]byte)(buffer[:minPartSize]))
	}
}

// withGrace returns a context that ends one grace period after ctx.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	extended, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return extended, func() {
		stop()
		cancel()
	}
}

// resend calls send up to three times, as long as the server reports that the data arrived altered or cut.
func resend(send func() error) error {
	for attempt := 1; ; attempt++ {
		err := send()
		if attempt == 3 || !hasCode(err, damagedCodes...) {
			return err
		}
	}
}
