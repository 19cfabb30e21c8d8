package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

// deployment is who holds which role. With Vault, each has a token for its role alone.
type deployment struct {
	enroller keys.Enroller
	writer   vault.Keyring
	granter  keys.Granter
	server   vault.Keyring // the half that serves: with Vault, it has no token at all
	eraser   keys.Eraser
	store    storage.Store

	keysAt, objectsAt, decides string

	run    string // makes the patients of this run its own
	prefix string // and its objects

	// What is to be removed at the end.
	enrolled []keys.KeyID
	recorded []recorded
	cleanup  []func(context.Context) error
}

type recorded struct {
	patient keys.Patient
	id      vault.ID
}

// patient is how recvault is told of somebody: by the hospital's number.
func (d *deployment) patient(number string) keys.Patient {
	return keys.Patient("portal/" + d.run + "/" + number)
}

// deploy puts the parts together: on the embedded default, or on the servers that the environment names.
func deploy(ctx context.Context) (_ *deployment, err error) {
	run := rand.Text()
	d := &deployment{run: run, prefix: "portal/" + run + "/"}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove())
		}
	}()
	directory, err := os.MkdirTemp("", "recvault-portal-")
	if err != nil {
		return nil, err
	}
	d.cleanup = append(d.cleanup, func(context.Context) error { return os.RemoveAll(directory) })
	if os.Getenv("VAULT_ADDR") != "" {
		err = d.keysInVault(ctx)
	} else {
		err = d.keysInDirectory(filepath.Join(directory, "keys"))
	}
	if err != nil {
		return nil, err
	}
	if endpoint := os.Getenv("AWS_ENDPOINT_URL"); endpoint != "" {
		err = d.objectsInBucket(ctx, endpoint)
	} else {
		err = d.objectsInDirectory(filepath.Join(directory, "objects"))
	}
	return d, err
}

// keysInDirectory opens a keyring that holds every role, as package local says it does. The half that
// serves is handed no more of its methods than it needs.
func (d *deployment) keysInDirectory(path string) error {
	keyring, err := local.Open(path, local.Options{})
	if err != nil {
		return err
	}
	d.cleanup = append(d.cleanup, func(context.Context) error { return keyring.Close() })
	d.enroller, d.writer, d.granter, d.eraser = keyring, keyring, keyring, keyring
	d.server = struct{ vault.Keyring }{keyring}
	d.keysAt, d.decides = "a temporary directory", "the keyring"
	return nil
}

// tokenTTL is how long the roles' tokens last, and so how long the portal runs on Vault.
const tokenTTL = 12 * time.Hour

// keysInVault sets up a Transit engine at recvault-portal/, if it is not there, and makes a token for
// each role. The patients' keys are erased and the tokens revoked at the end; the engine stays.
func (d *deployment) keysInVault(ctx context.Context) error {
	const mount, prefix = "recvault-portal", "recvault-portal"
	admin, err := api.NewClient(nil) // settings from VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT, VAULT_NAMESPACE
	if err != nil {
		return err
	}
	if _, err := transit.Setup(ctx, admin, transit.SetupOptions{Mount: mount, Prefix: prefix, MaxGrantTTL: time.Hour}); err != nil {
		return err
	}
	keyring := func(role string) (*transit.Keyring, error) {
		client, err := admin.CloneWithHeaders()
		if err != nil {
			return nil, err
		}
		client.ClearToken()
		if role != "" {
			secret, err := admin.Auth().Token().CreateOrphanWithContext(ctx, &api.TokenCreateRequest{
				Policies: []string{prefix + "-" + role}, NoDefaultPolicy: true, TTL: tokenTTL.String(),
			})
			if err != nil {
				return nil, err
			}
			client.SetToken(secret.Auth.ClientToken)
			d.cleanup = append(d.cleanup, func(ctx context.Context) error {
				return admin.Auth().Token().RevokeAccessorWithContext(ctx, secret.Auth.Accessor)
			})
		}
		return transit.New(client, transit.Options{Mount: mount, Prefix: prefix})
	}
	for _, part := range []struct {
		role string
		set  func(*transit.Keyring)
	}{
		{"enroller", func(k *transit.Keyring) { d.enroller = k }},
		{"writer", func(k *transit.Keyring) { d.writer = k }},
		{"granter", func(k *transit.Keyring) { d.granter = k }},
		{"eraser", func(k *transit.Keyring) { d.eraser = k }},
		{"", func(k *transit.Keyring) { d.server = k }},
	} {
		k, err := keyring(part.role)
		if err != nil {
			return err
		}
		part.set(k)
	}
	d.keysAt, d.decides = "Vault at "+admin.Address(), "Vault"
	return nil
}

func (d *deployment) objectsInDirectory(path string) error {
	store, err := dir.Open(path)
	if err != nil {
		return err
	}
	d.cleanup = append(d.cleanup, func(context.Context) error { return store.Close() })
	d.store, d.objectsAt = store, "a temporary directory"
	return nil
}

// objectsInBucket uses the bucket that RECVAULT_BUCKET names, or else recvault-portal, and makes it
// if it is not there. The recordings are removed at the end; the bucket stays.
func (d *deployment) objectsInBucket(ctx context.Context, endpoint string) error {
	bucket := os.Getenv("RECVAULT_BUCKET")
	if bucket == "" {
		bucket = "recvault-portal"
	}
	client, err := s3.NewClient(s3.Config{Endpoint: endpoint, Region: os.Getenv("AWS_REGION"), CAFile: os.Getenv("AWS_CA_BUNDLE")})
	if err != nil {
		return err
	}
	exists, err := client.BucketExists(ctx, bucket)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bucket, err)
	}
	if !exists {
		if err := client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: os.Getenv("AWS_REGION")}); err != nil {
			return fmt.Errorf("bucket %s: %w", bucket, err)
		}
	}
	store, err := s3.New(client, bucket)
	if err != nil {
		return err
	}
	d.store, d.objectsAt = store, "bucket "+bucket+" at "+endpoint
	return nil
}

// remove takes away what this run has made, whatever became of it.
func (d *deployment) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	failed := []error{d.removeRecordings(ctx)}
	for _, keyID := range d.enrolled {
		failed = append(failed, d.eraser.Erase(ctx, keyID))
	}
	for i := len(d.cleanup) - 1; i >= 0; i-- {
		failed = append(failed, d.cleanup[i](ctx))
	}
	return errors.Join(failed...)
}

func (d *deployment) removeRecordings(ctx context.Context) error {
	if len(d.recorded) == 0 {
		return nil
	}
	v, err := vault.New(d.writer, d.store, vault.WithPrefix(d.prefix))
	if err != nil {
		return err
	}
	failed := []error{}
	for _, r := range d.recorded {
		failed = append(failed, v.Delete(ctx, r.patient, r.id))
	}
	return errors.Join(append(failed, v.Close())...)
}
