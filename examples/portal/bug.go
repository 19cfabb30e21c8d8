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

// listings is where the portal learns which recordings a page shows. The switch chooses between the
// listing as it should be and the listing of 2020.
type listings struct {
	vault  *vault.Vault
	store  storage.Store
	prefix string
	bugged atomic.Bool
}

func (l *listings) of(ctx context.Context, keyID keys.KeyID) ([]vault.ID, error) {
	if l.bugged.Load() {
		return l.everybodys(ctx)
	}
	return l.patients(ctx, keyID)
}

// patients lists one patient's recordings.
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

// everybodys is the bug. It asks for recordings and forgets to say whose: a SELECT without its WHERE.
func (l *listings) everybodys(ctx context.Context) ([]vault.ID, error) {
	var ids []vault.ID
	for object, err := range l.store.List(ctx, l.prefix+"r1/") { // should have been "r1/" + keyID + "/"
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(object.Name, l.prefix+"r1/"), "/envelope")
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

// switchBug turns the bug on or off, for everybody: it stands for a release with the mistake in it.
func (s *server) switchBug(w http.ResponseWriter, r *http.Request, session session) {
	s.listings.bugged.Store(r.PostFormValue("bug") == "on")
	http.Redirect(w, r, homeOf(session.account), http.StatusSeeOther)
}
