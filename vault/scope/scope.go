// Package scope says which patients a job is about: all of them, some, or one of several even shares.
//
// KeyIDs are uniform, so their first two characters cut all patients into 1,024 even ranges. Shard i of n is a
// contiguous share of these ranges, and depends on i and n alone. So n processes that get a shard each need no
// coordinator, and together they cover every patient once.
package scope

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/recvault/recvault/keys"
)

// MaxShards is the greatest number of shards.
const MaxShards = 1024

// ErrInvalid: the text or the numbers do not name a shard.
var ErrInvalid = errors.New("invalid shard")

// alphabet has the characters of a KeyID in the order in which stores list them.
const alphabet = "234567abcdefghijklmnopqrstuvwxyz"

// Scope is a set of patients. The zero Scope has none.
type Scope struct {
	text   string
	ids    []keys.KeyID // sorted; nil if it is a range
	lo, hi int          // a range [lo, hi) of the 1,024
}

// All returns the scope of all patients.
func All() Scope { return Scope{text: "all", hi: MaxShards} }

// Of returns the scope of the patients with these KeyIDs.
func Of(ids ...keys.KeyID) Scope {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, compare)
	ids = slices.Compact(ids)
	text := strconv.Itoa(len(ids)) + " patients"
	if len(ids) == 1 {
		text = ids[0].String()
	}
	return Scope{text: text, ids: ids}
}

func compare(a, b keys.KeyID) int { return strings.Compare(a.String(), b.String()) }

// Shard returns the scope of share i, counted from 0, of n shares. n is 1 to [MaxShards]. It returns [ErrInvalid]
// for other numbers.
func Shard(i, n int) (Scope, error) {
	if n < 1 || n > MaxShards || i < 0 || i >= n {
		return Scope{}, fmt.Errorf("%w: %d/%d, want i/n with i from 0 to n-1 and n from 1 to %d", ErrInvalid, i, n, MaxShards)
	}
	return Scope{
		text: fmt.Sprintf("shard %d/%d", i, n),
		lo:   i * MaxShards / n,
		hi:   (i + 1) * MaxShards / n,
	}, nil
}

// ParseShard reads "i/n" and returns that [Shard]. It returns [ErrInvalid] for any other text.
func ParseShard(text string) (Scope, error) {
	first, second, _ := strings.Cut(text, "/")
	i, err1 := strconv.Atoi(first)
	n, err2 := strconv.Atoi(second)
	if err1 != nil || err2 != nil {
		return Scope{}, fmt.Errorf("%w: want i/n, such as 0/4", ErrInvalid)
	}
	return Shard(i, n)
}

// String describes the scope: "all", "shard 0/4", "2 patients", or the KeyID if there is one patient.
func (s Scope) String() string {
	if s.text == "" {
		return "no patients"
	}
	return s.text
}

// Contains reports whether the patient is in the scope.
func (s Scope) Contains(id keys.KeyID) bool {
	if id.IsZero() {
		return false
	}
	if s.hi == 0 {
		_, found := slices.BinarySearchFunc(s.ids, id, compare)
		return found
	}
	text := id.String()
	rank := strings.IndexByte(alphabet, text[0])*len(alphabet) + strings.IndexByte(alphabet, text[1])
	return s.lo <= rank && rank < s.hi
}

// Before returns how much of the scope, from 0 to 1, comes before a patient in the scope, in the order in which stores
// list. For a range that is its width. KeyIDs are uniform, so it is also about the fraction of its patients.
func (s Scope) Before(id keys.KeyID) float64 {
	if s.hi == 0 {
		i, _ := slices.BinarySearchFunc(s.ids, id, compare)
		return float64(i) / float64(max(1, len(s.ids)))
	}
	var position float64
	width := float64(MaxShards)
	for _, character := range []byte(id.String()[:4]) {
		width /= float64(len(alphabet))
		position += width * float64(strings.IndexByte(alphabet, character))
	}
	return (position - float64(s.lo)) / float64(s.hi-s.lo)
}

// Prefixes returns prefixes of KeyIDs, in order. Every KeyID in the scope begins with exactly one of them, and no
// other KeyID with any. They are as few as possible: for all patients, the empty prefix alone.
func (s Scope) Prefixes() []string {
	var prefixes []string
	for _, id := range s.ids {
		prefixes = append(prefixes, id.String())
	}
	for rank := s.lo; rank < s.hi; {
		first, second := rank/len(alphabet), rank%len(alphabet)
		switch {
		case rank == 0 && s.hi == MaxShards:
			return []string{""}
		case second == 0 && rank+len(alphabet) <= s.hi:
			prefixes = append(prefixes, alphabet[first:first+1])
			rank += len(alphabet)
		default:
			prefixes = append(prefixes, alphabet[first:first+1]+alphabet[second:second+1])
			rank++
		}
	}
	return prefixes
}
