// Recvault looks after encrypted recordings of consultations, for platform teams and auditors: it sets up
// Vault, enrols patients, stores and opens recordings, and rotates, retires and erases keys.
//
//	recvault setup       prepare Vault; --print shows every API call and policy first, --dry-run what differs
//	recvault enrol       give patients their envelope keys
//
//	recvault put         encrypt and store a recording
//	recvault get         open one with a grant
//	recvault list        list a patient's recordings
//	recvault grant       issue a grant
//	recvault revoke      end one at once
//
//	recvault plan        tell what there is to rewrap, and how long it will take
//	recvault rotate      add a version to envelope keys
//	recvault rewrap      move recordings to the newest version
//	recvault retire      end the use of old versions that no recording needs
//	recvault reinstate   take that back
//	recvault trim        destroy retired versions for good
//	recvault rekey       encrypt a recording anew, after its key may have become known
//
//	recvault erase       erase a patient or a recording for good: plan, then confirm
//	recvault hold        keep a patient's recordings from being erased: set, clear, show
//
//	recvault verify      tell what is damaged
//	recvault inspect     show what an envelope says, without any key
//	recvault sweep       remove what unfinished uploads left
//	recvault version     tell which version this is
//	recvault completion  write a completion script for a shell
//
// Each has a page of help with examples and the role that its Vault token needs: recvault rotate --help.
//
// # Trying it
//
// With --dir, keys and recordings are in a directory, and no server is needed:
//
//	recvault setup --dir ./demo
//	echo 'patient 1' > patient
//	recvault enrol --dir ./demo --patient-file patient
//	id=$(recvault put --dir ./demo --patient-file patient consultation.webm)
//	recvault grant --dir ./demo --patient-file patient --subject dr-lee --purpose TREAT --out grant
//	recvault get --dir ./demo --grant-file grant --out copy.webm "$id"
//
// # Settings
//
// A flag goes before its variable. Vault is found by VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT and VAULT_NAMESPACE, the
// S3 server by AWS_ENDPOINT_URL, AWS_REGION, RECVAULT_BUCKET, and AWS_* or MINIO_* for the credentials. "recvault help
// settings" has them all.
//
// Tokens, grants and patients' identifiers are never arguments, which every user of a machine can see. They come from
// a file, from standard input, or from the environment: "recvault help secrets".
//
// # Output
//
// The result goes to standard output, as text for people or, with --output json, as one JSON object. Notes,
// progress and errors go to standard error: a bar on a terminal and a line every ten seconds elsewhere; with
// --output json each is one JSON object on a line, {"note": ...}, {"progress": ...} or {"error": ..., "code": ...,
// "exit": ...}. --quiet leaves notes and progress out. Fields of these objects are added, never
// renamed, within a major version. Times are RFC 3339, sizes bytes, and durations that end in _ns nanoseconds.
//
// --dry-run, on every command that changes something, says what would be done.
//
// # Exit codes
//
//	  0  done
//	  1  failed for a reason that has no code of its own
//	  2  wrong usage; nothing was done
//	  3  denied by Vault or the store, or the grant has ended
//	  4  not found: no such recording, or the patient is not enrolled or was erased
//	  5  unavailable: run the same command again later
//	  6  incomplete: some work is left, or problems were found; the report says which
//	  7  damaged: a recording or an envelope is not what was written
//	  8  held: a legal hold forbids it
//	130  stopped by SIGINT, 143 by SIGTERM, 129 by SIGHUP
//
// The first such signal lets what was begun finish, within seconds, and has it reported. The second
// one ends the process at once. Either way, and after a crash, the same command does what is left.
//
// # Rotating
//
// One after another, each for all patients or for a share of them:
//
//	recvault rotate --all --older-than 720h
//	recvault rewrap --all
//	recvault retire --all      # 15 minutes or more after rotate
//	recvault trim --all        # when no backup needs the old versions; cannot be undone
//
// For several machines, --shard 0/16 to 15/16 cut all patients into even shares. In a Kubernetes Indexed
// Job, --shards 16 takes the share from JOB_COMPLETION_INDEX.
package main
