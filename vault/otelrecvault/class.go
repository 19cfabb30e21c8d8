package otelrecvault

import (
	"context"
	"errors"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// Classes that the code itself names. The others are in classes.
const (
	wrongPatient = "wrong_patient"
	denied       = "denied"
	notFound     = "not_found"
	conflict     = "conflict"
	canceled     = "canceled"
	other        = "_OTHER"
)

// classes are the values of error.type, in the order in which they apply: an error may match several.
var classes = []struct {
	class   string
	targets []error
}{
	{"damaged", []error{vault.ErrDamaged, keys.ErrIntegrity}},
	{"unsupported", []error{vault.ErrUnsupported, keys.ErrUnsupported}},
	{"erased", []error{keys.ErrErased}},
	{"held", []error{vault.ErrHeld}},
	{"invalid_grant", []error{keys.ErrInvalidGrant}},
	{"unauthenticated", []error{keys.ErrUnauthenticated}},
	{denied, []error{keys.ErrDenied, storage.ErrDenied}},
	{"unavailable", []error{keys.ErrUnavailable, storage.ErrUnavailable}},
	{"aborted", []error{vault.ErrAborted}},
	{canceled, []error{context.Canceled}},
	{"timeout", []error{context.DeadlineExceeded}},
	{"not_enrolled", []error{keys.ErrNotEnrolled}},
	{"retired", []error{keys.ErrRetired}},
	{"foreign_store", []error{keys.ErrForeignStore}},
	{"no_bucket", []error{storage.ErrNoBucket}},
	{"full", []error{storage.ErrFull}},
	{notFound, []error{vault.ErrNotFound, storage.ErrNotFound}},
	{conflict, []error{storage.ErrExists, storage.ErrChanged, storage.ErrInUse}},
	{"closed", []error{vault.ErrClosed}},
	{"invalid", []error{
		vault.ErrInvalidMetadata, keys.ErrInvalidPatient, keys.ErrInvalidKeyID, keys.ErrInvalidRecordingID, keys.ErrInvalidGrantOptions,
		keys.ErrInvalidVersion, keys.ErrInvalidStoreID, storage.ErrInvalidName, storage.ErrInvalidRange, storage.ErrSize, storage.ErrTooLarge,
	}},
}

// class returns the error.type of an error, or "" for nil.
func class(err error) string {
	if err == nil {
		return ""
	}
	for _, c := range classes {
		for _, target := range c.targets {
			if errors.Is(err, target) {
				return c.class
			}
		}
	}
	return other
}

// classOf is class, and names a refused grant of another patient.
func classOf(err error, grant keys.Grant, keyID keys.KeyID) string {
	if errors.Is(err, keys.ErrDenied) && grant.KeyID() != keyID {
		return wrongPatient
	}
	return class(err)
}
