package transitcheck

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

// What follows is one comparison each.

func (c *comparer) auditDevices() {
	devices, ok := c.read("sys/audit", "read and sudo")
	if !ok {
		return
	}
	c.compared("%d audit devices and their options", len(devices))
	switch len(devices) {
	case 0:
		c.drift("audit devices", "at least one", none)
	case 1:
		c.note("there is one device: if it cannot write, Vault answers no request; enable a second one")
	}
	for _, path := range slices.Sorted(maps.Keys(devices)) {
		device, _ := devices[path].(map[string]any)
		options, _ := device["options"].(map[string]any)
		c.note("%s is of type %s: %s", path, show(device["type"]), show(options)) // nobody else can judge where a log should be
		if raw := show(options["log_raw"]); raw != none && raw != "false" {
			c.drift("log_raw of "+path, "false: otherwise keys and patient identifiers are in the log in clear", raw)
		}
		if file := show(options["file_path"]); slices.Contains(nowhere, file) {
			c.drift("file_path of "+path, "a place that keeps the log", file)
		}
		if hashed := show(options["hmac_accessor"]); hashed != none && hashed != "true" {
			c.note("%s shows accessors in clear: with the role revoker, whoever reads the log can end these tokens", path)
		}
	}
}

// nowhere are files that keep nothing: the second is Vault's word for the first.
var nowhere = []string{"/dev/null", "discard"}

// tokenHeaders are headers of requests that can have a token in them.
var tokenHeaders = []string{"authorization", "cookie", "x-vault-token", "x-vault-wrap-token"}

func (c *comparer) auditHeaders() {
	answer, ok := c.read("sys/config/auditing/request-headers", "read and sudo")
	if !ok {
		return
	}
	headers, _ := answer["headers"].(map[string]any)
	c.compared("%d headers of requests that the audit log shows", len(headers))
	var clear []string
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		setting, _ := headers[name].(map[string]any)
		switch hashed := setting["hmac"] == true; {
		case hashed:
		case slices.Contains(tokenHeaders, strings.ToLower(name)):
			c.drift("header "+name, "not in clear: it may have a token", "hmac=false")
		default:
			clear = append(clear, name)
		}
	}
	if len(clear) > 0 {
		c.note("in clear: %s", strings.Join(clear, ", "))
	}
}

// credentials are request parameters of auth methods with which somebody logs in.
var credentials = []string{"password", "secret_id", "jwt", "token", "id_token", "code", "state", "identity", "pkcs7", "iam_request_headers"}

// otherMounts looks at every mount but the engine's, and at every auth method.
func (c *comparer) otherMounts() {
	n := 0
	each := func(path, prefix string, check func(name string, requests, answers []any)) {
		mounts, ok := c.read(path, "read")
		if !ok {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(mounts)) {
			mount, isMount := mounts[name].(map[string]any)
			if !isMount || path == "sys/mounts" && strings.Trim(name, "/") == c.options.Mount {
				continue
			}
			n++
			config, _ := mount["config"].(map[string]any)
			requests, _ := config["audit_non_hmac_request_keys"].([]any)
			answers, _ := config["audit_non_hmac_response_keys"].([]any)
			check(prefix+name, requests, answers)
		}
	}
	all := func(name string, requests, answers []any) {
		c.same(name+" audit_non_hmac_request_keys", nil, requests)
		c.same(name+" audit_non_hmac_response_keys", nil, answers)
	}
	each("sys/auth", "auth/", func(name string, requests, answers []any) {
		if name == "auth/token/" {
			all(name, requests, answers)
			return
		}
		for _, key := range append(requests, answers...) {
			if slices.Contains(credentials, fmt.Sprint(key)) {
				c.drift(name+" in clear", "no credentials", fmt.Sprint(key))
			}
		}
	})
	each("sys/mounts", "", func(name string, requests, answers []any) {
		if slices.Contains([]string{"sys/", "identity/", "cubbyhole/"}, name) {
			all(name, requests, answers)
		}
	})
	if n > 0 {
		c.compared("which parameters %d mounts and auth methods show in clear", n)
	}
}

// quotas looks for limits of the requests that recvault sends. Vault does not log what they refuse, unless it is set to.
func (c *comparer) quotas() {
	config, ok := c.read("sys/quotas/config", "read")
	if !ok {
		return
	}
	names, ok := c.list("sys/quotas/rate-limit", "list")
	if !ok {
		return
	}
	if len(names) > MaxQuotas {
		c.unchecked("%d quotas: Vault has more than %d", len(names)-MaxQuotas, MaxQuotas)
		names = names[:MaxQuotas]
	}
	read := 0
	for _, name := range names {
		quota, ok := c.readOne("sys/quotas/rate-limit", name)
		if c.err != nil {
			return
		}
		if !ok || quota == nil {
			continue
		}
		read++
		path, _ := quota["path"].(string)
		pattern := path
		if path == "" || strings.HasSuffix(path, "/") { // all of Vault, or of a mount
			pattern += "*"
		}
		if !overlap(pathPattern(pattern), pathPattern(c.options.Mount+"/*")) && !overlap(pathPattern(pattern), pathPattern("auth/token/*")) {
			continue
		}
		limit := fmt.Sprintf("%s requests in %s s to %s", show(quota["rate"]), show(quota["interval"]), cmp.Or(path, "all of Vault"))
		if config["enable_rate_limit_audit_logging"] != true {
			c.drift("quota "+name, "the audit log has what it refuses (enable_rate_limit_audit_logging)", limit)
			continue
		}
		c.note("quota %s: %s; beyond that, nothing is recorded or opened, and no grant is issued or ended", name, limit)
	}
	c.compared("%d quotas of requests", read)
}

func (c *comparer) engine() {
	path := "sys/mounts/" + c.options.Mount
	engine, ok := c.ask(path, "read", func() (*api.Secret, error) {
		secret, err := c.client.Logical().ReadWithContext(c.ctx, path)
		var answer *api.ResponseError
		if errors.As(err, &answer) && answer.StatusCode == http.StatusBadRequest {
			return nil, nil // no such mount
		}
		return secret, err
	})
	if !ok {
		return
	}
	c.compared("its type, tuning, and the store that it serves")
	if engine == nil {
		c.drift("engine", show(c.wanted[path]["type"]), absent)
		return
	}
	c.same("type", c.wanted[path]["type"], engine["type"])
	c.same("local", false, engine["local"])
	c.same("options", nil, engine["options"])
	config, _ := engine["config"].(map[string]any)
	const shown = "audit_non_hmac_request_keys"
	c.fields("", alone(map[string]any{shown: c.wanted[path+"/tune"][shown]}, config), config)
	store := string(transit.RecordedStore(show(engine["description"])))
	switch {
	case store == "":
		c.drift("store that the keyring serves", orAny(string(c.options.Store)), none)
	case c.options.Store != "":
		c.same("store that the keyring serves", string(c.options.Store), store)
	default:
		c.note("it serves store %s; which bucket that is was not compared", store)
	}
	c.note("it runs %s, accessor %s", show(engine["running_plugin_version"]), show(engine["accessor"]))
}

func orAny(store string) string {
	if store == "" {
		return "one that setup recorded"
	}
	return store
}

func (c *comparer) engineSettings() {
	var names []string
	for _, name := range []string{"config/keys", "cache-config"} {
		path := c.options.Mount + "/" + name
		want := c.wanted[path]
		found, ok := c.read(path, "read")
		if !ok {
			continue
		}
		if want == nil {
			c.note("%s: %s", name, show(found))
			continue
		}
		names = append(names, name)
		c.fields("", want, found)
	}
	if len(names) > 0 {
		c.compared("%s", strings.Join(names, ", "))
	}
}

// wrappedAnswers looks for answers of the engine, with keys in clear, that Vault keeps because somebody asked for a wrapping token.
// Only these have a lease below the mount.
func (c *comparer) wrappedAnswers() {
	waiting := []string{c.options.Mount}
	for n := 0; len(waiting) > 0; n++ {
		if n == MaxLeaseLists {
			c.unchecked("leases of %d paths: there are more than %d", len(waiting), MaxLeaseLists)
			break
		}
		path := waiting[0]
		waiting = waiting[1:]
		names, ok := c.list("sys/leases/lookup/"+path, "list and sudo")
		if !ok {
			return
		}
		leases := 0
		for _, name := range names {
			if folder, ok := strings.CutSuffix(name, "/"); ok {
				waiting = append(waiting, path+"/"+folder)
			} else {
				leases++
			}
		}
		if leases > 0 {
			c.drift("answers of "+path, "none under a wrapping token: it outlives the grant and its revocation", fmt.Sprint(leases))
		}
	}
	c.compared("that Vault keeps none of the engine's answers")
}

// keySettings are those of every key. Who makes a key sets its type as well. A backup has the key in clear, and what was
// restored from one has the settings that somebody wrote into it.
var keySettings = map[string]any{
	"exportable": false, "allow_plaintext_backup": false, "deletion_allowed": false, "imported_key": false, "auto_rotate_period": 0,
	"backup_info": nil, "restore_info": nil,
}

// with returns settings with others in addition.
func with(settings, others map[string]any) map[string]any {
	settings = maps.Clone(settings)
	maps.Copy(settings, others)
	return settings
}

func (c *comparer) pseudonymKey() {
	path := c.options.Mount + "/keys/pseudonym"
	found, ok := c.read(path, "read")
	if !ok {
		return
	}
	c.compared("its settings and versions")
	if found == nil {
		c.drift("key pseudonym", present, absent)
		return
	}
	// Pseudonyms are made with version 1, which must never go.
	c.fields("", with(keySettings, with(c.wanted[path], map[string]any{
		"derived": false, "latest_version": 1, "min_decryption_version": 1, "min_encryption_version": 0, "min_available_version": 0,
	})), found)
}

// patientKeys compares a sample of the envelope keys and of the marks of erasures.
func (c *comparer) patientKeys() {
	names, ok := c.list(c.options.Mount+"/keys", "list")
	if !ok {
		return
	}
	const markPrefix, suffix = "erased-", "-kek"
	var known []string
	marks := map[string]bool{}
	for _, name := range names {
		keyID, hasSuffix := strings.CutSuffix(strings.TrimPrefix(name, markPrefix), suffix)
		_, err := keys.ParseKeyID(keyID)
		switch {
		case name == "pseudonym":
		case !hasSuffix || err != nil:
			c.drift("key "+name, absent, present)
		default:
			known = append(known, name)
			marks[name] = strings.HasPrefix(name, markPrefix)
		}
	}
	sample := draw(known, c.options.Keys)
	read := 0
	for _, name := range sample {
		found, ok := c.readOne(c.options.Mount+"/keys", name)
		if !ok {
			break
		}
		read++
		switch {
		case found == nil: // deleted in between
		case marks[name]:
			c.fields(name+" ", with(keySettings, map[string]any{"type": "hmac"}), found)
		default:
			c.envelopeKey(name, found, marks[markPrefix+name])
		}
	}
	c.compared("%d of %d keys, drawn at random", read, len(known))
	if read < len(sample) {
		return
	}
	if left := len(known) - read; left > 0 {
		c.note("%d keys were not in the sample", left)
	}
}

func (c *comparer) envelopeKey(name string, found map[string]any, marked bool) {
	want := with(keySettings, map[string]any{"type": "aes256-gcm96", "derived": true})
	if found["derived"] == true { // Vault shows it only then
		want["convergent_encryption"] = false
	}
	if marked && found["deletion_allowed"] == true {
		delete(want, "deletion_allowed")
		c.note("%s may be deleted, and has the mark of an erasure: one that is under way, or broke off", name)
	}
	c.fields(name+" ", want, found)
	number := func(field string) int64 {
		n, _ := found[field].(json.Number)
		value, err := n.Int64()
		if err != nil {
			return -1
		}
		return value
	}
	latest, decryption, encryption := number("latest_version"), number("min_decryption_version"), number("min_encryption_version")
	versions := fmt.Sprintf("latest %d, min_decryption %d, min_encryption %d, min_available %d", latest, decryption, encryption, number("min_available_version"))
	switch {
	case latest < 1 || decryption < 1 || decryption > latest || encryption > latest || number("min_available_version") > decryption:
		c.drift(name+" versions", "min_available <= min_decryption <= latest, and min_encryption <= latest", versions)
	case decryption > 1 && encryption < decryption:
		c.drift(name+" versions", "min_encryption of at least min_decryption, as a retirement leaves it", versions)
	}
}

// policies compares the policy of each role. That of setup need not be installed.
func (c *comparer) policies() {
	var accessor string
	c.compare("token mount", func() {
		mounts, ok := c.read("sys/auth", "read")
		token, _ := mounts["token/"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(mounts)) {
			if method, isMount := mounts[name].(map[string]any); isMount && name != "token/" {
				c.methods = append(c.methods, name)
				c.believes = c.believes || slices.Contains([]string{"jwt", "oidc"}, show(method["type"]))
			}
		}
		if accessor, _ = token["accessor"].(string); ok {
			c.compared("its accessor, which is in the policies of grants, and its tuning: %s", accessor)
			c.tuning(token)
		}
	})
	if accessor == "" {
		accessor = transit.TokenAccessor
	}
	roles, err := transit.Policies(transit.Options{Mount: c.options.Mount, Prefix: c.options.Prefix}, accessor)
	if err != nil {
		c.err = err
	}
	for _, role := range roles {
		c.compare("policy "+role.Name, func() {
			found, ok := c.read("sys/policies/acl/"+role.Name, "read")
			text, _ := found["policy"].(string)
			switch {
			case !ok:
			case accessor == transit.TokenAccessor && strings.Contains(role.HCL, accessor):
				c.unchecked("needs read on sys/auth")
			case found == nil && role.Role == "setup":
				c.compared("nothing: it is not installed, which is best between two setups")
			case found == nil:
				c.compared("that it is installed")
				c.drift("policy", present, absent)
			default:
				c.lines(role.HCL, text)
			}
		})
	}
}

// tuning lists how the token mount is tuned. Setup leaves that alone, and none of it widens or lengthens a grant; what it shows
// in clear was compared before.
func (c *comparer) tuning(token map[string]any) {
	config, _ := token["config"].(map[string]any)
	for _, field := range slices.Sorted(maps.Keys(config)) {
		switch value := show(config[field]); {
		case field == "token_type" || strings.HasPrefix(field, "audit_non_hmac_") || slices.Contains([]string{none, "0", "false"}, value):
		case field == "max_lease_ttl":
			c.note("%s is %s s: no grant lasts longer, whatever the token role allows", field, value)
		default:
			c.note("%s is %s", field, value)
		}
	}
}

func (c *comparer) tokenRole(name string) {
	path := "auth/token/roles/" + name
	found, ok := c.read(path, "read")
	if !ok {
		return
	}
	c.compared("all of its fields")
	if found == nil {
		c.drift("token role", present, absent)
		return
	}
	want := maps.Clone(c.wanted[path])
	const limit = "token_explicit_max_ttl"
	if seconds := wholeSeconds(found[limit]); c.options.MaxGrantTTL == 0 && seconds > 0 {
		want[limit] = found[limit] // as it was chosen
		c.note("a grant lasts at most %v", seconds)
	}
	c.longest = max(c.longest, cmp.Or(c.options.MaxGrantTTL, wholeSeconds(found[limit])))
	want["name"] = name
	c.fields("", alone(want, found), found)
}

func (c *comparer) aliases() {
	report, err := transit.ForeignAliases(c.ctx, c.client, transit.SetupOptions{
		Mount: c.options.Mount, Prefix: c.options.Prefix, MaxEntities: c.options.MaxEntities,
	})
	switch {
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
		return
	case errors.Is(err, keys.ErrDenied):
		c.unchecked("needs read on sys/auth, sys/internal/counters/entities and identity/entity/id/+, and list on identity/entity-alias/id")
		return
	case err != nil:
		c.err = err
		return
	case report.UncheckedEntities > 0:
		c.unchecked("Vault has %d entities, more than the limit (MaxEntities)", report.UncheckedEntities)
		return
	}
	c.compared("the aliases of the token mount that end in -kek, the logins of their entities, and the rights of up to 100 patients' entities")
	for _, alias := range report.Foreign {
		c.drift("entity alias", "only patients', without rights and logins", alias.String())
	}
	c.now.More += report.MoreForeign
}
