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

// The exit codes, which scripts rely on. The help topic exit-codes says what they mean.
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
	exitHungUp      = 129
	exitInterrupted = 130
	exitTerminated  = 143
)

const exitCodesHelp = `Every command ends with one of these codes:

    0  done
    1  failed for a reason that has no code of its own
    2  wrong usage: a flag, an argument or a setting is missing or wrong;
       nothing was done
    3  denied: Vault or the store refused, or the grant has ended
    4  not found: no such recording, or the patient is not enrolled or was erased
    5  unavailable: Vault or the store did not answer; run it again later
    6  incomplete: some of the work is left, or verify found problems; the report
       says which
    7  damaged: a recording or an envelope is not what was written
    8  held: a legal hold forbids it
  130  stopped by SIGINT (Ctrl-C), 143 by SIGTERM, 129 by SIGHUP: what was begun
       is finished and reported; the second signal stops at once

With --output json, the error is a JSON object on standard error:

    {"error": "...", "code": "not_enrolled", "exit": 4}

"code" tells more than the exit code: usage, denied, invalid_grant, not_found,
not_enrolled, erased, not_held, retired, exists, plan_changed, uncertain,
unavailable, not_set_up, incomplete, damaged, held, interrupted, failure, and
not_printed: it is done, but the result could not be printed; the error says
what was done.`

// errIncomplete: the report tells of work that is left, or of problems.
var errIncomplete = errors.New("incomplete")

// usageError is a mistake in how the command was called. Its text repeats no argument's value: it may be a
// secret that was put in the wrong place.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// interruption is why a context ended: a signal came.
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

// notPrintedError: something is done that cannot be taken back, and its result could not be printed.
type notPrintedError struct {
	done string
	err  error
}

func (e *notPrintedError) Error() string { return e.done + ", but: " + e.err.Error() }

func (e *notPrintedError) Unwrap() error { return e.err }

// failure is how an error is told to those who called the command.
type failure struct {
	Error string `json:"error"`
	Code  string `json:"code"`
	Exit  int    `json:"exit"`
}

// classes says which errors have which code. The first that fits counts.
var classes = []struct {
	err  error
	code string
	exit int
}{
	{errIncomplete, "incomplete", exitIncomplete},
	{erasure.ErrIncomplete, "incomplete", exitIncomplete},
	{vault.ErrHeld, "held", exitHeld},
	{erasure.ErrNotHeld, "not_held", exitNotFound},
	{erasure.ErrPlanChanged, "plan_changed", exitFailure},
	{erasure.ErrDamagedHold, "damaged", exitDamaged},
	{vault.ErrDamaged, "damaged", exitDamaged},
	{envelope.ErrMalformed, "damaged", exitDamaged},
	{envelope.ErrVersion, "damaged", exitDamaged},
	{objects.ErrMisplaced, "damaged", exitDamaged},
	{keys.ErrIntegrity, "damaged", exitDamaged},
	{keys.ErrErased, "erased", exitNotFound},
	{keys.ErrNotEnrolled, "not_enrolled", exitNotFound},
	{vault.ErrNotFound, "not_found", exitNotFound},
	{storage.ErrNotFound, "not_found", exitNotFound},
	{keys.ErrInvalidGrant, "invalid_grant", exitDenied},
	{keys.ErrDenied, "denied", exitDenied},
	{storage.ErrDenied, "denied", exitDenied},
	{keys.ErrRetired, "retired", exitFailure},
	{transit.ErrNotSetUp, "not_set_up", exitFailure},
	{storage.ErrNoBucket, "not_set_up", exitFailure},
	{local.ErrDamaged, "failure", exitFailure},
	{local.ErrInsecure, "failure", exitFailure},
	{keys.ErrUnavailable, "unavailable", exitUnavailable},
	{storage.ErrUnavailable, "unavailable", exitUnavailable},
	{context.DeadlineExceeded, "unavailable", exitUnavailable},
	{os.ErrExist, "exists", exitFailure},
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

// classify turns an error into what is told of it. It is told as an interruption if the context of the
// command had ended by then.
func classify(ctx context.Context, err error) failure {
	text := oneLine(err)
	var uncertain *vault.UncertainError
	isUncertain := errors.As(err, &uncertain)
	var notPrinted *notPrintedError
	isDone := errors.As(err, &notPrinted)
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
		if isUncertain || isDone || errors.Is(err, erasure.ErrIncomplete) {
			return failure{stopped.Error() + ": " + text, "interrupted", exit} // there is something to see to
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
	if isDone {
		return failure{text, "not_printed", exitFailure}
	}
	for _, class := range classes {
		if errors.Is(err, class.err) {
			return failure{text, class.code, class.exit}
		}
	}
	return failure{text, "failure", exitFailure}
}

func oneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ") // errors.Join puts each on a line
}
