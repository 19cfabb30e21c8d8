package local_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/namespace"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/local"
)

func TestFullOrReadOnlyDirectoryIsUnavailable(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	require.NoError(t, fullThenReadOnly(namespace.Mount(t, "size=128k,mode=0700")))
}

// fullThenReadOnly fills a small file system and then makes it read-only. It returns what went wrong.
func fullThenReadOnly(dir string) error {
	keyring, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	ctx := context.Background()
	grant, err := keyring.Issue(ctx, "alice", keys.GrantOptions{TTL: keys.MaxGrantTTL, Subject: "s", Purpose: keys.Treatment})
	if err != nil {
		return err
	}
	id, err := keyring.Enrol(ctx, "alice")
	if err != nil {
		return err
	}
	key := keys.NewKey()
	rec := recording{binding: keystest.NewRecordingID(id).Binding(), key: key.Bytes()}
	if rec.wrapped, err = keyring.Wrap(ctx, rec.binding, key); err != nil {
		return err
	}

	if err := fill(ctx, keyring); err != nil {
		return err
	}
	if temps, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(temps) > 0 {
		return fmt.Errorf("%d temporary files were left behind: %w", len(temps), err)
	}
	if err := unwrap(keyring, grant, rec); err != nil {
		return fmt.Errorf("full directory: %w", err)
	}

	// A file system cannot be made read-only while a file is open for writing, such as the lock.
	if err := keyring.Close(); err != nil {
		return err
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	if _, err := local.Open(dir, local.Options{}); !errors.Is(err, keys.ErrUnavailable) || !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("read-only directory: %w", err)
	}
	return nil
}

// fill enrols patients until the directory is full.
func fill(ctx context.Context, keyring *local.Keyring) error {
	for i := range 1000 {
		_, err := keyring.Enrol(ctx, keys.Patient("canary-"+strconv.Itoa(i)))
		if err == nil {
			continue
		}
		if !errors.Is(err, keys.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "canary") {
			return fmt.Errorf("full directory: %w", err)
		}
		return nil
	}
	return errors.New("the directory is not full after 1000 patients")
}
