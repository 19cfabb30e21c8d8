package transit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// ForeignAlias is an entity alias of Vault's token mount that is not that of a patient, or whose entity has rights of
// its own or logs in elsewhere. Whoever has the granter's token can issue a token for it, and that token has the entity's rights. An alias
// that is no patient's and has no rights is harmless, but only somebody with the granter's token, or with a right to
// Vault's identity store, can have made it.
type ForeignAlias struct {
	Alias    string   // cut after 64 bytes
	EntityID string   // in Vault's identity store
	Policies []string // of the entity itself
	Groups   int      // number of groups that the entity belongs to, whose policies it has too
	Logins   int      // number of the entity's aliases at other auth methods: to the policies of grants, who logs in there is this alias
}

// String returns the alias on one line, quoted.
func (a ForeignAlias) String() string {
	text := fmt.Sprintf("foreign entity alias %q: entity %s, policies %q, groups %d", a.Alias, a.EntityID, a.Policies, a.Groups)
	if a.Logins > 0 {
		text += fmt.Sprintf(", aliases at other auth methods %d", a.Logins)
	}
	return text
}

// ForeignAliases looks for foreign aliases as [Setup] does at its end, and changes nothing. The Report has no Changes.
// Errors: [keys.ErrDenied], [keys.ErrUnavailable].
func ForeignAliases(ctx context.Context, client *api.Client, options SetupOptions) (Report, error) {
	s, err := newSetup(client, options)
	if err != nil {
		return Report{}, err
	}
	if err = s.tokenMount(ctx); err == nil {
		err = s.aliases(ctx)
	}
	if err != nil {
		return s.report, fmt.Errorf("transit: foreign aliases: %w", err)
	}
	return s.report, nil
}

const (
	maxForeign  = 100 // that are reported
	maxSample   = 100 // entities of patients that are read
	maxAliasLen = 64  // bytes that are reported
)

// aliases reports foreign aliases. Only those with the suffix matter: the token role refuses all others. It comes
// last, and an alias is no reason to stop, because otherwise a thief could keep Setup from mending anything.
func (s *setup) aliases(ctx context.Context) error {
	var count struct {
		Counters struct {
			Entities struct {
				Total int `json:"total"`
			} `json:"entities"`
		} `json:"counters"`
	}
	if err := s.read(ctx, "sys/internal/counters/entities", &count); err != nil {
		return err
	}
	if total := count.Counters.Entities.Total; total > s.options.MaxEntities {
		s.report.UncheckedEntities = total
		return nil
	}
	var foreign, sample []ForeignAlias
	patients := map[[16]byte]bool{} // hashes of their entities, because there may be very many
	logins := map[string]int{}      // aliases at other auth methods, by entity
	path := "identity/entity-alias/id"
	err := s.vault.list(ctx, s.own, path, func(details []byte) error {
		var alias struct {
			Name     string `json:"name"`
			Mount    string `json:"mount_accessor"`
			EntityID string `json:"canonical_id"`
		}
		if err := json.Unmarshal(details, &alias); err != nil {
			return err
		}
		if alias.Mount != s.tokenAccessor {
			logins[alias.EntityID]++
			return nil
		}
		if !strings.HasSuffix(strings.ToLower(alias.Name), kekSuffix) {
			return nil
		}
		found := ForeignAlias{Alias: alias.Name[:min(len(alias.Name), maxAliasLen)], EntityID: alias.EntityID}
		_, err := keys.ParseKeyID(strings.TrimSuffix(alias.Name, kekSuffix))
		if err == nil {
			patients[shortHash(alias.EntityID)] = true
		}
		switch {
		case err == nil && len(sample) < maxSample:
			sample = append(sample, found)
		case err != nil && len(foreign) < maxForeign:
			foreign = append(foreign, found)
		case err != nil:
			s.report.MoreForeign++
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	for _, entity := range slices.Sorted(maps.Keys(logins)) {
		switch {
		case !patients[shortHash(entity)]:
		case len(foreign) < maxForeign:
			foreign = append(foreign, ForeignAlias{EntityID: entity})
		default:
			s.report.MoreForeign++
		}
	}
	sample = slices.DeleteFunc(sample, func(found ForeignAlias) bool { return logins[found.EntityID] > 0 })
	for i, found := range append(foreign, sample...) {
		var entity struct {
			Policies []string `json:"policies"`
			Groups   []string `json:"group_ids"` // with those that it inherits
			Aliases  []struct {
				Name  string `json:"name"`
				Mount string `json:"mount_accessor"`
			} `json:"aliases"`
		}
		err := s.read(ctx, "identity/entity/id/"+found.EntityID, &entity)
		if missing(err) {
			continue // removed since
		}
		if err != nil {
			return err
		}
		for _, alias := range entity.Aliases {
			if found.Alias == "" && alias.Mount == s.tokenAccessor {
				found.Alias = alias.Name[:min(len(alias.Name), maxAliasLen)]
			}
		}
		found.Policies, found.Groups, found.Logins = entity.Policies, len(entity.Groups), logins[found.EntityID]
		if i < len(foreign) || len(found.Policies) > 0 || found.Groups > 0 {
			s.report.Foreign = append(s.report.Foreign, found)
		}
	}
	return nil
}

func shortHash(text string) [16]byte {
	sum := sha256.Sum256([]byte(text))
	return [16]byte(sum[:])
}
