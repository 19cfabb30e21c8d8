package scope_test

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/scope"
)

func randomKeyID() keys.KeyID {
	mac := make([]byte, keys.KeyIDBytes)
	_, _ = rand.Read(mac)
	return keys.NewKeyID(mac)
}

func TestShardsCoverEveryPatientOnce(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 7, 32, 33, 100, 1000, 1023, 1024} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var shards []scope.Scope
			for i := range n {
				s, err := scope.Shard(i, n)
				require.NoError(t, err)
				shards = append(shards, s)
			}
			for range 200 {
				id := randomKeyID()
				var by []int
				for i, s := range shards {
					if s.Contains(id) {
						by = append(by, i)
					}
					covered := slices.ContainsFunc(s.Prefixes(), func(prefix string) bool {
						return strings.HasPrefix(id.String(), prefix)
					})
					assert.Equal(t, s.Contains(id), covered, "the prefixes of %v agree with Contains", s)
				}
				assert.Len(t, by, 1, "%v", id)
			}
		})
	}
}

func TestShardsAreEvenAndContiguous(t *testing.T) {
	var all []string
	for i := range 5 {
		s, err := scope.ParseShard(fmt.Sprintf("%d/5", i))
		require.NoError(t, err)
		weight := 0
		for _, prefix := range s.Prefixes() {
			weight += map[int]int{1: 32, 2: 1}[len(prefix)]
		}
		assert.InDelta(t, 1024.0/5, weight, 1)
		all = append(all, s.Prefixes()...)
	}
	assert.True(t, slices.IsSorted(all), "in the order in which a store lists")
}

func TestAllPatientsAreOneListing(t *testing.T) {
	assert.Equal(t, []string{""}, scope.All().Prefixes())
	one, err := scope.Shard(0, 1)
	require.NoError(t, err)
	assert.Equal(t, []string{""}, one.Prefixes())
	quarter, err := scope.Shard(1, 4)
	require.NoError(t, err)
	assert.Len(t, quarter.Prefixes(), 8)
}

func TestAScopeOfSomePatientsHasTheseOnly(t *testing.T) {
	a, b, c := randomKeyID(), randomKeyID(), randomKeyID()
	s := scope.Of(b, a, b)
	assert.True(t, s.Contains(a))
	assert.True(t, s.Contains(b))
	assert.False(t, s.Contains(c))
	assert.Len(t, s.Prefixes(), 2)
	assert.Equal(t, "2 patients", s.String())

	assert.Equal(t, a.String(), scope.Of(a).String())
	for _, empty := range []scope.Scope{{}, scope.Of()} {
		assert.False(t, empty.Contains(a))
		assert.Empty(t, empty.Prefixes())
	}
	assert.False(t, scope.All().Contains(keys.KeyID{}))
}

func TestInvalidShardsAreRefused(t *testing.T) {
	for _, text := range []string{"", "1", "/", "4/4", "-1/4", "0/0", "0/1025", "a/b", "1/2/3", " 0/4", "0/4 "} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			_, err := scope.ParseShard(text)
			assert.ErrorIs(t, err, scope.ErrInvalid)
		})
	}
}

func TestBeforeGrowsFromZeroToOne(t *testing.T) {
	ids := make([]keys.KeyID, 2000)
	for i := range ids {
		ids[i] = randomKeyID()
	}
	slices.SortFunc(ids, func(a, b keys.KeyID) int { return strings.Compare(a.String(), b.String()) })
	shard, err := scope.Shard(2, 5)
	require.NoError(t, err)
	for _, s := range []scope.Scope{scope.All(), shard, scope.Of(ids...)} {
		var in []keys.KeyID
		for _, id := range ids {
			if s.Contains(id) {
				in = append(in, id)
			}
		}
		last := 0.0
		for i, id := range in {
			before := s.Before(id)
			assert.GreaterOrEqual(t, before, last, "%v", s)
			assert.Less(t, before, 1.0, "%v", s)
			assert.InDelta(t, float64(i)/float64(len(in)), before, 0.15, "%v", s)
			last = before
		}
	}
	assert.Zero(t, scope.Of(ids[7]).Before(ids[7]))
}
