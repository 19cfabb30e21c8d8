package transitcheck

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys/transit"
)

// rule is what a policy permits at one path.
type rule struct {
	path         string // as the policy has it
	capabilities []string
}

func (r rule) String() string { return strings.Join(r.capabilities, ", ") + " on " + r.path }

// oldStyle are Vault's capabilities for the older way to write a rule: policy = "write".
var oldStyle = map[string][]string{
	"read":  {"read", "list"},
	"write": {"create", "read", "update", "delete", "list"},
	"sudo":  {"create", "read", "update", "delete", "list", "sudo"},
}

// parseRules reads the text of a policy, in HCL or JSON, as Vault does. Rules that deny are left out.
func parseRules(text string) ([]rule, error) {
	parsed, err := hcl.Parse(text)
	if err != nil {
		return nil, err
	}
	root, ok := parsed.Node.(*ast.ObjectList)
	if !ok {
		return nil, fmt.Errorf("it is no list of rules")
	}
	var rules []rule
	for _, item := range root.Filter("path").Items {
		if len(item.Keys) == 0 {
			return nil, fmt.Errorf("a rule has no path")
		}
		var body struct {
			Policy       string   `hcl:"policy"`
			Capabilities []string `hcl:"capabilities"`
		}
		if err := hcl.DecodeObject(&body, item.Val); err != nil {
			return nil, err
		}
		path, _ := item.Keys[0].Token.Value().(string)
		granted := append(body.Capabilities, oldStyle[body.Policy]...)
		if body.Policy == "deny" || len(granted) == 0 || slices.Contains(granted, "deny") {
			continue
		}
		rules = append(rules, rule{strings.TrimPrefix(path, "/"), granted})
	}
	return rules, nil
}

// target is what recvault relies on.
type target struct {
	path  string // as a policy would name it
	what  string
	needs []string // only a rule with one of these capabilities does harm; nil if any does
}

var (
	sudo   = []string{"sudo"}
	writes = []string{"create", "update", "patch"}
)

func (c *comparer) targets() []target {
	mount, prefix := c.options.Mount, c.options.Prefix
	targets := []target{
		{mount + "/*", "keys", nil},
		{"sys/mounts/" + mount, "the mount", nil},
		{"sys/mounts/" + mount + "/*", "the mount", nil},
		{"sys/remount", "the mount", nil},
		{"sys/policies/acl", "policies", nil},
		{"sys/policies/acl/*", "policies", nil},
		{"sys/policy", "policies", nil},
		{"sys/policy/*", "policies", nil},
		{"auth/token/create/" + prefix + "-grant", "grants", nil},
		{"auth/token/create/" + prefix + "-describe", "grants", nil},
		{"auth/token/create", "tokens with any policy", sudo},
		{"auth/token/create/*", "tokens with any policy", sudo}, // by a token role that names no policies
		{"auth/token/create-orphan", "tokens with any policy", sudo},
		{"auth/token/lookup-accessor", "other users' tokens", nil},
		{"auth/token/revoke-accessor", "other users' tokens", nil},
		{"sys/leases/lookup/auth*", "other users' tokens", sudo}, // whoever knows a lease may end it
		{"sys/leases/revoke-prefix/auth*", "other users' tokens", sudo},
		{"sys/leases/revoke-force/auth*", "other users' tokens", sudo},
		{"sys/revoke-prefix/auth*", "other users' tokens", sudo},
		{"sys/revoke-force/auth*", "other users' tokens", sudo},
		{"auth/token/roles/*", "token roles", nil},
		{"sys/auth/*", "auth methods", nil},
		{"sys/mounts/auth/*", "auth methods", nil}, // the same settings
		{"identity/entity*", "entities", nil},
		{"identity/group*", "groups", nil},
		{"identity/alias*", "entities", nil},
		{"identity/persona*", "entities", nil},
		{"identity/lookup/*", "entities", nil},
		{"sys/audit/*", "audit devices", nil},
		{"sys/config/auditing/*", "audit devices", nil},
		{"sys/mounts/sys/tune", "audit devices", writes}, // what they show in clear
		{"sys/mounts/identity/tune", "audit devices", writes},
		{"sys/quotas/*", "quotas", writes},
		{"sys/audit-hash/*", "what the audit log hides", nil}, // by guesses
		{"sys/raw", "Vault's storage", nil},
		{"sys/raw/*", "Vault's storage", nil},
		{"sys/storage/raft/snapshot*", "Vault's storage", writes},
		{"sys/plugins/*", "plugins", writes},
	}
	const logins = "who may log in with which policy"
	for _, method := range c.methods {
		targets = append(targets, target{"auth/" + method + "*", logins, writes})
	}
	if c.believes {
		for _, path := range []string{"config", "key/+", "role/+", "scope/+", "client/+", "assignment/+", "provider/+"} {
			targets = append(targets, target{"identity/oidc/" + path, logins, writes})
		}
	}
	return targets
}

// reach returns what of the targets a rule reaches, or "".
func (c *comparer) reach(r rule) string {
	var reached []string
	pattern := pathPattern(r.path)
	for _, t := range c.targets() {
		harmless := t.needs != nil && !slices.ContainsFunc(r.capabilities, func(have string) bool { return slices.Contains(t.needs, have) })
		if harmless || slices.Contains(reached, t.what) {
			continue
		}
		if overlap(pattern, pathPattern(t.path)) {
			reached = append(reached, t.what)
		}
	}
	return strings.Join(reached, ", ")
}

// standard are the rules of Vault's own policy "default" that reach a target: a token's own entity.
var standard = map[string]bool{
	"read on identity/entity/id/{{identity.entity.id}}":     true,
	"read on identity/entity/name/{{identity.entity.name}}": true,
}

// otherPolicies looks for policies beside those of the roles that reach what recvault relies on.
func (c *comparer) otherPolicies() {
	c.reaching = map[string]bool{}
	names, ok := c.list("sys/policies/acl", "list")
	if !ok {
		return
	}
	own := map[string]string{} // the roles' policies, compared before
	for path, body := range c.wanted {
		if name, ok := strings.CutPrefix(path, "sys/policies/acl/"); ok {
			own[name] = show(body["policy"])
		}
	}
	own[c.options.Prefix+"-setup"] = ""
	forAudits, err := DriftPolicy(transit.Options{Mount: c.options.Mount, Prefix: c.options.Prefix})
	if err != nil {
		c.err = err
		return
	}
	names = slices.DeleteFunc(names, func(name string) bool { _, ok := own[name]; return ok })
	if len(names) > MaxPolicies {
		c.unchecked("%d policies: Vault has more than %d", len(names)-MaxPolicies, MaxPolicies)
		names = names[:MaxPolicies]
	}
	read := 0
	for _, name := range append(names, unlisted) {
		if name == "root" {
			read++
			c.note("expected: root, Vault's own, reaches everything")
			continue
		}
		found, ok := c.readPolicy(name)
		if c.err != nil {
			return
		}
		if !ok || name == unlisted && found == nil {
			continue
		}
		read++
		text, _ := found["policy"].(string)
		if text == forAudits {
			c.note("expected: %s, for comparisons such as this one, reads settings and changes nothing", name)
			continue
		}
		rules, err := parseRules(text)
		if err != nil {
			c.unchecked("policy %s: its text cannot be read: %v", name, err)
			continue
		}
		for _, r := range rules {
			switch reached := c.reach(r); {
			case reached == "":
			case name == "default" && standard[r.String()]:
				c.note("expected: %s: %v (reaches %s)", name, r, reached)
			case slices.Contains(c.options.Expected, name):
				c.reaching[name] = true // its tokens matter
				c.note("expected: %s: %v (reaches %s)", name, r, reached)
			default:
				c.reaching[name] = true
				c.drift("policy "+name, "no rule that reaches "+reached, r.String())
			}
		}
	}
	c.compared("%d policies, each rule, wildcards and templates included", read)
}

// unlisted is the name of a policy that Vault keeps and gives to tokens, and does not list.
const unlisted = "."

// readPolicy returns a policy, or nil if there is none.
func (c *comparer) readPolicy(name string) (data map[string]any, ok bool) {
	if name != unlisted {
		return c.readOne("sys/policies/acl", name)
	}
	return c.ask("sys/policies/acl/+", "read", func() (*api.Secret, error) {
		const folder = "/v1/sys/policies/acl/"
		request := c.client.NewRequest(http.MethodGet, folder)
		request.URL.RawPath = request.URL.Path + "/%2e" // the other ways to read take the point for the folder
		request.URL.Path += "/."
		//lint:ignore SA1019 there is no other way to send a path as it is
		response, err := c.client.RawRequestWithContext(c.ctx, request)
		if response != nil {
			defer response.Body.Close()
		}
		var answer *api.ResponseError
		switch {
		case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
			return nil, nil
		case err != nil:
			return nil, err
		}
		return api.ParseSecret(response.Body)
	})
}

// token is one element of a pattern: a character or a class of them, once or any number of times.
type token struct {
	char  rune // or one of the two below
	times bool // any number of times, none included
}

const (
	anyChar  = -1
	notSlash = -2
)

// pathPattern reads the path of a policy's rule: "*" at the end stands for anything, "+" as a whole segment for any
// segment, and a template for anything, because what replaces it may contain wildcards.
func pathPattern(path string) []token {
	var pattern []token
	path, prefix := strings.CutSuffix(path, "*")
	for i, segment := range strings.Split(path, "/") {
		if i > 0 {
			pattern = append(pattern, token{'/', false})
		}
		if segment == "+" {
			pattern = append(pattern, token{notSlash, true})
			continue
		}
		for segment != "" {
			before, rest, found := strings.Cut(segment, "{{")
			pattern = append(pattern, literal(before)...)
			if !found {
				break
			}
			pattern = append(pattern, token{anyChar, true})
			_, segment, _ = strings.Cut(rest, "}}")
		}
	}
	if prefix {
		pattern = append(pattern, token{anyChar, true})
	}
	return pattern
}

// globPattern reads a list's glob, in which "*" stands for anything anywhere.
func globPattern(glob string) []token {
	var pattern []token
	for i, part := range strings.Split(glob, "*") {
		if i > 0 {
			pattern = append(pattern, token{anyChar, true})
		}
		pattern = append(pattern, literal(part)...)
	}
	return pattern
}

func literal(text string) []token {
	var pattern []token
	for _, char := range text {
		pattern = append(pattern, token{char, false})
	}
	return pattern
}

// overlap reports whether some text matches both patterns. It walks over pairs of positions in them.
func overlap(a, b []token) bool {
	type state struct{ i, j int }
	seen := map[state]bool{}
	var match func(i, j int) bool
	match = func(i, j int) bool {
		s := state{i, j}
		if seen[s] {
			return false // it is being followed, or led nowhere
		}
		seen[s] = true
		if i == len(a) && j == len(b) {
			return true
		}
		if i < len(a) && a[i].times && match(i+1, j) || j < len(b) && b[j].times && match(i, j+1) {
			return true
		}
		if i == len(a) || j == len(b) || !meet(a[i].char, b[j].char) {
			return false
		}
		next := func(t token, at int) int {
			if t.times {
				return at
			}
			return at + 1
		}
		return match(next(a[i], i), next(b[j], j))
	}
	return match(0, 0)
}

// meet reports whether a character is in both classes.
func meet(a, b rune) bool {
	switch {
	case a == anyChar || b == anyChar || a == b:
		return true
	case a == notSlash:
		return b != '/'
	case b == notSlash:
		return a != '/'
	}
	return false
}

// lines compares a text line by line, by the longest common subsequence.
func (c *comparer) lines(expected, found string) {
	want, have := strings.Split(expected, "\n"), strings.Split(found, "\n")
	c.compared("%d lines", len(want))
	// common[i][j] is the length of the longest common subsequence of want[i:] and have[j:].
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(have)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(have) - 1; j >= 0; j-- {
			if want[i] == have[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(want) || j < len(have); {
		if i < len(want) && j < len(have) && want[i] == have[j] {
			i, j = i+1, j+1
			continue
		}
		var missing, extra []string
		line := i + 1
		for (i < len(want) || j < len(have)) && (i == len(want) || j == len(have) || want[i] != have[j]) {
			if j == len(have) || i < len(want) && common[i+1][j] >= common[i][j+1] {
				missing = append(missing, want[i])
				i++
			} else {
				extra = append(extra, have[j])
				j++
			}
		}
		for n := range max(len(missing), len(extra)) {
			at := func(list []string) string {
				if n < len(list) {
					return list[n]
				}
				return "no line"
			}
			c.drift(fmt.Sprintf("line %d", line+min(n, max(len(missing)-1, 0))), at(missing), at(extra))
		}
	}
}
