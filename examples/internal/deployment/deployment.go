// Package deployment gives the examples a keyring for each role and a store: on the embedded default, in
// a temporary directory, or on the servers that the environment names. The quickstart and the portal call
// [New] at the start and [Deployment.Remove] at the end.
//
// With VAULT_ADDR and VAULT_TOKEN (an administrator's), keys are kept in that Vault. With
// AWS_ENDPOINT_URL, and credentials where the tools of AWS and MinIO look for them, objects are kept on
// that S3 server, in the bucket that RECVAULT_BUCKET names.
package deployment

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
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
	"github.com/recvault/recvault/vault/events"
)

// Deployment has one field for each role that the examples use. With Vault, each has a token of its role
// alone.
type Deployment struct {
	Enroller keys.Enroller
	Writer   vault.Keyring
	Granter  events.Issuer // for the login
	Server   vault.Keyring // for the process that serves: with Vault, it has no token at all
	Eraser   keys.Eraser
	Store    storage.Store

	Directory         string // temporary, and removed at the end
	Mount             string // of the engine in Vault, which is the prefix of its policies too; "" without Vault
	KeysAt, ObjectsAt string // where keys and objects are, in words
	Decides           string // what decides whether a grant fits: "Vault" or "the keyring"

	Run    string // random; part of each patient's identifier, so that runs do not share patients
	Prefix string // of this run's objects

	name     string
	tokenTTL time.Duration

	// What Remove removes.
	enrolled []keys.KeyID
	recorded []recorded
	cleanup  []func(context.Context) error
}

type recorded struct {
	patient keys.Patient
	id      vault.ID
}

// Patient returns the identifier of a patient for recvault, from a name or number of the application.
func (d *Deployment) Patient(name string) keys.Patient {
	return keys.Patient(d.name + "/" + d.Run + "/" + name)
}

// Enrol enrols a patient. Remove erases the patient's key.
func (d *Deployment) Enrol(ctx context.Context, patient keys.Patient) error {
	keyID, err := d.Enroller.Enrol(ctx, patient)
	if err == nil {
		d.enrolled = append(d.enrolled, keyID)
	}
	return err
}

// Recorded notes a recording, which Remove deletes.
func (d *Deployment) Recorded(patient keys.Patient, id vault.ID) {
	d.recorded = append(d.recorded, recorded{patient, id})
}

// New deploys an example. In Vault it makes a mount and policies named recvault-<name>; on S3 it makes
// the bucket recvault-<name>, unless RECVAULT_BUCKET names one. The tokens of the roles last tokenTTL, so
// the example can run no longer on Vault.
func New(ctx context.Context, name string, tokenTTL time.Duration) (_ *Deployment, err error) {
	run := rand.Text()
	d := &Deployment{name: name, tokenTTL: tokenTTL, Run: run, Prefix: name + "/" + run + "/"}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Remove())
		}
	}()
	directory, err := os.MkdirTemp("", "recvault-"+name+"-")
	if err != nil {
		return nil, err
	}
	d.Directory = directory
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
	if err != nil {
		return nil, err
	}
	return d, d.identifyStore(ctx)
}

// identifyStore gives this run's prefix an ID that is the same in every run. A keyring serves one store and prefix, and the
// keyring in Vault stays, while each run has a prefix of its own and leaves nothing in it. An application has one prefix,
// and no need of this.
func (d *Deployment) identifyStore(ctx context.Context) error {
	id := string(storeID(d.name))
	name := d.Prefix + "store-id"
	if _, err := d.Store.Put(ctx, name, strings.NewReader(id), int64(len(id)), storage.IfAbsent()); err != nil {
		return err
	}
	d.cleanup = append(d.cleanup, func(ctx context.Context) error { return d.Store.Delete(ctx, name) })
	return nil
}

func storeID(name string) keys.StoreID {
	sum := sha256.Sum256([]byte("recvault-" + name))
	return keys.StoreID(base32.StdEncoding.EncodeToString(sum[:])[:26])
}

// keysInDirectory opens a keyring in a directory, which holds every role. Server gets only the methods that
// serving needs.
func (d *Deployment) keysInDirectory(path string) error {
	keyring, err := local.Open(path, local.Options{})
	if err != nil {
		return err
	}
	d.cleanup = append(d.cleanup, func(context.Context) error { return keyring.Close() })
	d.Enroller, d.Writer, d.Granter, d.Eraser = keyring, keyring, keyring, keyring
	d.Server = struct{ vault.Keyring }{keyring}
	d.KeysAt, d.Decides = "a temporary directory", "the keyring"
	return nil
}

// keysInVault sets up a Transit engine, if there is none, and makes a token for each role. Remove erases the
// patients' keys and revokes the tokens; the engine stays.
func (d *Deployment) keysInVault(ctx context.Context) error {
	mount, prefix := "recvault-"+d.name, "recvault-"+d.name
	admin, err := api.NewClient(nil) // settings from VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT, VAULT_NAMESPACE
	if err != nil {
		return err
	}
	if _, err := transit.Setup(ctx, admin, transit.SetupOptions{
		Mount: mount, Prefix: prefix, MaxGrantTTL: time.Hour, Store: storeID(d.name),
	}); err != nil {
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
				Policies: []string{prefix + "-" + role}, NoDefaultPolicy: true, TTL: d.tokenTTL.String(),
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
		{"enroller", func(k *transit.Keyring) { d.Enroller = k }},
		{"writer", func(k *transit.Keyring) { d.Writer = k }},
		{"granter", func(k *transit.Keyring) { d.Granter = k }},
		{"eraser", func(k *transit.Keyring) { d.Eraser = k }},
		{"", func(k *transit.Keyring) { d.Server = k }},
	} {
		k, err := keyring(part.role)
		if err != nil {
			return err
		}
		part.set(k)
	}
	d.Mount, d.KeysAt, d.Decides = mount, "Vault at "+redacted(admin.Address()), "Vault"
	return nil
}

func (d *Deployment) objectsInDirectory(path string) error {
	store, err := dir.Open(path)
	if err != nil {
		return err
	}
	d.cleanup = append(d.cleanup, func(context.Context) error { return store.Close() })
	d.Store, d.ObjectsAt = store, "a temporary directory"
	return nil
}

// objectsInBucket uses the bucket that RECVAULT_BUCKET names, or recvault-<name>, and makes it if there is
// none. Remove deletes the recordings; the bucket stays.
func (d *Deployment) objectsInBucket(ctx context.Context, endpoint string) error {
	bucket := cmp.Or(os.Getenv("RECVAULT_BUCKET"), "recvault-"+d.name)
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
	d.Store, d.ObjectsAt = store, "bucket "+bucket+" at "+redacted(endpoint)
	return nil
}

// redacted returns an address without the password that it may have.
func redacted(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return "an address that is not a URL"
	}
	return parsed.Redacted()
}

// Remove removes what this run has made, even if New or the example failed half-way: recordings, patients'
// keys, tokens and the temporary directory.
func (d *Deployment) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	failed := []error{d.removeRecordings(ctx)}
	for _, keyID := range d.enrolled {
		failed = append(failed, d.Eraser.Erase(ctx, keyID))
	}
	for i := len(d.cleanup) - 1; i >= 0; i-- {
		failed = append(failed, d.cleanup[i](ctx))
	}
	return errors.Join(failed...)
}

func (d *Deployment) removeRecordings(ctx context.Context) error {
	if len(d.recorded) == 0 {
		return nil
	}
	v, err := vault.New(d.Writer, d.Store, vault.WithPrefix(d.Prefix))
	if err != nil {
		return err
	}
	failed := []error{}
	for _, r := range d.recorded {
		failed = append(failed, v.Delete(ctx, r.patient, r.id))
	}
	return errors.Join(append(failed, v.Close())...)
}
