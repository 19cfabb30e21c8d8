// Package recvault is the map of a library that encrypts recorded medical consultations, so that a bug
// in the application cannot show one patient's recording to another. It holds no code itself.
//
// Each recording is encrypted under a fresh key. That key is wrapped by the patient's envelope key,
// which lives in HashiCorp Vault's Transit engine and never leaves it. Ciphertext lives in an S3 store.
// Reading takes a grant: a short-lived Vault token for one patient's key. A listing that hands out the
// wrong IDs then hands out noise, and the attempt is in Vault's audit log.
//
// # Where to start
//
//   - [github.com/recvault/recvault/vault] is the package to call: Put, Create, Open, Stat, List, Delete.
//   - [github.com/recvault/recvault/vault/rotation] renews envelope keys: plan, rotate, rewrap, retire, trim.
//   - [github.com/recvault/recvault/vault/erasure] erases patients and recordings, and keeps legal holds.
//   - [github.com/recvault/recvault/vault/upkeep] sweeps and verifies.
//   - [github.com/recvault/recvault/vault/scope] says for which patients these do so.
//   - [github.com/recvault/recvault/cmd/recvault] is the command for all of it.
//   - [github.com/recvault/recvault/keys] has the words: Patient, KeyID, Grant, the roles, the errors.
//   - [github.com/recvault/recvault/keys/transit] keeps keys in HashiCorp Vault, and sets Vault up.
//   - [github.com/recvault/recvault/keys/local] keeps keys in a directory, for development and single hosts.
//   - [github.com/recvault/recvault/storage] says what a store must do.
//   - [github.com/recvault/recvault/storage/s3] stores in MinIO, AWS S3 and other S3 servers.
//   - [github.com/recvault/recvault/storage/dir] stores in a local directory.
//   - keys/keystest and storage/storagetest are the conformance suites, for those who write another
//     keyring or store.
//
// # Usage
//
//	keyring, err := transit.New(vaultClient, transit.Options{})      // Vault, with this process's role
//	store, err := s3.New(minioClient, "consultations")               // or dir.Open(path)
//	v, err := vault.New(keyring, store)
//
//	id, err := v.Put(ctx, patient, video, vault.Metadata{ContentType: "video/webm", Title: "Follow-up"})
//
//	// In the one place that decides who may see what, with credentials of its own:
//	grant, err := granter.Issue(ctx, patient, keys.GrantOptions{
//		TTL: 15 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
//
//	// Anywhere, with any ID, however it was come by:
//	recording, err := v.Open(ctx, grant, id) // keys.ErrDenied for anybody else's recording
//	defer recording.Close()
//	v.ServeRecording(w, r, grant, id)        // or over HTTP, with ranges, in one call
//
// Every error can be tested with errors.Is against the sentinels of packages vault, keys and storage.
package recvault
