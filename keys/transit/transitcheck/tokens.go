package transitcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys/transit"
)

// texts returns the elements of a list in Vault's answer.
func texts(value any) []string {
	list, _ := value.([]any)
	var found []string
	for _, element := range list {
		found = append(found, fmt.Sprint(element))
	}
	return found
}

// zero reports whether a number in Vault's answer is 0 or not there.
func zero(value any) bool { return show(value) == "0" || show(value) == none }

// guarded returns the policies of the roles, and the others that reach what recvault relies on.
func (c *comparer) guarded() []string {
	roles, _ := transit.Policies(transit.Options{Mount: c.options.Mount, Prefix: c.options.Prefix}, transit.TokenAccessor)
	var names []string
	for _, role := range roles {
		names = append(names, role.Name)
	}
	for name := range c.reaching {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// grants are the names of the policies, and of the token roles, of grants.
func (c *comparer) grants() []string {
	return []string{c.options.Prefix + "-grant", c.options.Prefix + "-describe"}
}

// otherTokenRoles looks for token roles that give grants their policy without the limits of setup's, or other policies
// that matter without a limit in time.
func (c *comparer) otherTokenRoles() {
	names, ok := c.list("auth/token/roles", "list")
	if !ok {
		return
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(c.grants(), name) })
	if len(names) > MaxTokenRoles {
		c.unchecked("%d token roles: Vault has more than %d beside setup's", len(names)-MaxTokenRoles, MaxTokenRoles)
		names = names[:MaxTokenRoles]
	}
	guarded, read := c.guarded(), 0
	for _, name := range names {
		role, ok := c.readOne("auth/token/roles", name)
		if c.err != nil {
			return
		}
		if !ok || role == nil {
			continue
		}
		read++
		gives := slices.DeleteFunc(slices.Clone(guarded), func(policy string) bool { return !permits(role, policy) })
		periodic := !zero(role["token_period"]) || !zero(role["period"])
		endless := periodic || role["renewable"] == true && zero(role["token_explicit_max_ttl"]) && zero(role["explicit_max_ttl"])
		c.limited[name] = !endless
		switch {
		case slices.ContainsFunc(gives, func(policy string) bool { return slices.Contains(c.grants(), policy) }):
			c.drift("token role "+name, "none but setup's gives the policies of grants", "allows "+strings.Join(gives, ", "))
		case len(gives) > 0 && endless:
			c.drift("token role "+name, "an explicit maximum, and no period", fmt.Sprintf("allows %s; %s", strings.Join(gives, ", "), lifetime(periodic)))
		}
	}
	c.compared("%d token roles beside setup's", read)
}

// permits reports whether a token role lets a token have a policy that its creator need not have. One that only names what
// it does not allow, allows everything else.
func permits(role map[string]any, policy string) bool {
	matches := func(names, globs string) bool {
		return slices.Contains(texts(role[names]), policy) || slices.ContainsFunc(texts(role[globs]), func(glob string) bool {
			return overlap(globPattern(glob), literal(policy))
		})
	}
	named := func(names, globs string) bool { return len(texts(role[names]))+len(texts(role[globs])) > 0 }
	const allowed, allowedGlobs, disallowed, disallowedGlobs = "allowed_policies", "allowed_policies_glob", "disallowed_policies", "disallowed_policies_glob"
	if !named(allowed, allowedGlobs) && named(disallowed, disallowedGlobs) {
		return !matches(disallowed, disallowedGlobs)
	}
	return matches(allowed, allowedGlobs) && !matches(disallowed, disallowedGlobs)
}

func lifetime(periodic bool) string {
	if periodic {
		return "periodic: it can be renewed for ever"
	}
	return "renewable without an explicit maximum"
}

// tokens looks tokens up by their accessors.
func (c *comparer) tokens() {
	accessors, ok := c.list("auth/token/accessors", "list and sudo")
	if !ok {
		return
	}
	own := ""
	if self, err := c.client.Auth().Token().LookupSelfWithContext(c.ctx); err == nil && self != nil {
		own = show(self.Data["accessor"])
	}
	sample := draw(accessors, c.options.Tokens)
	guarded, looked, matter := c.guarded(), 0, 0
	for _, accessor := range sample {
		data, ok := c.ask("auth/token/lookup-accessor", "update", func() (*api.Secret, error) {
			secret, err := c.lookUp(accessor)
			if ended(err) {
				return nil, nil
			}
			return secret, err
		})
		if !ok {
			break
		}
		looked++
		policies := append(texts(data["policies"]), texts(data["identity_policies"])...)
		switch {
		case slices.Contains(policies, "root"):
			if accessor != own {
				c.drift("token "+accessor, "no root token but that of this run", c.describe(data))
			}
		case slices.ContainsFunc(policies, func(policy string) bool { return slices.Contains(guarded, policy) }):
			matter++
			c.token(accessor, data, policies)
		}
	}
	c.compared("%d of %d tokens, drawn at random; %d have policies that matter", looked, len(accessors), matter)
	if left := len(accessors) - looked; looked == len(sample) && left > 0 {
		c.note("%d tokens were not in the sample", left)
	}
}

// lookUp looks a token up. Of a token that is being ended, Vault may answer that the right is missing, or show it without its
// end: then lookUp waits and asks again, a few times.
func (c *comparer) lookUp(accessor string) (*api.Secret, error) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		secret, err := c.client.Auth().Token().LookupAccessorWithContext(c.ctx, accessor)
		var answer *api.ResponseError
		denied := errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden
		without := err == nil && show(secret.Data["expire_time"]) == none && !slices.Contains(texts(secret.Data["policies"]), "root")
		if !denied && !without || wait > 200*time.Millisecond {
			return secret, err
		}
		select {
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		case <-time.After(wait):
		}
	}
}

// ended reports whether Vault answered that a token has ended since its accessor was listed.
func ended(err error) bool {
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		return false
	}
	text := strings.Join(answer.Errors, " ")
	return answer.StatusCode == http.StatusNotFound || strings.Contains(text, "invalid accessor") || strings.Contains(text, "bad token")
}

// token compares a token with policies that matter.
func (c *comparer) token(accessor string, data map[string]any, policies []string) {
	path, what := show(data["path"]), "token "+accessor
	periodic := !zero(data["period"])
	endless := show(data["expire_time"]) == none
	limited := !zero(data["explicit_max_ttl"]) || c.limited[show(data["role"])] // Vault does not show a token the maximum of its role
	creation, _ := data["creation_ttl"].(json.Number)
	seconds, _ := creation.Int64()
	lives := time.Duration(seconds) * time.Second
	switch {
	case slices.ContainsFunc(policies, func(policy string) bool { return slices.Contains(c.grants(), policy) }):
		if kind, _ := strings.CutPrefix(path, "auth/token/create/"); !slices.Equal(policies, []string{kind}) || periodic || endless ||
			data["renewable"] != false || data["orphan"] != true || show(data["type"]) != "service" {
			c.drift(what, "a grant as setup's token role makes it", c.describe(data))
		} else if c.longest > 0 && lives > c.longest {
			c.drift(what, fmt.Sprintf("a grant of at most %v", c.longest), fmt.Sprintf("%v, until %s", lives, show(data["expire_time"])))
		}
	case periodic || endless:
		c.drift(what, "a token that ends", c.describe(data))
	case strings.HasPrefix(path, "auth/token/") && data["renewable"] == true && !limited:
		c.drift(what, "an explicit maximum, or not renewable", c.describe(data))
	}
}

// describe describes a token in one line.
func (c *comparer) describe(data map[string]any) string {
	policies := append(texts(data["policies"]), texts(data["identity_policies"])...)
	parts := []string{"policies " + strings.Join(policies, ","), "made at " + show(data["path"])}
	if show(data["expire_time"]) == none {
		parts = append(parts, "never ends")
	}
	if !zero(data["period"]) {
		parts = append(parts, "periodic ("+show(data["period"])+" s)")
	}
	if data["renewable"] == true && zero(data["explicit_max_ttl"]) && zero(data["period"]) {
		parts = append(parts, lifetime(false))
	}
	if data["orphan"] == true {
		parts = append(parts, "orphan")
	}
	return strings.Join(parts, "; ")
}
