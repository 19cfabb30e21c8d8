package main

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// listings finds the recordings that a page shows. The switch chooses between the correct listing and the
// listing of 2020.
type listings struct {
	vault  *vault.Vault
	store  storage.Store
	prefix string
	bugged atomic.Bool
}

// of lists the recordings for a page about one patient.
func (l *listings) of(ctx context.Context, keyID keys.KeyID) ([]vault.ID, error) {
	if l.bugged.Load() {
		return l.everybodys(ctx)
	}
	return l.patients(ctx, keyID)
}

// patients lists one patient's recordings, and no others.
func (l *listings) patients(ctx context.Context, keyID keys.KeyID) ([]vault.ID, error) {
	var ids []vault.ID
	for entry, err := range l.vault.ListByKeyID(ctx, keyID) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, entry.ID)
	}
	return ids, nil
}

// everybodys is the bug: it lists the recordings of all patients, like a SELECT without its WHERE.
func (l *listings) everybodys(ctx context.Context) ([]vault.ID, error) {
	var ids []vault.ID
	for object, err := range l.store.List(ctx, l.prefix+"recordings/") { // should have been "recordings/" + keyID + "/"
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(object.Name, l.prefix+"recordings/"), "/envelope")
		if !ok {
			continue
		}
		id, err := vault.ParseID(strings.Replace(name, "/", ".", 1))
		if err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// switchBug turns the bug on or off for all users, as a release with the mistake in it would.
func (s *server) switchBug(w http.ResponseWriter, r *http.Request, session session) {
	s.listings.bugged.Store(r.PostFormValue("bug") == "on")
	http.Redirect(w, r, homeOf(session.account), http.StatusSeeOther)
}
