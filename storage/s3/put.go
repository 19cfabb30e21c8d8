package s3

import (
	"bytes"
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

// S3's limits on uploads in parts, and ours.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const (
	maxSize     = 5 << 40  // the limit S3 had for long, and other servers may still have
	maxParts    = 10_000   // of one upload
	minPartSize = 16 << 20 // S3's own is 5 MiB

	// Up to this many parts are under way at once, as long as they fit into maxBuffers bytes.
	maxConcurrent = 4
	maxBuffers    = maxConcurrent * minPartSize
)

const (
	// How long a request whose outcome decides what is left behind may outlive the context.
	grace = 2 * time.Second
	// How long it may take to remove the parts of an upload that failed.
	abortTimeout = 5 * time.Second
)

// checksum is what the server is asked to compare.
const checksum = minio.ChecksumCRC64NVME

// putIDKey names the metadata that tells whose write an object is: see confirm.
const putIDKey = "Recvault-Put"

// Put implements [storage.Store]. Data of up to 16 MiB is sent in one request, and more in parts of
// 16 MiB, four at a time, each again if it fails: that takes 64 MiB of memory. A known size beyond
// 10,000 such parts, 156 GiB, makes the parts larger and fewer at a time; beyond 625 GiB, memory is
// 1/10,000 of the size. Data of unknown size beyond 156 GiB, and of known size beyond 5 TiB, is
// [storage.ErrTooLarge].
//
// A Read of r that blocks is not interrupted by the context. After the context has ended, Put takes
// up to a few seconds if need be to remove what it has sent, and to find out whether it has succeeded
// already; then there is no error. If the server does not answer that either, the object may have been
// written in spite of an error. The Info's Modified is zero, since S3 does not tell it.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("put: %w", err)
	}
	p := &put{
		store:     s,
		name:      name,
		condition: condition,
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

// partSize returns the size of an object's parts, in whole MiB, so that it needs no more than maxParts.
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
	id        string
	source    *source
	partSize  int64
}

// run sends the data, in one request if one part holds it all.
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
		return p.sendParts(ctx, buffer)
	}
}

// sendWhole sends the object in one request.
func (p *put) sendWhole(ctx context.Context, data []byte) (storage.Info, error) {
	options := p.describe()
	p.require(&options)
	options.DisableContentSha256 = true // minio-go's streaming signature: the checksum is ours
	sum := checksum.EncodeToString(data)
	if p.store.signed {
		// The same once more, to keep minio-go from adding a checksum behind the data.
		options.UserMetadata[minio.ChecksumSHA256.Key()] = minio.ChecksumSHA256.EncodeToString(data)
	} else {
		options.UserMetadata[checksum.Key()] = sum
	}
	var sent minio.UploadInfo
	err := resend(func() (err error) {
		sent, err = p.store.core.PutObject(ctx, p.store.bucket, p.name, bytes.NewReader(data), int64(len(data)), "", p.sha256Hex(data), options)
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

// sendParts sends the object in parts, of which the first has been read, and joins them.
func (p *put) sendParts(ctx context.Context, first []byte) (info storage.Info, err error) {
	uploadID, err := p.begin(ctx)
	if err != nil {
		return storage.Info{}, p.classify(ctx, err)
	}
	defer func() {
		if err != nil {
			p.abort(ctx, uploadID)
		}
	}()
	parts, err := p.upload(ctx, uploadID, first)
	if err != nil {
		return storage.Info{}, err
	}
	joined, err := p.join(ctx, uploadID, parts)
	return p.confirm(ctx, joined.ETag, err)
}

// begin starts an upload in parts. It waits for the upload's ID even if the context ends, because only
// with the ID can the upload be aborted.
func (p *put) begin(ctx context.Context) (string, error) {
	ctx, cancel := linger(ctx)
	defer cancel()
	options := p.describe()
	if !p.store.signed {
		options.UserMetadata["X-Amz-Checksum-Algorithm"] = checksum.String()
		options.UserMetadata[minio.ChecksumFullObjectMode.Key()] = minio.ChecksumFullObjectMode.String()
	}
	return p.store.core.NewMultipartUpload(ctx, p.store.bucket, p.name, options)
}

// sendPart sends one part.
func (p *put) sendPart(ctx context.Context, uploadID string, number int, data []byte) (minio.ObjectPart, error) {
	options := minio.PutObjectPartOptions{DisableContentSha256: true, Sha256Hex: p.sha256Hex(data)}
	sum := checksum.EncodeToString(data)
	if !p.store.signed {
		options.CustomHeader = http.Header{http.CanonicalHeaderKey(checksum.Key()): {sum}}
	}
	var part minio.ObjectPart
	err := resend(func() (err error) {
		part, err = p.store.core.PutObjectPart(ctx, p.store.bucket, p.name, uploadID, number, bytes.NewReader(data), int64(len(data)), options)
		return err
	})
	if err == nil && !p.store.signed && part.ChecksumCRC64NVME != sum {
		err = errUnchecked
	}
	return part, err
}

// join makes an object of the parts, if the condition holds. The server compares the checksum of the
// whole with what it has of the parts.
func (p *put) join(ctx context.Context, uploadID string, parts []minio.ObjectPart) (minio.UploadInfo, error) {
	ctx, cancel := linger(ctx)
	defer cancel()
	var options minio.PutObjectOptions
	p.require(&options)
	if !p.store.signed {
		whole, err := checksum.FullObjectChecksum(parts)
		if err != nil {
			return minio.UploadInfo{}, err
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
	return p.store.core.CompleteMultipartUpload(ctx, p.store.bucket, p.name, uploadID, list, options)
}

// abort removes an upload's parts, whether or not the context has ended. Where that fails nothing more
// can be done from here: see the package's comment.
func (p *put) abort(ctx context.Context, uploadID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_ = p.store.core.AbortMultipartUpload(ctx, p.store.bucket, p.name, uploadID)
}

// confirm tells what became of a write whose last request ended with err. A reply can get lost, and then
// minio-go sends again what was done already, and is refused: the condition fails on our own object. So
// every write leaves an ID of its own with the object, and after an error we look whose write is there.
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

// describe returns the options that go with the object.
func (p *put) describe() minio.PutObjectOptions {
	return minio.PutObjectOptions{UserMetadata: map[string]string{putIDKey: p.id}}
}

// require adds the condition to the request that makes the object. minio-go's own PutObject sends it with
// the first request of an upload in parts, where it decides nothing.
func (p *put) require(options *minio.PutObjectOptions) {
	switch {
	case p.condition.IsIfAbsent():
		options.SetMatchETagExcept("*")
	case p.condition.ETag() != "":
		options.SetMatchETag(p.condition.ETag())
	}
}

// sha256Hex returns what is signed in place of the data: "" for nothing.
func (p *put) sha256Hex(data []byte) string {
	if !p.store.signed {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// buffer returns memory for one part.
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

// release gives back a buffer, or the part of one that was used. It is only called once the server has
// acknowledged the data: after an error, the transport may still be reading it.
func (p *put) release(buffer []byte) {
	if cap(buffer) == minPartSize {
		p.store.buffers.Put((*[minPartSize]byte)(buffer[:minPartSize]))
	}
}

// linger returns a context that outlives ctx by the grace period.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return lingering, func() {
		stop()
		cancel()
	}
}

// resend sends data up to three times, as long as the server says that it came altered or cut.
func resend(send func() error) error {
	for attempt := 1; ; attempt++ {
		err := send()
		if attempt == 3 || !hasCode(err, damagedCodes...) {
			return err
		}
	}
}
