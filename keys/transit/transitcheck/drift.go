package transitcheck

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

// DriftOptions set what [FindDrift] compares.
type DriftOptions struct {
	// Mount and Prefix are as in [transit.Options], with the same defaults.
	Mount  string
	Prefix string

	// Store is the store that the keyring must serve. If it is empty, any that setup recorded will do.
	Store keys.StoreID

	// MaxGrantTTL and ExpectedPatients are those of [transit.SetupOptions] with which Vault was set up. Zero accepts
	// what Vault has, as far as Setup would.
	MaxGrantTTL      time.Duration
	ExpectedPatients int

	// MaxEntities is as in [transit.SetupOptions].
	MaxEntities int

	// Keys is how many of the patients' keys, and of the marks of erasures, are read: one request each, drawn at random.
	// Default [DefaultDriftKeys].
	Keys int

	// Tokens is how many of Vault's tokens are looked up: one request each, drawn at random. Default [DefaultDriftTokens].
	Tokens int

	// Expected names policies that reach what recvault relies on and are meant to: an administrator's, for example. What
	// they reach is listed and is no drift. A token that has one and no end is a drift.
	Expected []string
}

const (
	DefaultDriftKeys   = 1000
	DefaultDriftTokens = 1000

	// MaxPolicies, MaxTokenRoles, MaxQuotas and MaxLeaseLists bound how many policies, token roles, quotas and lists of leases
	// [FindDrift] reads. What is beyond is reported as not checked.
	MaxPolicies   = 10_000
	MaxTokenRoles = 1000
	MaxQuotas     = 1000
	MaxLeaseLists = 1000

	// MaxDrifts bounds the list of differences of one comparison. The others are counted.
	MaxDrifts = 100
)

// DriftReport is a comparison of a live Vault with what it should be.
type DriftReport struct {
	VaultVersion string    `json:"vault_version"`
	ClusterName  string    `json:"cluster_name"`
	ClusterID    string    `json:"cluster_id"`
	Namespace    string    `json:"namespace"` // "root" if none is used
	Mount        string    `json:"mount"`
	Prefix       string    `json:"prefix"`
	Began        time.Time `json:"began"` // by this machine's clock, in UTC
	Ended        time.Time `json:"ended"`

	Comparisons []Comparison `json:"comparisons"`
}

// Comparison is one part of Vault that was compared.
type Comparison struct {
	Name      string   `json:"name"`                // such as "policy recvault-writer"
	Compared  string   `json:"compared,omitempty"`  // what, and how much of it, in one line; "" if nothing was
	Drifts    []Drift  `json:"drifts,omitempty"`    // at most [MaxDrifts]
	More      int      `json:"more,omitempty"`      // differences that are not in Drifts
	Notes     []string `json:"notes,omitempty"`     // no drift, but for the reader to judge
	Unchecked []string `json:"unchecked,omitempty"` // what was not checked, and what right or number that needs
}

// Drift is one difference.
type Drift struct {
	What     string `json:"what"` // such as "renewable"
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// Drifts returns the number of differences.
func (r DriftReport) Drifts() int {
	n := 0
	for _, c := range r.Comparisons {
		n += len(c.Drifts) + c.More
	}
	return n
}

// Unchecked returns the number of things that were not checked.
func (r DriftReport) Unchecked() int {
	n := 0
	for _, c := range r.Comparisons {
		n += len(c.Unchecked)
	}
	return n
}

// Limits says what [FindDrift] does not see, whatever the token's rights.
func Limits() []string {
	return []string{
		"Which people and services may get a token with which policy: the roles of auth methods, groups, and entities that are no patient's.",
		"Batch tokens, which have no accessor, and how long an auth method lets its tokens be renewed.",
		"Leases of tokens: that of a grant is its end, which the look-up of tokens shows, and Vault does not renew it.",
		"What Vault itself vouches for as an OIDC provider (identity/oidc). Who may change that is compared, if an auth method of type jwt or oidc could believe it.",
		"Policies of other namespaces, and Vault Enterprise's Sentinel policies, audit filters and quotas of leases.",
		"Settings outside of Vault's API: its configuration file, storage, seal, unseal keys and backups.",
		"Anything before or after this run: a setting may have been changed and put back. The audit log has that.",
	}
}

//go:embed audit.hcl
var auditPolicy string

// DriftPolicy returns the policy, as HCL, with which [FindDrift] can check everything. It can change nothing.
func DriftPolicy(options transit.Options) (string, error) {
	mount, _, err := places(options.Mount, options.Prefix)
	return strings.ReplaceAll(auditPolicy, "<mount>", mount), err
}

// places returns the mount and the prefix with their defaults.
func places(mount, prefix string) (string, string, error) {
	if _, err := transit.SetupCalls(transit.SetupOptions{Mount: mount, Prefix: prefix}); err != nil {
		return "", "", fmt.Errorf("transitcheck: %w", err)
	}
	if mount = strings.Trim(mount, "/"); mount == "" {
		mount = "recordings"
	}
	if prefix == "" {
		prefix = "recvault"
	}
	return mount, prefix, nil
}

// FindDrift compares a Vault with what [transit.Setup] makes, and with what nobody should have added beside it: the mount and
// its settings, the audit devices and what they show in clear, quotas that keep requests out of the audit log, answers that are
// kept under wrapping tokens, the pseudonym key and a sample of the patients' keys, the policies line by line, the token roles,
// entity aliases that are no patient's, every other policy that reaches what recvault relies on, and tokens and token roles
// without a limit. It changes nothing and uses no key.
//
// The definitions are those that [transit.Setup] writes: see [transit.SetupCalls] and [transit.Policies].
//
// What the client's token may not read is in the report as unchecked, with the right that it needs. [DriftPolicy] has all
// of these rights; the role auditor has those for the mount, the policies and the token roles of recvault.
//
// Errors, with a report of what was compared before: [keys.ErrUnavailable] if Vault does not answer or is sealed,
// [keys.ErrUnauthenticated] if it does not know the token, [keys.ErrDenied] if the token may read nothing at all, the
// context's. Wrong options are an error without a class.
func FindDrift(ctx context.Context, client *api.Client, options DriftOptions) (DriftReport, error) {
	if client == nil {
		return DriftReport{}, errors.New("transitcheck: no client")
	}
	if options.Keys < 0 || options.Tokens < 0 {
		return DriftReport{}, errors.New("transitcheck: a negative number of keys or tokens")
	}
	var err error
	if options.Mount, options.Prefix, err = places(options.Mount, options.Prefix); err != nil {
		return DriftReport{}, err
	}
	if options.Keys == 0 {
		options.Keys = DefaultDriftKeys
	}
	if options.Tokens == 0 {
		options.Tokens = DefaultDriftTokens
	}
	c := &comparer{ctx: ctx, client: client, options: options, wanted: map[string]map[string]any{}, limited: map[string]bool{}}
	if err := c.definitions(); err != nil {
		return DriftReport{}, fmt.Errorf("transitcheck: %w", err)
	}
	c.report = DriftReport{Mount: options.Mount, Prefix: options.Prefix, Began: time.Now().UTC(), Comparisons: []Comparison{}}
	c.run()
	c.report.Ended = time.Now().UTC()
	if c.err == nil && !c.answered {
		c.err = fmt.Errorf("%w: the token may read nothing that is to be compared", keys.ErrDenied)
	}
	if c.err != nil {
		return c.report, fmt.Errorf("transitcheck: %w", c.err)
	}
	return c.report, nil
}

// comparer is one FindDrift.
type comparer struct {
	ctx     context.Context
	client  *api.Client
	options DriftOptions
	report  DriftReport
	err     error // ends the run

	wanted   map[string]map[string]any // what Setup writes, by path
	answered bool                      // the token could read something
	now      *Comparison               // the one that is being made

	methods  []string        // auth methods but that of tokens, such as "approle/"
	believes bool            // an auth method takes tokens of OIDC providers, of which Vault is one
	reaching map[string]bool // foreign policies that reach what recvault relies on, expected ones too
	longest  time.Duration   // of grants, by the token role; 0 if it could not be read
	limited  map[string]bool // other token roles whose tokens end
}

// definitions collects what Setup writes.
func (c *comparer) definitions() error {
	calls, err := transit.SetupCalls(transit.SetupOptions{
		Mount: c.options.Mount, Prefix: c.options.Prefix, Store: c.options.Store,
		MaxGrantTTL: c.options.MaxGrantTTL, ExpectedPatients: c.options.ExpectedPatients, MaxEntities: c.options.MaxEntities,
	})
	for _, call := range calls {
		if call.Method != http.MethodPost {
			continue
		}
		if c.wanted[call.Path] == nil {
			c.wanted[call.Path] = map[string]any{}
		}
		maps.Copy(c.wanted[call.Path], call.Body)
	}
	return err
}

func (c *comparer) run() {
	if !c.health() {
		return
	}
	mount, prefix := c.options.Mount, c.options.Prefix
	c.compare("audit devices", c.auditDevices)
	c.compare("headers in the audit log", c.auditHeaders)
	c.compare("what the audit log shows of other mounts", c.otherMounts)
	c.compare("quotas", c.quotas)
	c.compare("engine at "+mount, c.engine)
	c.compare("settings of the engine", c.engineSettings)
	c.compare("wrapped answers", c.wrappedAnswers)
	c.compare("pseudonym key", c.pseudonymKey)
	c.compare("keys of patients", c.patientKeys)
	c.policies()
	for _, kind := range []string{"grant", "describe"} {
		c.compare("token role "+prefix+"-"+kind, func() { c.tokenRole(prefix + "-" + kind) })
	}
	c.compare("entity aliases", c.aliases)
	c.compare("other policies", c.otherPolicies)
	c.compare("other token roles", c.otherTokenRoles)
	c.compare("tokens", c.tokens)
}

// compare makes one comparison, unless the run has ended.
func (c *comparer) compare(name string, make func()) {
	if c.err != nil {
		return
	}
	c.now = &Comparison{Name: name}
	make()
	if c.err == nil {
		c.report.Comparisons = append(c.report.Comparisons, *c.now)
	}
}

// health reads what Vault says of itself, and reports whether it can be compared.
func (c *comparer) health() bool {
	health, err := c.client.WithNamespace("").Sys().HealthWithContext(c.ctx) // sys/health is in no namespace
	switch {
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
	case err != nil:
		c.err = fmt.Errorf("%w: %s", keys.ErrUnavailable, reason(err))
	case !health.Initialized || health.Sealed:
		c.err = fmt.Errorf("%w: Vault is sealed or not initialised", keys.ErrUnavailable)
	default:
		c.report.VaultVersion, c.report.ClusterName, c.report.ClusterID = health.Version, health.ClusterName, health.ClusterID
		if c.report.Namespace = strings.Trim(c.client.Namespace(), "/"); c.report.Namespace == "" {
			c.report.Namespace = "root"
		}
	}
	return c.err == nil
}

// What follows asks Vault, and records differences.

// read returns what is at a path, or nil if there is nothing. ok is false if the token may not read it, and then the
// comparison says so.
func (c *comparer) read(path, right string) (data map[string]any, ok bool) {
	return c.ask(path, right, func() (*api.Secret, error) { return c.client.Logical().ReadWithContext(c.ctx, path) })
}

// readOne is read for one of many: what is not checked names them all.
func (c *comparer) readOne(folder, name string) (data map[string]any, ok bool) {
	return c.ask(folder+"/+", "read", func() (*api.Secret, error) {
		return c.client.Logical().ReadWithContext(c.ctx, folder+"/"+name)
	})
}

// list returns the names of a list.
func (c *comparer) list(path, right string) (names []string, ok bool) {
	data, ok := c.ask(path, right, func() (*api.Secret, error) { return c.client.Logical().ListWithContext(c.ctx, path) })
	found, _ := data["keys"].([]any)
	for _, name := range found {
		names = append(names, fmt.Sprint(name))
	}
	return names, ok
}

func (c *comparer) ask(path, right string, request func() (*api.Secret, error)) (data map[string]any, ok bool) {
	if c.err != nil {
		return nil, false
	}
	secret, err := request()
	var answer *api.ResponseError
	known := errors.As(err, &answer)
	switch {
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
	case known && answer.StatusCode == http.StatusForbidden && strings.Contains(strings.Join(answer.Errors, " "), "invalid token"):
		c.err = fmt.Errorf("%w: it has ended, or is another server's", keys.ErrUnauthenticated)
	case known && answer.StatusCode == http.StatusForbidden:
		c.unchecked("needs %s on %s", right, path)
	case known && answer.StatusCode == http.StatusServiceUnavailable, err != nil && !known:
		c.err = fmt.Errorf("%w: %s", keys.ErrUnavailable, reason(err))
	case err != nil:
		c.unchecked("%s: %s", path, reason(err))
	case secret == nil:
		c.answered = true
		return nil, true
	default:
		c.answered = true
		return secret.Data, true
	}
	return nil, false
}

func (c *comparer) compared(format string, args ...any) {
	c.now.Compared = fmt.Sprintf(format, args...)
}

func (c *comparer) note(format string, args ...any) {
	c.now.Notes = append(c.now.Notes, fmt.Sprintf(format, args...))
}

// unchecked records, once, that something was not checked.
func (c *comparer) unchecked(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.now.Unchecked, text) {
		c.now.Unchecked = append(c.now.Unchecked, text)
	}
}

func (c *comparer) drift(what, expected, found string) {
	if len(c.now.Drifts) == MaxDrifts {
		c.now.More++
		return
	}
	c.now.Drifts = append(c.now.Drifts, Drift{what, expected, found})
}

// same records a difference unless both values are the same.
func (c *comparer) same(what string, expected, found any) {
	if e, f := show(expected), show(found); e != f {
		c.drift(what, e, f)
	}
}

// fields compares the fields that are expected, in order of their names.
func (c *comparer) fields(subject string, expected, found map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		c.same(subject+name, expected[name], found[name])
	}
}

// alone returns the fields that are expected, and as not set all others that were found set.
func alone(expected, found map[string]any) map[string]any {
	want := maps.Clone(expected)
	for field, value := range found {
		if _, ok := want[field]; !ok && !slices.Contains([]string{none, "0", "false"}, show(value)) {
			want[field] = nil
		}
	}
	return want
}

const (
	absent  = "absent"
	present = "present"
	none    = "none"
)

// show returns a setting as text. What is not set, and a list without elements, is "none".
func show(value any) string {
	if text, ok := value.(string); ok && text != "" {
		return text
	}
	text, err := json.Marshal(value)
	switch {
	case err != nil:
		return fmt.Sprint(value)
	case slices.Contains([]string{"null", "[]", "{}", `""`}, string(text)):
		return none
	}
	return string(text)
}

// draw returns up to n of the names at random, in order.
func draw(names []string, n int) []string {
	names = slices.Clone(names)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:min(n, len(names))]
	slices.Sort(names)
	return names
}
