package transitcheck_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys/transit/transitcheck"
)

// TestOverlapIsThatOfPaths compares every pair of short rules with a search for a path that matches both.
func TestOverlapIsThatOfPaths(t *testing.T) {
	texts := func(alphabet string, longest int) []string {
		all, last := []string{""}, []string{""}
		for range longest {
			var next []string
			for _, text := range last {
				for _, char := range alphabet {
					next = append(next, text+string(char))
				}
			}
			all, last = append(all, next...), next
		}
		return all
	}
	paths := texts("ab/+*", 5)
	rules := texts("ab/+*", 3)
	matches := map[string][]bool{}
	for _, rule := range rules {
		text, prefix := strings.CutSuffix(rule, "*") // as Vault reads it
		segments := strings.Split(text, "/")
		for i, segment := range segments {
			if segments[i] = regexp.QuoteMeta(segment); segment == "+" {
				segments[i] = "[^/]*"
			}
		}
		pattern := "^" + strings.Join(segments, "/")
		if !prefix {
			pattern += "$"
		}
		expression := regexp.MustCompile(pattern)
		for _, path := range paths {
			matches[rule] = append(matches[rule], expression.MatchString(path))
		}
	}
	for _, a := range rules {
		for _, b := range rules {
			both := false
			for i := range paths {
				both = both || matches[a][i] && matches[b][i]
			}
			if transitcheck.Overlap(a, b) != both {
				require.Equal(t, both, transitcheck.Overlap(a, b), "%q and %q", a, b)
			}
		}
	}
}

func TestTemplatesStandForAnything(t *testing.T) {
	for path, want := range map[string]bool{
		"{{identity.entity.name}}":                   true,
		"{{identity.entity.name}}/decrypt/+":         true,
		"recordings/decrypt/{{a}}-{{b}}":             true,
		"rec{{identity.entity.name}}s/decrypt/a-kek": true,
		"{{identity.entity.name}}/datakey/x":         false,
		"secret/{{identity.entity.name}}":            false,
		"recordings/decrypt/{{identity.entity.name}": true, // a template that does not end
	} {
		t.Run(path, func(t *testing.T) {
			require.Equal(t, want, transitcheck.Overlap(path, "recordings/decrypt/+"))
		})
	}
}
