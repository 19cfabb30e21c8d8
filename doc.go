// Package recvault documents a library that encrypts recorded medical consultations, so that a bug in the
// application cannot show one patient's recording to another. The package itself contains no code.
//
// Each recording is encrypted under a fresh key. The patient's envelope key wraps that key. Envelope keys are in
// HashiCorp Vault's Transit engine and never leave it; ciphertext is in an S3 store. To open a recording, a
// caller shows a grant: a short-lived Vault token for one patient's key. If a listing returns the IDs of another
// patient's recordings, they open nothing, and the attempt is in Vault's audit log.
//
// # Packages
//
//   - [github.com/recvault/recvault/vault] puts, opens, serves, lists, corrects and deletes recordings. Start here.
//   - [github.com/recvault/recvault/vault/events] is the stream of what happened: who saw what, and who was refused;
//     [github.com/recvault/recvault/vault/events/fhir] makes FHIR AuditEvents of it.
//   - [github.com/recvault/recvault/vault/rotation] rotates envelope keys: plan, rotate, rewrap, retire, trim.
//   - [github.com/recvault/recvault/vault/erasure] erases patients and recordings, and keeps legal holds.
//   - [github.com/recvault/recvault/vault/upkeep] sweeps garbage from a store and verifies recordings.
//   - [github.com/recvault/recvault/vault/scope] selects the patients that a rotation, sweep or verification covers.
//   - [github.com/recvault/recvault/vault/job] has the reports and findings that these jobs share.
//   - [github.com/recvault/recvault/cmd/recvault] is the command for all of these jobs.
//   - [github.com/recvault/recvault/keys] defines Patient, KeyID, Grant, the roles and the errors.
//   - [github.com/recvault/recvault/keys/transit] is the keyring on HashiCorp Vault, and sets Vault up.
//   - [github.com/recvault/recvault/keys/transit/login] keeps a service's own Vault token valid.
//   - [github.com/recvault/recvault/keys/local] is the keyring in a directory, for development and single hosts.
//   - [github.com/recvault/recvault/storage] defines what a store does.
//   - [github.com/recvault/recvault/storage/s3] is the store on MinIO, AWS S3 and other S3 servers.
//   - [github.com/recvault/recvault/storage/dir] is the store in a local directory.
//   - [github.com/recvault/recvault/keys/keystest] and [github.com/recvault/recvault/storage/storagetest] are the
//     conformance suites for other keyrings and stores.
//   - [github.com/recvault/recvault/keys/transit/transitcheck] and [github.com/recvault/recvault/storage/storecheck]
//     check a Vault and a store of a deployment before they are trusted.
//
// # Usage
//
//	keyring, err := transit.New(vaultClient, transit.Options{})      // Vault, with this process's role
//	store, err := s3.New(minioClient, "consultations")               // or dir.Open(path)
//	v, err := vault.New(keyring, store)
//
//	id, err := v.Put(ctx, patient, video, vault.Metadata{ContentType: "video/webm", Title: "Follow-up"})
//
//	// In the one place that decides who may see what, with its own credentials:
//	grant, err := granter.Issue(ctx, patient, keys.GrantOptions{
//		TTL: 15 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
//
//	// In any process, with an ID from any source:
//	recording, err := v.Open(ctx, grant, id) // keys.ErrDenied if the recording is another patient's
//	defer recording.Close()
//	v.ServeRecording(w, r, grant, id)        // or over HTTP, with ranges, in one call
//
// Every error can be tested with errors.Is against the sentinels of packages vault, keys and storage.
//
// docs/format.md specifies what is stored, and docs/vectors has test vectors for readers in other languages.
package recvault
