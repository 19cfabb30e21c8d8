// Recvault manages encrypted recordings of medical consultations. Platform teams use it to set up Vault, enrol
// patients, store and open recordings, and rotate, retire and erase keys; auditors use it to check recordings.
//
//	recvault dev         run a real Vault and a real MinIO to develop with
//	recvault setup       prepare Vault; --print shows every API call and policy, --dry-run what would change
//	recvault doctor      check the store and Vault before they are trusted
//	recvault store-id    print the ID of the bucket and prefix
//	recvault config      show the settings, and where each came from
//	recvault enrol       create envelope keys for patients
//
//	recvault put         encrypt and store a recording
//	recvault get         decrypt a recording with a grant
//	recvault export      give a patient a copy of all their recordings
//	recvault list        list a patient's recordings
//	recvault stat        show a recording's metadata
//	recvault describe    show or correct a recording's metadata
//	recvault copy        give a recording to a second patient as well
//	recvault reassign    move a recording to another patient
//	recvault grant       issue a grant
//	recvault revoke      end a grant at once
//
//	recvault plan        count recordings by key version, and estimate a rotation
//	recvault rotate      add a version to envelope keys
//	recvault rewrap      move recordings to the newest version
//	recvault retire      stop the use of old versions that no recording needs
//	recvault reinstate   undo a retirement
//	recvault trim        destroy retired versions for good
//	recvault rekey       encrypt a recording again, after its key may have leaked
//
//	recvault erase       erase a patient or a recording for good: plan, then confirm
//	recvault hold        protect a patient's recordings from erasure: set, clear, show
//
//	recvault verify      check recordings for damage
//	recvault inspect     explain a recording: every field, and with a grant every check
//	recvault audit       report who saw what from Vault's audit log or the events, and compare Vault with what setup makes
//	recvault sweep       remove what unfinished uploads left behind
//	recvault version     show the version
//	recvault completion  write a completion script for a shell
//
// Each command has a help page with examples and the role that its Vault token needs: recvault rotate --help.
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
// Inside recvault's source, "recvault dev" (or "make dev") runs the real servers on this machine until Ctrl-C, and prints
// the settings with which the commands above run on them.
//
// # Settings
//
// A flag takes precedence over its environment variable. VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT and VAULT_NAMESPACE
// name Vault; --login logs in to it, for jobs that take longer than a token lives. AWS_ENDPOINT_URL, AWS_REGION and
// RECVAULT_BUCKET name the S3 server, and AWS_* or MINIO_* hold its credentials. "recvault help settings" lists all
// settings. A file in YAML can have those of a deployment: --config or RECVAULT_CONFIG names it, and "recvault config
// show" shows where each value came from.
//
// Tokens, grants and patient identifiers are never arguments, because every user of a machine can see those.
// They are read from a file, from standard input or from the environment: "recvault help secrets".
//
// # Output
//
// The result goes to standard output, as text or, with --output json, as one JSON object. Notes, progress and
// errors go to standard error. Progress is a bar on a terminal and otherwise a line every ten seconds. With
// --output json each of them is a JSON object on a line of its own: {"note": ...}, {"progress": ...} or
// {"error": ..., "code": ..., "exit": ...}. --quiet turns off notes and progress. Within a major version, fields
// are added to these objects and never renamed. Times are RFC 3339, sizes are bytes, and durations whose names
// end in _ns are nanoseconds.
//
// Every command that changes something has --dry-run, which shows what would be done. The exception is dev, which
// works on servers of its own.
//
// # Exit codes
//
//	  0  done
//	  1  failed, for a reason without a code of its own
//	  2  wrong usage; nothing was done
//	  3  denied by Vault or the store, or the grant has ended
//	  4  not found: the recording does not exist, or the patient is not enrolled or was erased
//	  5  unavailable: run the same command again later
//	  6  incomplete: some work was not done, or problems were found; the report lists them. Recordings that need a
//	     newer release are reported and are no problem by themselves, but retire and trim refuse their patients, and an
//	     export without them is incomplete
//	  7  damaged: a recording or an envelope is not what was written
//	  8  held: the patient is on legal hold
//	  9  unsupported: the one recording that the command is about needs a newer release; it is not damaged
//	130  stopped by SIGINT, 143 by SIGTERM, 129 by SIGHUP
//
// After the first such signal, the command finishes the work that it has begun, within seconds, and reports it.
// A second signal ends the process at once. Either way, and after a crash, running the same command again does
// what is left.
//
// # Rotating
//
// Run these one after another, each for all patients or for a share of them:
//
//	recvault rotate --all --older-than 720h
//	recvault rewrap --all
//	recvault retire --all      # 15 minutes or more after rotate
//	recvault trim --all        # when no backup needs the old versions; cannot be undone
//
// To share the work among several machines, --shard 0/16 to --shard 15/16 split the patients evenly. In a
// Kubernetes Indexed Job, --shards 16 takes the share from JOB_COMPLETION_INDEX.
package main
