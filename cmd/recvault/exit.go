package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
	"github.com/recvault/recvault/vault/upkeep"
)

// The exit codes. Scripts rely on them. The help topic exit-codes documents them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitDenied      = 3
	exitNotFound    = 4
	exitUnavailable = 5
	exitIncomplete  = 6
	exitDamaged     = 7
	exitHeld        = 8
	exitUnsupported = 9
	exitHungUp      = 129
	exitInterrupted = 130
	exitTerminated  = 143
)

const exitCodesHelp = `Every command ends with one of these codes:

    0  done
    1  failed, for a reason without a code of its own
    2  wrong usage: a flag, an argument or a setting is missing or wrong;
       nothing was done
    3  denied: Vault or the store refused, or the grant has ended
    4  not found: the recording does not exist, or the patient is not enrolled
       or was erased
    5  unavailable: Vault or the store did not answer; run the same command
       again later
    6  incomplete: some work was not done, or problems were found; the report
       lists them. Recordings that need a newer release are counted as
       unsupported and are no problem by themselves: plan, rotate, rewrap and
       verify end with 0. retire and trim refuse their patients, and end with
       6, and so does export, which cannot give them to the patient
    7  damaged: a recording or an envelope is not what was written
    8  held: the patient is on legal hold
    9  unsupported: the one recording that the command is about needs a newer
       release; it is not damaged
  130  stopped by SIGINT (Ctrl-C); 143 by SIGTERM; 129 by SIGHUP. Work that has
       begun is finished and reported. A second signal stops at once.

With --output json, the error is a JSON object on standard error:

    {"error": "...", "code": "not_enrolled", "exit": 4}

"code" is more specific than the exit code. It is one of usage, denied,
unauthenticated, invalid_grant, not_found, not_enrolled, erased, not_held,
retired, exists, plan_changed, uncertain, unavailable, not_set_up, unsafe_key,
incomplete, drift, damaged, held, unsupported, foreign_store, disk_full,
interrupted, not_printed and failure.

    disk_full      the disk that is written to is full
    drift          "audit setup" found that Vault is not as setup makes it
    foreign_store  Vault's mount is for another bucket or prefix; nothing was
                   done
    uncertain      the store did not confirm a write, which may have been made;
                   the error names the recording
    unsafe_key     somebody made a key of another kind under the name of the
                   patient's envelope key
    not_printed    the work is done, but the result could not be printed;
                   the error says what was done`

// errIncomplete: some work was not done, or problems were found. The report lists them.
var errIncomplete = errors.New("incomplete")

// usageError is a mistake in the command line or the settings. Its text repeats no value, which may be a secret in the
// wrong place.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// interruption is the cause of a context that a signal ended.
type interruption struct{ signal os.Signal }

func (i interruption) Error() string {
	switch i.signal {
	case syscall.SIGTERM:
		return "interrupted by SIGTERM"
	case syscall.SIGHUP:
		return "interrupted by SIGHUP"
	}
	return "interrupted"
}

// notPrintedError: a change that cannot be undone was made, and its result could not be printed.
type notPrintedError struct {
	done string // what was done
	err  error
}

func (e *notPrintedError) Error() string { return e.done + ", but: " + e.err.Error() }

func (e *notPrintedError) Unwrap() error { return e.err }

// failure is an error as the command reports it.
type failure struct {
	Error string `json:"error"`
	Code  string `json:"code"`
	Exit  int    `json:"exit"`
}

// classes maps errors to codes. The first match counts.
var classes = []struct {
	err  error
	code string
	exit int
}{
	{errDrift, "drift", exitIncomplete},
	{errIncomplete, "incomplete", exitIncomplete},
	{erasure.ErrIncomplete, "incomplete", exitIncomplete},
	{vault.ErrHeld, "held", exitHeld},
	{erasure.ErrNotHeld, "not_held", exitNotFound},
	{erasure.ErrPlanChanged, "plan_changed", exitFailure},
	{erasure.ErrDamagedHold, "damaged", exitDamaged},
	{vault.ErrDamaged, "damaged", exitDamaged},
	{envelope.ErrMalformed, "damaged", exitDamaged},
	{envelope.ErrMetadata, "damaged", exitDamaged},
	{segment.ErrDamaged, "damaged", exitDamaged},
	{vault.ErrUnsupported, "unsupported", exitUnsupported},
	{envelope.ErrUnsupported, "unsupported", exitUnsupported},
	{keys.ErrUnsupported, "unsupported", exitUnsupported},
	{objects.ErrMisplaced, "damaged", exitDamaged},
	{keys.ErrIntegrity, "damaged", exitDamaged},
	{keys.ErrErased, "erased", exitNotFound},
	{keys.ErrNotEnrolled, "not_enrolled", exitNotFound},
	{vault.ErrNotFound, "not_found", exitNotFound},
	{storage.ErrNotFound, "not_found", exitNotFound},
	{keys.ErrInvalidGrant, "invalid_grant", exitDenied},
	{keys.ErrDenied, "denied", exitDenied},
	{keys.ErrUnauthenticated, "unauthenticated", exitDenied},
	{storage.ErrDenied, "denied", exitDenied},
	{keys.ErrForeignStore, "foreign_store", exitUsage},
	{keys.ErrInvalidStoreID, "usage", exitUsage},
	{keys.ErrRetired, "retired", exitFailure},
	{transit.ErrNotSetUp, "not_set_up", exitFailure},
	{transit.ErrUnsafeKey, "unsafe_key", exitFailure},
	{storage.ErrNoBucket, "not_set_up", exitFailure},
	{local.ErrDamaged, "failure", exitFailure},
	{local.ErrInsecure, "failure", exitFailure},
	{keys.ErrUnavailable, "unavailable", exitUnavailable},
	{storage.ErrUnavailable, "unavailable", exitUnavailable},
	{context.DeadlineExceeded, "unavailable", exitUnavailable},
	{syscall.ENOSPC, "disk_full", exitFailure},
	{os.ErrExist, "exists", exitFailure},
	{storage.ErrExists, "exists", exitFailure},
	{keys.ErrInvalidVersion, "usage", exitUsage},
	{rotation.ErrInvalidOptions, "usage", exitUsage},
	{erasure.ErrInvalidOptions, "usage", exitUsage},
	{erasure.ErrInvalidReason, "usage", exitUsage},
	{erasure.ErrInvalidOperator, "usage", exitUsage},
	{upkeep.ErrInvalidOptions, "usage", exitUsage},
	{keys.ErrInvalidPatient, "usage", exitUsage},
	{keys.ErrInvalidKeyID, "usage", exitUsage},
	{keys.ErrInvalidRecordingID, "usage", exitUsage},
	{keys.ErrInvalidGrantOptions, "usage", exitUsage},
	{vault.ErrInvalidMetadata, "usage", exitUsage},
	{scope.ErrInvalid, "usage", exitUsage},
	{storage.ErrInvalidName, "usage", exitUsage},
}

// classify returns the failure that an error is reported as: an interruption if the command's context has ended,
// and otherwise the first of the classes that matches.
func classify(ctx context.Context, err error) failure {
	text := oneLine(err)
	var uncertain *vault.UncertainError
	isUncertain := errors.As(err, &uncertain)
	var notPrinted *notPrintedError
	isNotPrinted := errors.As(err, &notPrinted)
	if ctx.Err() != nil {
		var stopped interruption
		_ = errors.As(context.Cause(ctx), &stopped)
		exit := exitInterrupted
		switch stopped.signal {
		case syscall.SIGTERM:
			exit = exitTerminated
		case syscall.SIGHUP:
			exit = exitHungUp
		}
		if isUncertain || isNotPrinted || errors.Is(err, erasure.ErrIncomplete) {
			return failure{stopped.Error() + ": " + text, "interrupted", exit} // the operator must know what was done
		}
		return failure{stopped.Error(), "interrupted", exit}
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return failure{text, "usage", exitUsage}
	}
	if isUncertain {
		return failure{text, "uncertain", exitUnavailable}
	}
	if isNotPrinted {
		return failure{text, "not_printed", exitFailure}
	}
	for _, class := range classes {
		if errors.Is(err, class.err) {
			return failure{text, class.code, class.exit}
		}
	}
	return failure{text, "failure", exitFailure}
}

// oneLine returns an error's text in one line that a terminal can show. errors.Join writes one line per error.
func oneLine(err error) string { return printable(strings.ReplaceAll(err.Error(), "\n", "; ")) }
