package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// Described is a recording in a listing, with its metadata.
type Described struct {
	Entry
	Info Info  // zero if Err is not nil
	Err  error // why there is no Info: ErrDamaged, ErrUnsupported or keys.ErrRetired
}

// ListOption configures one [Vault.ListInfo].
type ListOption func(*listOptions)

type listOptions struct {
	after ID
	limit int
}

// WithPage lists at most limit recordings, those whose IDs follow after, in the order of their IDs. The first page follows
// the zero ID, and the next one the last ID of the page before. An empty page is the end. A limit below 1 means no limit.
func WithPage(after ID, limit int) ListOption {
	return func(o *listOptions) { o.after, o.limit = after, limit }
}

// describing is how many recordings ListInfo describes at a time.
const describing = 16

// ListInfo lists the recordings of the grant's patient with their metadata, the newest first: by RecordedAt, or by
// CreatedAt where there is no RecordedAt. Recordings without an Info come last. It describes 16 at a time. A grant that
// can only describe is enough, and each recording that is not in the key cache takes one of the grant's uses. If none
// could be described, [keys.Unwrapper.CheckGrant] takes one, so that a grant that has ended gives an error and no list. The
// empty page after the last one takes none, and does not look at the grant.
//
// A recording that cannot be described does not hide the others: its Err says why. A recording that is deleted during
// the listing is left out. On an error the result is nil.
//
// Errors: those of [Vault.Stat] but for [ErrNotFound] and those in [Described].
func (v *Vault) ListInfo(ctx context.Context, grant keys.Grant, options ...ListOption) ([]Described, error) {
	var o listOptions
	for _, option := range options {
		option(&o)
	}
	first := o.after.IsZero()
	listed, last, err := v.listInfo(ctx, grant, o)
	for err == nil && len(listed) == 0 && !last.IsZero() { // all of the page were deleted since they were listed
		o.after = last
		listed, last, err = v.listInfo(ctx, grant, o)
	}
	described := slices.ContainsFunc(listed, func(d Described) bool { return d.Err == nil })
	if err == nil && !described && (first || len(listed) > 0) {
		err = v.access(grant, ID{}).failed(v.keyring.CheckGrant(ctx, grant))
	}
	if err != nil {
		return nil, fmt.Errorf("list recordings: %w", err)
	}
	v.emit(events.Event{Kind: events.Listed, KeyID: grant.KeyID(), Grant: grant.Details(), Entries: len(listed)})
	if o == (listOptions{}) {
		slices.SortFunc(listed, newestFirst)
	} else {
		slices.SortFunc(listed, func(a, b Described) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	}
	return listed, nil
}

// listInfo describes the recordings of one page. last is the last one that was listed, or zero if the page is the last.
func (v *Vault) listInfo(ctx context.Context, grant keys.Grant, o listOptions) (listed []Described, last ID, err error) {
	var mu sync.Mutex
	err = objects.Each(ctx, v.page(ctx, grant, o, &last), describing, func(ctx context.Context, entry Entry) error {
		info, err := v.Stat(ctx, grant, entry.ID)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil // deleted since it was listed
		case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, keys.ErrRetired):
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		listed = append(listed, Described{entry, info, err})
		return nil
	})
	return listed, last, err
}

// page yields the entries of one page. If it is full, it sets last.
func (v *Vault) page(ctx context.Context, grant keys.Grant, o listOptions, last *ID) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		n := 0
		for entry, err := range list(ctx, v.objects, grant.KeyID()) {
			if err == nil && entry.ID.String() <= o.after.String() && !o.after.IsZero() {
				continue
			}
			if !yield(entry, err) {
				return
			}
			if n++; n == o.limit {
				*last = entry.ID
				return
			}
		}
	}
}

func newestFirst(a, b Described) int {
	if (a.Err == nil) != (b.Err == nil) {
		if a.Err == nil {
			return -1
		}
		return 1
	}
	return cmp.Or(b.time().Compare(a.time()), cmp.Compare(a.ID.String(), b.ID.String()))
}

// time returns when a recording was made.
func (d Described) time() time.Time {
	if d.Info.RecordedAt.IsZero() {
		return d.Info.CreatedAt
	}
	return d.Info.RecordedAt
}
