package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// PutOption configures one [Vault.Put].
type PutOption func(*putOptions)

type putOptions struct{ size int64 }

// WithSize sets how many bytes the reader will yield. It is for readers that do not report it, such as the
// body of an HTTP request. If the reader yields another number, Put returns [storage.ErrSize]. Stores need
// the size for objects of more than about 150 GiB. A negative size means that it is not known.
func WithSize(size int64) PutOption {
	return func(o *putOptions) { o.size = max(size, -1) }
}

// Put encrypts everything that r yields, stores it as a recording of the patient, and returns the recording's
// ID. The recording gets a fresh key, which only a grant for this patient unwraps. Readers with a Len method
// and regular files report their size; for other readers it need not be known, and [WithSize] sets it if it
// is. Memory is bounded whatever the size.
//
// Put wraps the key first, so it fails before a byte is sent if the patient is not enrolled, a right is missing, or
// the keyring serves another store or prefix (the first Put of a Vault checks that: see [StoreID]). On any error
// nothing was stored, except that after an [UncertainError] the recording may exist. Cancelling the context stops the
// upload as soon as a pending Read of r returns. The package comment says, under Time, how long Put waits for a store
// or a Vault that has fallen silent.
//
// Errors: [ErrInvalidMetadata], r's own, [UncertainError]; [ErrAborted] if the process was suspended during the upload
// for so long that a sweep removed the media; [keys.ErrInvalidPatient], [keys.ErrNotEnrolled], [keys.ErrErased],
// [keys.ErrForeignStore], [keys.ErrDenied], [keys.ErrUnavailable]; those of
// [storage.Store] for Put.
func (v *Vault) Put(ctx context.Context, patient keys.Patient, r io.Reader, metadata Metadata, options ...PutOption) (ID, error) {
	o := putOptions{size: sizeOf(r)}
	for _, option := range options {
		option(&o)
	}
	u, err := v.begin(ctx, patient, metadata)
	if err != nil {
		return ID{}, fmt.Errorf("put recording: %w", err)
	}
	if err := v.access(keys.Grant{}, u.id).changed(events.Stored, ID{}, u.run(ctx, r, o.size)); err != nil {
		return ID{}, fmt.Errorf("put recording: %w", err)
	}
	return u.id, nil
}

// sizeOf returns how many bytes r will yield, or -1 if r does not report it.
func sizeOf(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }:
		return int64(r.Len())
	case *os.File:
		info, err := r.Stat()
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 { // files in /proc report a size of 0
			return -1
		}
		position, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1
		}
		return max(0, info.Size()-position)
	}
	return -1
}

// upload is one recording on its way into the store. Put, Create and Rekey share it: begin or beginFor wraps
// its keys, run sends the media, and commit writes the envelope.
type upload struct {
	vault    *Vault
	id       ID
	metadata envelope.Metadata // Rekey sets CreatedAt, run sets MediaSize and MediaHeader
	secrets  secrets
	wraps    wraps
	started  time.Time
}

// begin validates the arguments of Put and Create and wraps a fresh key.
func (v *Vault) begin(ctx context.Context, patient keys.Patient, metadata Metadata) (*upload, error) {
	sealable, err := metadata.sealable()
	if err != nil {
		return nil, err
	}
	keyID, err := v.keyring.KeyID(ctx, patient)
	if err != nil {
		return nil, err
	}
	return v.beginFor(ctx, keyID, sealable)
}

// beginFor draws a recording key, from which the ID follows, and wraps it.
func (v *Vault) beginFor(ctx context.Context, keyID keys.KeyID, metadata envelope.Metadata) (*upload, error) {
	u := &upload{vault: v, metadata: metadata, secrets: newSecrets(keyID, keys.NewKey()), started: v.now()}
	u.id = u.secrets.sealer.ID()
	if err := u.wrap(ctx); err != nil {
		u.secrets.wipe()
		return nil, err
	}
	return u, nil
}

func (u *upload) wrap(ctx context.Context) (err error) {
	u.wraps, err = u.vault.wrap(ctx, u.secrets)
	return err
}

// run encrypts and sends what r yields, and commits the recording. size is -1 if it is not known.
func (u *upload) run(ctx context.Context, r io.Reader, size int64) error {
	defer u.secrets.wipe()
	mediaKey := envelope.MediaKey(u.secrets.recordingKey)
	defer clear(mediaKey)
	encrypter, err := segment.NewEncrypter(mediaKey, envelope.MediaAssociatedData(u.id), r)
	if err != nil {
		return err
	}
	if size > segment.MaxPlaintext {
		return fmt.Errorf("%w: the format holds %d bytes", storage.ErrTooLarge, int64(segment.MaxPlaintext))
	}
	if size >= 0 {
		size = segment.CiphertextSize(size)
	}
	if err = u.vault.objects.PutMedia(ctx, u.id, encrypter, size); err == nil {
		u.metadata.MediaSize, u.metadata.MediaHeader = segment.CiphertextSize(encrypter.Size()), encrypter.Header()
		err = u.commit(ctx)
	}
	var uncertain *UncertainError
	if err != nil && !errors.As(err, &uncertain) {
		// A store that fails removes what it had stored, unless its answer was lost.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = u.vault.objects.DeleteMedia(cleanup, u.id) // a sweep removes what remains
	}
	return err
}
