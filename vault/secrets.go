package vault

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/keys"
)

// secrets are the keys of one recording of one patient.
type secrets struct {
	recordingKey *keys.Key
	metadataKey  *keys.Key
	sealer       *envelope.Sealer // has the recording's ID
}

// newSecrets derives the secrets from a recording key, which it takes over.
func newSecrets(keyID keys.KeyID, recordingKey *keys.Key) secrets {
	metadataKey := envelope.MetadataKey(recordingKey)
	return secrets{recordingKey, metadataKey, envelope.NewSealer(keyID, metadataKey)}
}

func (s secrets) wipe() {
	s.recordingKey.Wipe()
	s.metadataKey.Wipe()
	s.sealer.Wipe()
}

// wraps are the two wrapped keys of a recording.
type wraps struct {
	key         keys.WrappedKey
	metadataKey keys.WrappedKey
	madeAt      time.Time // a time before they were made
}

// wrap wraps both keys of a recording, with two calls to the keyring at the same time, if the keyring serves the store.
func (v *Vault) wrap(ctx context.Context, s secrets) (wraps, error) {
	if err := v.claimStore(ctx); err != nil {
		return wraps{}, err
	}
	w := wraps{madeAt: v.now()}
	id := s.sealer.ID()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		w.key, err = v.keyring.Wrap(ctx, id.Binding(), s.recordingKey)
		return err
	})
	group.Go(func() (err error) {
		w.metadataKey, err = v.keyring.Wrap(ctx, id.MetadataBinding(), s.metadataKey)
		return err
	})
	err := group.Wait()
	return w, err
}
