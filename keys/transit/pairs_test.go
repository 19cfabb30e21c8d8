package transit_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

// pairs calls each for every two roles.
func pairs(roles []string, each func(first, second string)) {
	for i, first := range roles {
		for _, second := range roles[i+1:] {
			each(first, second)
		}
	}
}

// allowPairs lets pairToken work.
func (f *fixture) allowPairs() {
	f.t.Helper()
	_, err := f.admin.Logical().WriteWithContext(f.t.Context(), "auth/token/roles/"+f.options.Prefix+"-pairs", data{
		"allowed_policies_glob": []string{f.options.Prefix + "-*"}, "allowed_entity_aliases": []string{"*"},
		"orphan": true, "token_no_default_policy": true,
	})
	require.NoError(f.t, err)
}

// pairToken returns a token with the policies of two roles. Its entity alias is that of a grant for the patient, which
// matters only if one of the roles is a grant.
func (f *fixture) pairToken(first, second string, id keys.KeyID) string {
	f.t.Helper()
	secret, err := f.admin.Logical().WriteWithContext(f.t.Context(), "auth/token/create/"+f.options.Prefix+"-pairs", data{
		"policies": []string{f.options.Prefix + "-" + first, f.options.Prefix + "-" + second}, "entity_alias": id.String() + "-kek",
		"no_default_policy": true, "ttl": "10m",
	})
	require.NoError(f.t, err)
	return secret.Auth.ClientToken
}

// documented returns the role matrix in docs/roles.md, which TestRoleMatrix compares with Vault: operation -> role ->
// outcome.
func documented(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "roles.md"))
	require.NoError(t, err)
	matrix := map[string]map[string]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if len(cells) != 1+len(matrixRoles) {
			continue
		}
		matrix[cells[0]] = map[string]string{}
		for i, role := range matrixRoles {
			matrix[cells[0]][role] = cells[1+i]
		}
	}
	return matrix
}

// TestPairsOfRolesMayDoTheUnion tries every operation of the matrix with every two roles on one token. An operation with
// which both alone have the same outcome is tried where Vault merges different rules of the two.
func TestPairsOfRolesMayDoTheUnion(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	f.installSetupPolicy()
	f.allowPairs()
	rules, matrix := f.rules(), documented(t)
	roles := slices.DeleteFunc(slices.Clone(matrixRoles), func(role string) bool { return role == "root" })
	for _, section := range matrixSections {
		for _, op := range section.operations {
			alone := matrix[op.name]
			require.NotNil(t, alone, op.name)
			pairs(roles, func(first, second string) {
				want := alone[first]
				if alone[second] == allowed || want == denied {
					want = alone[second]
				}
				if op.name == "retire, and allow the deletion of an envelope key" && first == "retirer" && second == "eraser" {
					want = allowed // in one request what they may do in two
				}
				if alone[first] == alone[second] && !differ(rules[first], rules[second], slices.Contains(aboutKeys, section.name)) {
					return // nothing is merged
				}
				c := newCell(t, f, first)
				id, err := c.keyring.KeyID(c.ctx, c.subject)
				require.NoError(t, err)
				c.use(f.pairToken(first, second, id))
				assert.Equal(t, want, c.outcome(op), "%s and %s: %s", first, second, op.name)
			})
		}
	}
}

// rules returns the rules of each role's policy: path -> the text of the rule.
func (f *fixture) rules() map[string]map[string]string {
	f.t.Helper()
	policies, err := transit.Policies(f.options, f.tokenAccessor())
	require.NoError(f.t, err)
	rules := map[string]map[string]string{}
	for _, policy := range policies {
		rules[policy.Role] = map[string]string{}
		for _, rule := range regexp.MustCompile(`(?s)\npath "(.*?)" (\{.*?\n\})`).FindAllStringSubmatch(policy.HCL, -1) {
			rules[policy.Role][rule[1]] = rule[2]
		}
		require.Len(f.t, rules[policy.Role], strings.Count(policy.HCL, "\npath "), policy.Role)
	}
	return rules
}

// aboutKeys are the sections whose operations use single keys: paths of the engine with more than one part.
var aboutKeys = []string{"Pseudonyms and enrolment", "Recording keys", "Envelope keys"}

var ofKey = regexp.MustCompile(`/recordings/(keys|hmac|encrypt|decrypt|rewrap)/`)

// differ reports whether two policies have different rules for a path, of those that are about single keys or the
// others.
func differ(first, second map[string]string, single bool) bool {
	for path, rule := range first {
		if other, both := second[path]; both && other != rule && ofKey.MatchString(path) == single {
			return true
		}
	}
	return false
}

// TestPairsOfRolesKeepErrors calls the keyring with every two roles on one token. What the one or the other role reports
// about a patient, the two together report as well.
func TestPairsOfRolesKeepErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	f.allowPairs()
	root := f.keyringOf(f.admin)
	states := map[string]func(*testing.T, keys.KeyID){
		"enrolled":       func(*testing.T, keys.KeyID) {},
		"retired":        func(t *testing.T, id keys.KeyID) { require.NoError(t, root.Retire(t.Context(), id, 2)) },
		"erased":         func(t *testing.T, id keys.KeyID) { require.NoError(t, root.Erase(t.Context(), id)) },
		"never enrolled": nil,
	}
	calls := map[string]func(k *transit.Keyring, t *testing.T, patient keys.Patient, rec recording) error{
		"Enrol": func(k *transit.Keyring, t *testing.T, patient keys.Patient, _ recording) error {
			_, err := k.Enrol(t.Context(), patient)
			return err
		},
		"Wrap": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			_, err := k.Wrap(t.Context(), rec.binding, rec.key)
			return err
		},
		"Issue": func(k *transit.Keyring, t *testing.T, patient keys.Patient, _ recording) error {
			_, err := k.Issue(t.Context(), patient, grantOptions())
			return err
		},
		"Versions": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			_, err := k.Versions(t.Context(), rec.binding.KeyID())
			return err
		},
		"Rotate": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			return k.Rotate(t.Context(), rec.binding.KeyID())
		},
		"Rewrap": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			_, err := k.Rewrap(t.Context(), rec.binding.KeyID(), []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
			return err
		},
		"Retire": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			return k.Retire(t.Context(), rec.binding.KeyID(), 2)
		},
		"Reinstate": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			return k.Reinstate(t.Context(), rec.binding.KeyID(), 1)
		},
		"Trim": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			return k.Trim(t.Context(), rec.binding.KeyID(), 2)
		},
		"Erase": func(k *transit.Keyring, t *testing.T, _ keys.Patient, rec recording) error {
			return k.Erase(t.Context(), rec.binding.KeyID())
		},
	}
	_, known := f.enrol(root)
	sample := f.record(root, known) // what a wrapped key looks like, for patients without a key
	roles := []string{"enroller", "writer", "granter", "revoker", "rotator", "retirer", "trimmer", "eraser", "auditor"}
	for name, call := range calls {
		for state, prepare := range states {
			t.Run(name+"/"+state, func(t *testing.T) {
				f := f.with(t)
				try := func(token string) error {
					patient := newPatient()
					id, err := root.KeyID(t.Context(), patient)
					require.NoError(t, err)
					rec := recording{binding: keystest.NewRecordingID(id).Binding(), wrapped: sample.wrapped, key: sample.key}
					if prepare != nil {
						_, err := root.Enrol(t.Context(), patient)
						require.NoError(t, err)
						rec = f.record(root, id)
						require.NoError(t, root.Rotate(t.Context(), id))
						prepare(t, id)
					}
					err = call(f.keyringOf(f.server.Client(token)), t, patient, rec)
					for _, class := range []error{keys.ErrErased, keys.ErrNotEnrolled, keys.ErrInvalidVersion, keys.ErrDenied} {
						if errors.Is(err, class) {
							return class
						}
					}
					require.NoError(t, err)
					return nil
				}
				alone := map[string]error{}
				for _, role := range roles {
					alone[role] = try(f.token(role))
				}
				pairs(roles, func(first, second string) {
					want := alone[first]
					if errors.Is(want, keys.ErrDenied) || alone[second] == nil {
						want = alone[second]
					}
					assert.Equal(t, want, try(f.pairToken(first, second, known)), "%s and %s", first, second)
				})
			})
		}
	}
}
