package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/scope"
)

// cases are what a child process can measure.
var cases = map[string]func(job) (result, error){
	putRecvault:  func(j job) (result, error) { return put(j, bucket) },
	putTuned:     func(j job) (result, error) { return putPlain(j, tuned()) },
	putDefault:   func(j job) (result, error) { return putPlain(j, minio.PutObjectOptions{}) },
	getRecvault:  func(j job) (result, error) { return get(j, bucket) },
	getPlain:     getObject,
	putDir:       func(j job) (result, error) { return put(j, directory) },
	getDir:       func(j job) (result, error) { return get(j, directory) },
	sealRecvault: seal,
	sealTink:     sealWithTink,
	sealStdlib:   sealWithStdlib,
	openRecvault: open,
	openTink:     openWithTink,
	openStdlib:   openWithStdlib,

	openOneCore:   open,
	stdlibOneCore: openWithStdlib,
	viewersOfOne:  func(j job) (result, error) { return watch(j, 1) },
	viewersOfMany: func(j job) (result, error) { return watch(j, viewers) },

	rewrapAll:   func(j job) (result, error) { return rewrapScope(j, scope.All()) },
	rewrapTenth: func(j job) (result, error) { return rewrapScope(j, tenth()) },
}

// tuned returns the options that were measured to be the fastest with bounded memory. storage/s3 uses parts of the
// same size.
func tuned() minio.PutObjectOptions {
	return minio.PutObjectOptions{
		PartSize:              16 << 20,
		ConcurrentStreamParts: true,
		NumThreads:            4,
		DisableContentSha256:  true,
		Checksum:              minio.ChecksumCRC64NVME,
	}
}

// noise yields size bytes that do not compress, at the speed of a copy, and hides its length.
func noise(size int64) io.Reader {
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block)
	return &repeated{block: block, left: size}
}

type repeated struct {
	block []byte
	at    int
	left  int64
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), r.left)], r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	r.left -= int64(n)
	return n, nil
}

func client(j job) (*minio.Client, error) {
	return s3.NewClient(s3.Config{
		Endpoint:    j.Endpoint,
		CAFile:      j.CAFile,
		Credentials: credentials.NewStaticV4(j.AccessKey, j.SecretKey, ""),
	})
}

func bucket(j job) (storage.Store, error) {
	c, err := client(j)
	if err != nil {
		return nil, err
	}
	return s3.New(c, j.Bucket)
}

func directory(j job) (storage.Store, error) {
	return dir.Open(filepath.Join(j.Dir, "store"))
}

func openVault(j job, openStore func(job) (storage.Store, error)) (*local.Keyring, *vault.Vault, error) {
	keyring, err := local.Open(filepath.Join(j.Dir, "keys"), local.Options{})
	if err != nil {
		return nil, nil, err
	}
	store, err := openStore(j)
	if err != nil {
		return nil, nil, err
	}
	v, err := vault.New(keyring, store)
	return keyring, v, err
}

func put(j job, openStore func(job) (storage.Store, error)) (result, error) {
	const patient = keys.Patient("benchmark")
	ctx := context.Background()
	keyring, v, err := openVault(j, openStore)
	if err != nil {
		return result{}, err
	}
	if _, err := keyring.Enrol(ctx, patient); err != nil {
		return result{}, err
	}
	var id vault.ID
	r, err := measured(func() (err error) {
		id, err = v.Put(ctx, patient, noise(j.Size), vault.Metadata{ContentType: "video/webm"})
		return err
	})
	if err != nil {
		return result{}, err
	}
	grant, err := keyring.Issue(ctx, patient, keys.GrantOptions{TTL: time.Hour, Subject: "benchmark", Purpose: keys.HealthOperations})
	r.Object, r.Grant = id.String(), grant.Reveal()
	return r, err
}

func get(j job, openStore func(job) (storage.Store, error)) (result, error) {
	_, v, err := openVault(j, openStore)
	if err != nil {
		return result{}, err
	}
	grant, err := keys.ParseGrant(j.Grant)
	if err != nil {
		return result{}, err
	}
	id, err := vault.ParseID(j.Object)
	if err != nil {
		return result{}, err
	}
	return measured(func() error {
		recording, err := v.Open(context.Background(), grant, id)
		if err != nil {
			return err
		}
		defer recording.Close()
		return drain(recording, j.Size)
	})
}

// drain reads all of r, as io.Copy does for a writer that is no io.ReaderFrom.
func drain(r io.Reader, size int64) error {
	n, err := io.Copy(onlyWriter{}, r)
	if err == nil && n != size {
		err = fmt.Errorf("read %d bytes, not %d", n, size)
	}
	return err
}

type onlyWriter struct{}

func (onlyWriter) Write(p []byte) (int, error) { return len(p), nil }

func putPlain(j job, options minio.PutObjectOptions) (result, error) {
	c, err := client(j)
	if err != nil {
		return result{}, err
	}
	name := "plain-" + rand.Text()
	r, err := measured(func() error {
		_, err := c.PutObject(context.Background(), j.Bucket, name, noise(j.Size), -1, options)
		return err
	})
	r.Object = name
	return r, err
}

func getObject(j job) (result, error) {
	c, err := client(j)
	if err != nil {
		return result{}, err
	}
	return measured(func() error {
		object, err := c.GetObject(context.Background(), j.Bucket, j.Object, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer object.Close()
		return drain(object, j.Size)
	})
}

func removeAll(b *testing.B, server *testserver.MinIOServer) {
	b.Helper()
	for object := range server.Client().ListObjects(b.Context(), server.Bucket(), minio.ListObjectsOptions{Recursive: true}) {
		require.NoError(b, object.Err)
		require.NoError(b, server.Client().RemoveObject(b.Context(), server.Bucket(), object.Key, minio.RemoveObjectOptions{}))
	}
}

// The cases below need no server. They work on the same stream of 64 MiB repeatedly.

const streamSize = 64 << 20

var (
	streamKey     = make([]byte, segment.KeySize)
	streamBinding = []byte("recvault/v1/benchmark")
)

func streamTink() (*subtle.AESGCMHKDF, error) {
	return subtle.NewAESGCMHKDF(streamKey, "SHA256", segment.KeySize, segment.Size, 0)
}

func seal(j job) (result, error) {
	encrypter, err := segment.NewEncrypter(streamKey, streamBinding, noise(j.Size))
	if err != nil {
		return result{}, err
	}
	return measured(func() error { return drain(encrypter, segment.CiphertextSize(j.Size)) })
}

func sealWithTink(j job) (result, error) {
	primitive, err := streamTink()
	if err != nil {
		return result{}, err
	}
	return measured(func() error {
		w, err := primitive.NewEncryptingWriter(onlyWriter{}, streamBinding)
		if err != nil {
			return err
		}
		if _, err := io.CopyBuffer(w, noise(j.Size), make([]byte, segment.Size)); err != nil {
			return err
		}
		return w.Close()
	})
}

func stdlib() (cipher.AEAD, error) {
	block, err := aes.NewCipher(streamKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func sealWithStdlib(j job) (result, error) {
	aead, err := stdlib()
	if err != nil {
		return result{}, err
	}
	piece, sealed, nonce := make([]byte, segment.Size), make([]byte, 0, segment.Size+aead.Overhead()), make([]byte, aead.NonceSize())
	source := noise(j.Size)
	return measured(func() error {
		for i := uint32(0); ; i++ {
			n, err := io.ReadFull(source, piece)
			if n > 0 {
				binary.BigEndian.PutUint32(nonce, i)
				aead.Seal(sealed, nonce, piece[:n], nil)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
		}
	})
}

// loop runs read, which reads streamSize bytes, until j.Size bytes were read.
func loop(j job, read func() error) (result, error) {
	return measured(func() error {
		for range j.Size / streamSize {
			if err := read(); err != nil {
				return err
			}
		}
		return nil
	})
}

func ciphertext() ([]byte, error) {
	encrypter, err := segment.NewEncrypter(streamKey, streamBinding, noise(streamSize))
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, segment.CiphertextSize(streamSize))
	_, err = io.ReadFull(encrypter, sealed)
	return sealed, err
}

func open(j job) (result, error) {
	sealed, err := ciphertext()
	if err != nil {
		return result{}, err
	}
	source := func(_ context.Context, offset, length int64) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(bytesAt(sealed), offset, length)), nil
	}
	return loop(j, func() error {
		decrypter, err := segment.NewDecrypter(streamKey, streamBinding, segment.Header(sealed), streamSize)
		if err != nil {
			return err
		}
		r, err := segment.NewReader(context.Background(), decrypter, source, 0, bytes.Clone(sealed[:segment.Size]))
		if err != nil {
			return err
		}
		defer r.Close()
		return drain(r, streamSize)
	})
}

func openWithTink(j job) (result, error) {
	sealed, err := ciphertext()
	if err != nil {
		return result{}, err
	}
	primitive, err := streamTink()
	if err != nil {
		return result{}, err
	}
	return loop(j, func() error {
		r, err := primitive.NewDecryptingReader(io.NewSectionReader(bytesAt(sealed), 0, int64(len(sealed))), streamBinding)
		if err != nil {
			return err
		}
		return drain(r, streamSize)
	})
}

func openWithStdlib(j job) (result, error) {
	aead, err := stdlib()
	if err != nil {
		return result{}, err
	}
	nonce := make([]byte, aead.NonceSize())
	sealed := make([]byte, 0, segment.CiphertextSize(streamSize))
	source := noise(streamSize)
	piece := make([]byte, segment.Size-aead.Overhead())
	for left := streamSize; left > 0; left -= len(piece) {
		n, err := io.ReadFull(source, piece[:min(left, len(piece))])
		if err != nil {
			return result{}, err
		}
		sealed = aead.Seal(sealed, nonce, piece[:n], nil)
	}
	pieces := slices.Collect(slices.Chunk(sealed, segment.Size))
	return loop(j, func() error {
		buffer := make([]byte, segment.Size)
		for _, piece := range pieces {
			n := copy(buffer, piece)
			if _, err := aead.Open(buffer[:0], nonce, buffer[:n], nil); err != nil {
				return err
			}
		}
		return nil
	})
}

type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, offset int64) (int, error) {
	n := copy(p, b[min(offset, int64(len(b))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// peakMemory returns the largest resident memory of this process so far, in bytes.
func peakMemory() (int64, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}
