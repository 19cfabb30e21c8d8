// Package transitcheck checks a Vault before it is trusted with recordings' keys: that it answers, is unsealed and keeps
// the time, that it logs every request, that [transit.Setup] has nothing to correct, that the mount serves the store at
// hand, and that each role's token has the rights of its role and no others.
//
// [FindDrift] compares a Vault with what Setup makes, in every detail, for an auditor.
//
// Nothing is changed in Vault, and no key is used.
package transitcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

// Status is the outcome of a check.
type Status string

const (
	OK      Status = "ok"
	Note    Status = "note"    // works; Detail has what an operator should know
	Failed  Status = "failed"  // Vault must not be used as it is
	Skipped Status = "skipped" // not checked; Detail says why
)

// Result is one check with its outcome.
type Result struct {
	Name   string // such as "audit devices"
	Status Status
	Detail string // one line
}

// Options set what [Run] checks.
type Options struct {
	// Mount and Prefix are as in [transit.Options], with the same defaults.
	Mount  string
	Prefix string

	// Store is the store that the keyring must serve: see vault.StoreID. If it is empty, that is not checked.
	Store keys.StoreID

	// Tokens are tokens to check, by role: see [Roles].
	Tokens map[string]string
}

// MaxClockDifference is the difference between Vault's clock and this machine's with which the check fails. The grace
// period of a retirement allows for it.
const MaxClockDifference = time.Minute

// Run makes the checks and returns the results in order. The client's token needs no rights, but what it may not read
// is skipped: an administrator's or an auditor's token shows more, and only one with the right to sudo on sys/audit shows
// the audit devices. If Vault does not answer or is sealed, all other checks are skipped.
//
// A token's rights are those that sys/capabilities-self reports. Vault's policy "default" lets a token ask; otherwise
// the client's token is used, if it may ask for others'.
//
// The error is the context's, or that of wrong options. What Vault does wrong is in the results.
func Run(ctx context.Context, client *api.Client, options Options) ([]Result, error) {
	if client == nil {
		return nil, errors.New("transitcheck: no client")
	}
	for role := range options.Tokens {
		if !slices.Contains(Roles(), role) {
			return nil, fmt.Errorf("transitcheck: there is no role %q", role)
		}
	}
	var err error
	if options.Mount, options.Prefix, err = places(options.Mount, options.Prefix); err != nil {
		return nil, err
	}
	r := &run{ctx: ctx, client: client, options: options}
	r.runAll()
	if err := ctx.Err(); err != nil {
		return r.results, fmt.Errorf("transitcheck: %w", err)
	}
	return r.results, nil
}

// run is one call of Run.
type run struct {
	ctx     context.Context
	client  *api.Client
	options Options
	results []Result
}

func (r *run) add(name string, status Status, format string, args ...any) {
	r.results = append(r.results, Result{name, status, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")})
}

func (r *run) runAll() {
	usable := r.health()
	checks := []struct {
		name  string
		check func(name string)
	}{{"audit devices", r.audit}, {"set-up", r.setUp}, {"store", r.store}}
	for _, role := range Roles() {
		if token, ok := r.options.Tokens[role]; ok {
			checks = append(checks, struct {
				name  string
				check func(name string)
			}{"role " + role, func(name string) { r.role(name, role, token) }})
		}
	}
	for _, c := range checks {
		if usable && r.ctx.Err() == nil {
			c.check(c.name)
		} else {
			r.add(c.name, Skipped, "not checked: Vault does not answer or is sealed")
		}
	}
}

// health checks that Vault answers, is unsealed and has the right time, and returns whether further checks make sense.
func (r *run) health() bool {
	const requests = 5
	anywhere := r.client.WithNamespace("") // sys/health is in no namespace
	var (
		health *api.HealthResponse
		times  []time.Duration
		middle time.Time
	)
	for range requests {
		begun := time.Now()
		answer, err := anywhere.Sys().HealthWithContext(r.ctx)
		if err != nil {
			r.add("reachable", Failed, "%s", reason(err))
			return false
		}
		took := time.Since(begun)
		health, middle, times = answer, begun.Add(took/2), append(times, took)
	}
	slices.Sort(times)
	r.add("reachable", OK, "Vault %s answers in %v", health.Version, times[requests/2].Round(100*time.Microsecond))
	switch {
	case !health.Initialized:
		r.add("seal", Failed, "Vault is not initialised")
		return false
	case health.Sealed:
		r.add("seal", Failed, "Vault is sealed")
		return false
	}
	r.add("seal", OK, "unsealed")
	difference := time.Unix(health.ServerTimeUTC, 0).Sub(middle).Round(time.Second)
	if difference.Abs() > MaxClockDifference {
		r.add("clock", Failed, "Vault's clock differs by %v, more than %v", difference, MaxClockDifference)
	} else {
		r.add("clock", OK, "differs by %v", difference)
	}
	return true
}

// audit checks that Vault has two audit devices.
func (r *run) audit(name string) {
	devices, err := r.client.Sys().ListAuditWithContext(r.ctx)
	switch {
	case denied(err):
		r.add(name, Skipped, "not checked: the token may not read them (sudo on sys/audit)")
	case err != nil:
		r.add(name, Failed, "%s", reason(err))
	case len(devices) == 0:
		r.add(name, Failed, "none: Vault logs nothing")
	case len(devices) == 1:
		r.add(name, Note, "one: if it cannot write, Vault answers no request; enable a second one")
	default:
		r.add(name, OK, "%d", len(devices))
	}
}

// setUp checks that Setup has nothing to change.
func (r *run) setUp(name string) {
	options := transit.SetupOptions{Mount: r.options.Mount, Prefix: r.options.Prefix, Store: r.options.Store, DryRun: true}
	role, err := r.client.Logical().ReadWithContext(r.ctx, "auth/token/roles/"+r.options.Prefix+"-grant")
	if err == nil && role != nil {
		options.MaxGrantTTL = wholeSeconds(role.Data["token_explicit_max_ttl"]) // as it was chosen
	}
	report, err := transit.Setup(r.ctx, r.client, options)
	switch {
	case errors.Is(err, keys.ErrDenied), errors.Is(err, keys.ErrUnauthenticated):
		r.add(name, Skipped, "not checked: the token may not read all settings (role setup)")
	case errors.Is(err, keys.ErrForeignStore):
		r.add(name, Skipped, "not checked: the mount serves another store")
	case err != nil:
		r.add(name, Failed, "%v", err)
	case len(report.Changes) > 0:
		var texts []string
		for _, change := range report.Changes {
			texts = append(texts, change.String())
		}
		r.add(name, Failed, "setup would change: %s", strings.Join(texts, "; "))
	case len(report.Foreign) > 0:
		r.add(name, Failed, "Vault has entity aliases that a stolen granter's token could use")
	default:
		r.add(name, OK, "nothing to change")
	}
}

// wholeSeconds returns a duration of an answer, or 0 if it is no valid lifetime of grants.
func wholeSeconds(value any) time.Duration {
	number, _ := value.(json.Number)
	seconds, err := number.Int64()
	if d := time.Duration(seconds) * time.Second; err == nil && d >= keys.MinGrantTTL && d <= keys.MaxGrantTTL {
		return d
	}
	return 0
}

// store checks that the keyring serves the store, with the first token that may see it.
func (r *run) store(name string) {
	if r.options.Store == "" {
		r.add(name, Skipped, "not checked: the store has no ID yet, or none was given")
		return
	}
	for _, token := range []string{
		r.client.Token(), r.options.Tokens["setup"], r.options.Tokens["writer"], r.options.Tokens["retirer"], r.options.Tokens["auditor"],
	} {
		if token == "" {
			continue
		}
		client, err := r.clientWith(token)
		if err != nil {
			r.add(name, Failed, "%v", err)
			return
		}
		keyring, err := transit.New(client, transit.Options{Mount: r.options.Mount, Prefix: r.options.Prefix})
		if err == nil {
			err = keyring.CheckStore(r.ctx, r.options.Store)
		}
		switch {
		case errors.Is(err, keys.ErrDenied), errors.Is(err, keys.ErrUnauthenticated):
			continue
		case err != nil:
			r.add(name, Failed, "%v", err)
		default:
			r.add(name, OK, "the mount serves this store")
		}
		return
	}
	r.add(name, Skipped, "not checked: no token may read the mount's settings (role writer, retirer or auditor)")
}

func (r *run) clientWith(token string) (*api.Client, error) {
	client, err := r.client.CloneWithHeaders()
	if err != nil {
		return nil, err
	}
	client.SetToken(token)
	return client, nil
}

// role checks a token's rights.
func (r *run) role(name, role, token string) {
	rights := rightsOf(r.options.Mount, r.options.Prefix)
	paths := make([]string, 0, len(rights))
	for _, right := range rights {
		paths = append(paths, right.path)
	}
	found, err := r.capabilities(token, paths)
	switch {
	case err != nil && strings.Contains(err.Error(), "invalid token"):
		r.add(name, Failed, "Vault does not know the token: it has ended, or is another server's")
		return
	case denied(err):
		r.add(name, Skipped, "not checked: the token may not look up its rights (Vault's policy default)")
		return
	case err != nil:
		r.add(name, Failed, "%s", reason(err))
		return
	}
	var lacks, exceeds []string
	for _, right := range rights {
		want, have := strings.Fields(right.roles[role]), found[right.path]
		if slices.Contains(have, "root") {
			r.add(name, Failed, "the token may do everything: it is a root token")
			return
		}
		for _, capability := range want {
			if !slices.Contains(have, capability) {
				lacks = append(lacks, capability+" "+right.path)
			}
		}
		for _, capability := range have {
			if !slices.Contains(want, capability) && capability != "deny" {
				exceeds = append(exceeds, capability+" "+right.path)
			}
		}
	}
	switch {
	case len(lacks)+len(exceeds) == 0:
		r.add(name, OK, "the role's rights on %d paths, and no others", len(rights))
	case len(exceeds) == 0:
		r.add(name, Failed, "lacks %s", strings.Join(lacks, ", "))
	case len(lacks) == 0:
		r.add(name, Failed, "may do more than its role: %s", strings.Join(exceeds, ", "))
	default:
		r.add(name, Failed, "lacks %s; may do more than its role: %s", strings.Join(lacks, ", "), strings.Join(exceeds, ", "))
	}
}

// capabilities returns what a token may do at each path. The token asks, or otherwise the client's.
func (r *run) capabilities(token string, paths []string) (map[string][]string, error) {
	client, err := r.clientWith(token)
	if err != nil {
		return nil, err
	}
	answer, err := client.Logical().WriteWithContext(r.ctx, "sys/capabilities-self", map[string]any{"paths": paths})
	if denied(err) && r.client.Token() != "" && !strings.Contains(err.Error(), "invalid token") {
		var other error
		answer, other = r.client.Logical().WriteWithContext(r.ctx, "sys/capabilities", map[string]any{"paths": paths, "token": token})
		if !denied(other) {
			err = other
		}
	}
	if err != nil {
		return nil, err
	}
	if answer == nil {
		return nil, errors.New("the server sent an empty answer")
	}
	found := map[string][]string{}
	for _, path := range paths {
		list, ok := answer.Data[path].([]any)
		if !ok {
			return nil, errors.New("the answer does not name every path")
		}
		for _, capability := range list {
			found[path] = append(found[path], fmt.Sprint(capability))
		}
	}
	return found, nil
}

// denied reports whether Vault refused a request for want of rights.
func denied(err error) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden
}

// reason describes an error in one line.
func reason(err error) string {
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		return fmt.Sprintf("Vault answered %d: %s", answer.StatusCode, strings.Join(answer.Errors, "; "))
	}
	return fmt.Sprintf("Vault does not answer: %v", err)
}

// Roles returns the roles whose tokens can be checked.
func Roles() []string {
	return []string{"setup", "enroller", "writer", "granter", "revoker", "rotator", "retirer", "trimmer", "eraser", "auditor"}
}

// right says what the tokens of each role may do at a path. Roles that are not named may do nothing there.
type right struct {
	path  string
	roles map[string]string // Vault's capabilities, separated by spaces
}

// rightsOf returns what the policies of the roles permit, at the paths that matter: those that a policy names, with a
// sample key, and those of dangerous operations, which no role may do. A test compares it with the policies in a Vault.
func rightsOf(mount, prefix string) []right {
	key := strings.Repeat("a", 32) + "-kek"
	all := func(capabilities string, roles ...string) map[string]string {
		granted := map[string]string{}
		for _, role := range roles {
			granted[role] = capabilities
		}
		return granted
	}
	merged := func(parts ...map[string]string) map[string]string {
		granted := map[string]string{}
		for _, part := range parts {
			maps.Copy(granted, part)
		}
		return granted
	}
	nobody := map[string]string{}
	rights := []right{
		{mount + "/hmac/pseudonym/sha2-256", all("update", "enroller", "writer", "granter", "eraser")},
		{mount + "/encrypt/" + key, all("update", "writer")},
		{mount + "/rewrap/" + key, all("update", "rotator", "retirer", "trimmer", "eraser")},
		{mount + "/decrypt/" + key, nobody},
		{mount + "/datakey/plaintext/" + key, nobody},
		{mount + "/export/encryption-key/" + key, nobody},
		{mount + "/backup/" + key, nobody},
		{mount + "/keys", all("list", "rotator", "retirer", "auditor")},
		{mount + "/keys/" + key, merged(
			all("update", "enroller"), all("read delete", "eraser"), all("read", "writer", "rotator", "retirer", "trimmer", "auditor"))},
		{mount + "/keys/" + key + "/rotate", all("update", "rotator")},
		{mount + "/keys/" + key + "/config", all("update", "retirer", "eraser")},
		{mount + "/keys/" + key + "/trim", all("update", "trimmer")},
		{mount + "/keys/erased-" + key, merged(
			all("read update", "eraser"), all("read", "enroller", "writer", "rotator", "retirer", "trimmer", "auditor"))},
		{mount + "/keys/pseudonym", merged(
			all("read update", "setup"), all("read", "enroller", "writer", "rotator", "retirer", "trimmer", "eraser", "auditor"))},
		{mount + "/keys/pseudonym/rotate", nobody},
		{mount + "/keys/pseudonym/config", nobody},
		{mount + "/keys/pseudonym/trim", nobody},
		{mount + "/config/keys", merged(all("read update", "setup"), all("read", "auditor"))},
		{mount + "/cache-config", merged(all("read update", "setup"), all("read", "auditor"))},
		{"sys/mounts/" + mount, merged(all("create read update", "setup"), all("read", "auditor"))},
		{"sys/mounts/" + mount + "/tune", merged(all("read update", "setup"), all("read", "writer", "retirer", "trimmer", "auditor"))},
		{"sys/leases/revoke-prefix/" + mount + "/decrypt/" + key, all("sudo update", "eraser")},
		{"sys/auth", all("read", "setup", "auditor")},
		{"sys/audit", nobody},
		{"auth/token/create", nobody},
		{"auth/token/create/" + prefix + "-grant", all("update", "granter")},
		{"auth/token/create/" + prefix + "-describe", all("update", "granter")},
		{"auth/token/revoke-accessor", all("update", "revoker")},
		{"auth/token/roles/" + prefix + "-grant", merged(all("create read update", "setup"), all("read", "auditor"))},
		{"auth/token/roles/" + prefix + "-describe", merged(all("create read update", "setup"), all("read", "auditor"))},
		{"sys/policies/acl/" + prefix + "-setup", all("read", "auditor")},
		{"identity/entity-alias/id", all("list", "setup")},
	}
	for _, role := range append(Roles()[1:], "grant", "describe") {
		rights = append(rights, right{
			"sys/policies/acl/" + prefix + "-" + role, merged(all("create read update", "setup"), all("read", "auditor")),
		})
	}
	return rights
}
