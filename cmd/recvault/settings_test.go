package main

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage/s3"
)

func TestMissingSettingsAreNamed(t *testing.T) {
	id := "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa"
	d := newDeployment(t)
	for _, c := range []struct {
		environment []string
		args        []string
		named       []string
	}{
		{nil, []string{"rotate", "--all"}, []string{"VAULT_ADDR", "--vault-addr", "RECVAULT_DIR", "--dir"}},
		{[]string{"VAULT_ADDR", "http://127.0.0.1:1"}, []string{"rotate", "--all"}, []string{"VAULT_TOKEN", "--token-file"}},
		{[]string{"VAULT_ADDR", "http://127.0.0.1:1", "VAULT_TOKEN", "x"}, []string{"rotate", "--all"}, []string{"RECVAULT_BUCKET", "--bucket", "AWS_ENDPOINT_URL"}},
		{[]string{"VAULT_ADDR", "http://127.0.0.1:1", "VAULT_TOKEN", "x\ny"}, []string{"rotate", "--all"}, []string{"Vault token"}},
		{nil, []string{"put", "-"}, []string{"RECVAULT_PATIENT", "--patient-file"}},
		{nil, []string{"get", "--out", "x", id}, []string{"RECVAULT_GRANT", "--grant-file"}},
		{nil, []string{"inspect", id}, []string{"RECVAULT_BUCKET", "--bucket"}},
		{[]string{"RECVAULT_BUCKET", "b-b-b", "RECVAULT_PREFIX", "no slash"}, []string{"inspect", id}, []string{"RECVAULT_PREFIX", "--prefix"}},
		{nil, []string{"inspect", id, "--dir", d.path("nowhere")}, []string{"--dir", "RECVAULT_DIR", "setup"}},
		{[]string{"RECVAULT_BUCKET", "Not A Bucket"}, []string{"inspect", id}, []string{"RECVAULT_BUCKET", "--bucket"}},
		{[]string{"RECVAULT_BUCKET", "b-b-b", "AWS_ENDPOINT_URL", "user:canary@x"}, []string{"inspect", id}, []string{"AWS_ENDPOINT_URL", "--endpoint"}},
		{[]string{"VAULT_ADDR", "http://127.0.0.1:1", "VAULT_TOKEN", "x", "RECVAULT_MOUNT", "*"}, []string{"plan", "--all"}, []string{"RECVAULT_MOUNT", "--mount"}},
		{[]string{"VAULT_ADDR", "http://user:canary@x y", "VAULT_TOKEN", "x"}, []string{"plan", "--all"}, []string{"VAULT_ADDR", "--vault-addr"}},
		{[]string{"RECVAULT_OUTPUT", "yaml"}, []string{"version"}, []string{"RECVAULT_OUTPUT", "--output"}},
	} {
		t.Run(c.args[0]+" "+c.named[0], func(t *testing.T) {
			o := d.in(t).with(c.environment...).run(c.args...).exits(exitUsage)
			for _, name := range c.named {
				assert.Contains(t, o.stderr, name)
			}
			assert.NotContains(t, o.stderr, "canary", "a password in an address")
		})
	}
}

func TestDirectoryAndServersAreNeverMixed(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	d.put(alice, random(t, 10))
	directory := d.environment["RECVAULT_DIR"]
	servers := d.with("RECVAULT_DIR", "", "VAULT_ADDR", "http://127.0.0.1:1", "VAULT_TOKEN", "x",
		"AWS_ENDPOINT_URL", "http://127.0.0.1:1", "RECVAULT_BUCKET", "recordings")
	assert.Contains(t, servers.run("list", "--dir", directory, "--patient-file", alice).ok().stdout, aliceID, "a flag overrides the environment")
	servers.run("list", "--key-id", aliceID).exits(exitUnavailable)

	both := servers.with("RECVAULT_DIR", directory)
	assert.Contains(t, both.run("list", "--key-id", aliceID).exits(exitUsage).stderr, "RECVAULT_DIR")
	both.run("list", "--key-id", aliceID, "--dir", directory).ok()
	both.run("list", "--key-id", aliceID, "--bucket", "recordings").exits(exitUnavailable)
	both.run("list", "--key-id", aliceID, "--bucket", "recordings", "--dir", directory).exits(exitUsage)
}

// By KeyID, these commands need only the store: neither the address of Vault nor a token.
func TestCommandsByKeyIDNeedNoVault(t *testing.T) {
	var requests atomic.Int64
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		http.Error(w, "no", http.StatusTeapot)
	}))
	t.Cleanup(vault.Close)
	d := onServers(t)
	alice, aliceID := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	signed := []string{"--reason", "case 1", "--operator", "okafor"}
	for name, address := range map[string]string{"VAULT_ADDR unset": "", "VAULT_ADDR set": vault.URL} {
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{
				{"list", "--key-id", aliceID},
				{"inspect", id},
				append([]string{"hold", "set", "--dry-run", "--key-id", aliceID}, signed...),
				append([]string{"hold", "set", "--key-id", aliceID}, signed...),
				{"hold", "show", "--key-id", aliceID},
				append([]string{"hold", "clear", "--dry-run", "--key-id", aliceID}, signed...),
				append([]string{"hold", "clear", "--key-id", aliceID}, signed...),
				{"sweep", "--key-id", aliceID},
				{"verify", "--no-keyring", "--key-id", aliceID},
			} {
				d.in(t).with("VAULT_ADDR", address, "VAULT_TOKEN", "").run(args...).ok()
			}
		})
	}
	assert.Zero(t, requests.Load(), "no request reached Vault")
}

func TestFlagsNameServersToo(t *testing.T) {
	d := onServers(t)
	_, aliceID := d.enrol("alice")
	e := d.environment
	token := d.file("token", []byte(d.tokens["rotator"]+"\n"))
	bare := d.with("VAULT_ADDR", "http://127.0.0.1:1", "RECVAULT_MOUNT", "x", "RECVAULT_POLICY_PREFIX", "x", "AWS_ENDPOINT_URL", "http://127.0.0.1:1",
		"RECVAULT_BUCKET", "no-such-bucket", "RECVAULT_PREFIX", "x/", "AWS_ACCESS_KEY_ID", "",
		"MINIO_ACCESS_KEY", e["AWS_ACCESS_KEY_ID"], "MINIO_SECRET_KEY", e["AWS_SECRET_ACCESS_KEY"])
	flags := []string{
		"plan", "--key-id", aliceID, "--vault-addr", e["VAULT_ADDR"], "--mount", e["RECVAULT_MOUNT"], "--policy-prefix", e["RECVAULT_POLICY_PREFIX"],
		"--endpoint", e["AWS_ENDPOINT_URL"], "--region", e["AWS_REGION"], "--bucket", e["RECVAULT_BUCKET"], "--prefix", e["RECVAULT_PREFIX"],
	}
	bare.run(append(flags, "--token-file", token)...).ok()
	bare.runWith(strings.NewReader(d.tokens["rotator"]+"\n"), append(flags, "--token-file", "-")...).ok()
}

func TestABadCAFileIsNamed(t *testing.T) {
	d := newDeployment(t)
	d = d.with("VAULT_ADDR", "https://127.0.0.1:1", "VAULT_TOKEN", "t", "AWS_ENDPOINT_URL", "https://127.0.0.1:1", "RECVAULT_BUCKET", "recordings")
	for _, file := range []string{d.file("empty.pem", nil), d.path("missing.pem")} {
		assert.Contains(t, d.run("verify", "--all", "--vault-cacert", file).exits(exitUsage).stderr, file)
		assert.Contains(t, d.with("VAULT_CACERT", file).run("verify", "--all").exits(exitUsage).stderr, file)
		assert.Contains(t, d.run("verify", "--all", "--no-keyring", "--s3-cacert", file).exits(exitUsage).stderr, file)
		assert.Contains(t, d.with("AWS_CA_BUNDLE", file).run("verify", "--all", "--no-keyring").exits(exitUsage).stderr, file)
	}
}

func TestCAFilesAreTrusted(t *testing.T) {
	d := newDeployment(t)
	v, m := testserver.Vault(t, testserver.TLS()), testserver.MinIO(t, testserver.TLS())
	d.secrets = append(d.secrets, v.RootToken(), m.SecretKey())
	d = d.with("VAULT_ADDR", v.Address(), "VAULT_TOKEN", v.RootToken(), "AWS_ENDPOINT_URL", "https://"+m.Endpoint(), "RECVAULT_BUCKET", m.Bucket(),
		"AWS_ACCESS_KEY_ID", m.AccessKey(), "AWS_SECRET_ACCESS_KEY", m.SecretKey(), "AWS_REGION", m.Region())
	d = d.with("AWS_CA_BUNDLE", m.CAFile())
	d.run("setup").exits(exitUnavailable)
	planned := d.run("setup", "--dry-run", "--vault-cacert", v.CAFile()).ok().stdout
	assert.Contains(t, planned, "would change:\n")
	assert.Equal(t, strings.TrimPrefix(planned, "would change:\n"), d.run("setup", "--vault-cacert", v.CAFile()).ok().stdout)
	assert.Equal(t, "nothing to change\n", d.run("setup", "--dry-run", "--vault-cacert", v.CAFile()).ok().stdout)
	trusting := d.with("VAULT_CACERT", v.CAFile())
	trusting.run("rotate", "--all").ok()
	d = d.with("AWS_CA_BUNDLE", "")
	d.run("verify", "--all", "--no-keyring").exits(exitUnavailable)
	d.run("verify", "--all", "--no-keyring", "--s3-cacert", m.CAFile()).ok()
}

func TestSetupPrintNeedsNoVault(t *testing.T) {
	d := newDeployment(t)
	text := d.run("setup", "--print", "--mount", "clinic/keys", "--policy-prefix", "clinic").ok().stdout
	for _, shown := range []string{
		"POST sys/mounts/clinic/keys", "POST clinic/keys/keys/pseudonym", "POST auth/token/roles/clinic-grant",
		"POST sys/policies/acl/clinic-rotator", `path "clinic/keys/rewrap/+" {`,
	} {
		assert.Contains(t, text, shown)
	}
	object := d.run("setup", "--print", "--output", "json").ok().object()
	assert.Len(t, object["policies"], 12)
	assert.NotEmpty(t, object["calls"])
	d.run("setup", "--print", "--mount", "no spaces").exits(exitUsage)
}

func TestScopeMustBeSelected(t *testing.T) {
	d := inDirectory(t)
	var ids []string
	for i := range 8 {
		patient, id := d.enrol("patient" + strconv.Itoa(i))
		d.put(patient, random(t, 10))
		ids = append(ids, id)
	}
	d.run("rotate").exits(exitUsage)
	d.with("RECVAULT_PATIENT", "x").run("rotate").exits(exitUsage)
	d.run("rotate", "--all", "--key-id", ids[0]).exits(exitUsage)
	d.run("rotate", "--shard", "4/4").exits(exitUsage)
	d.run("rotate", "--shard", "0/4", "--shards", "4").exits(exitUsage)
	d.run("rotate", "--shards", "4").exits(exitUsage)
	d.run("rotate", "--all", "--shard", "0/4").exits(exitUsage)
	d.with(indexVariable, "3").run("rotate", "--all", "--shards", "4").exits(exitUsage)
	d.with(indexVariable, "3").run("rotate", "--shards", "0", "--key-id", ids[0]).exits(exitUsage)
	d.with(indexVariable, "3", "RECVAULT_SHARDS", "4").run("rotate", "--shards", "0").exits(exitUsage)
	assert.Contains(t, d.with(indexVariable, "3", "RECVAULT_SHARDS", "4").run("rotate", "--all").exits(exitUsage).stderr, "RECVAULT_SHARDS")
	pod := d.with(indexVariable, "3")
	for _, args := range [][]string{{"rotate"}, {"rotate", "--all"}, {"rotate", "--shards", "3"}} {
		pod.run(args...).exits(exitUsage)
	}
	d.with(indexVariable, "x").run("rotate", "--shards", "4").exits(exitUsage)
	d.with(indexVariable, "3", "RECVAULT_SHARDS", "x").run("rotate").exits(exitUsage)

	seen := func(o *outcome) int {
		t.Helper()
		return int(o.ok().object()["patients"].(map[string]any)["seen"].(float64))
	}
	plan := func(d *deployment, args ...string) int {
		t.Helper()
		return seen(d.run(append([]string{"plan", "--output", "json"}, args...)...))
	}
	byFlag, byIndex, byVariable := 0, 0, 0
	for i := range 4 {
		byFlag += plan(d, "--shard", strconv.Itoa(i)+"/4")
		byIndex += plan(d.with(indexVariable, strconv.Itoa(i)), "--shards", "4")
		byVariable += plan(d.with(indexVariable, strconv.Itoa(i), "RECVAULT_SHARDS", "4"))
	}
	assert.Equal(t, []int{8, 8, 8, 8}, []int{byFlag, byIndex, byVariable, plan(d, "--all")})
	assert.Equal(t, 2, plan(d, "--key-id", ids[0], "--key-id", ids[1]))
	file := d.file("ids", []byte(ids[0]+"\n\n"+ids[1]+"\n"+ids[2]))
	assert.Equal(t, 3, plan(d, "--key-id-file", file))
	assert.Equal(t, 4, plan(d, "--key-id-file", file, "--key-id", ids[3], "--key-id", ids[2]))
	patients := d.file("patients", []byte(readFile(t, d.path("patient4"))+readFile(t, d.path("patient5"))))
	assert.Equal(t, 2, plan(d, "--patient-file", patients))
	assert.Equal(t, 2, seen(d.runWith(strings.NewReader(readFile(t, patients)), "plan", "--output", "json", "--patient-file", "-")))
	d.run("plan", "--key-id-file", d.file("empty", nil)).exits(exitUsage)
	d.run("plan", "--key-id-file", d.file("bad", []byte(ids[0]+"\nx\n"))).exits(exitUsage)
}

func TestStandardInputIsReadOnce(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	identifier := strings.TrimSpace(readFile(t, alice))
	video := random(t, 100_000)
	id := d.runWith(strings.NewReader(string(video)), "put", "--patient-file", alice, "--content-type", "video/webm", "-").line()
	grant := d.runWith(strings.NewReader(identifier), "grant", "--patient-file", "-", "--subject", "s", "--purpose", "TREAT", "--out", d.path("g")).ok()
	assert.NotContains(t, grant.stdout, "recvault-grant-1")
	assert.Equal(t, string(video), d.runWith(strings.NewReader(readFile(t, d.path("g"))), "get", "--grant-file", "-", "--out", "-", id).ok().stdout)
	assert.Contains(t, d.runWith(strings.NewReader(identifier), "put", "--patient-file", "-", "-").exits(exitUsage).stderr, "standard input")
	assert.Equal(t, aliceID, d.with("RECVAULT_PATIENT", identifier).run("enrol").line())
	assert.Equal(t, aliceID, d.with("RECVAULT_PATIENT", identifier+"\n").run("enrol").line(), "a line break at the end is removed")
	d.with("RECVAULT_PATIENT", identifier+"\nx").run("enrol").exits(exitUsage)

	printed := d.run("grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", "-")
	assert.True(t, strings.HasPrefix(printed.line(), "recvault-grant-1."), "printed only on standard output, and alone")
	assert.NotContains(t, printed.stderr, "recvault-grant-1.")
	assert.Equal(t, string(video), d.with("RECVAULT_GRANT", printed.line()).run("get", "--out", "-", id).ok().stdout)
	many := d.file("many", []byte(identifier+"\nsomebody else\n"))
	assert.Len(t, d.run("enrol", "--patient-file", many, "--output", "json").ok().object()["key_ids"], 2)
}

func TestMetadataFlagsOverrideTheFile(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	about := d.file("about.json", []byte(`{"title":"From the file","recorded_at":"2026-03-01T10:30:00Z","duration":"40m","attributes":{"clinic":"north","room":"4"}}`))
	video := d.file("VISIT.MP4", random(t, 10))
	id := d.run("put", "--patient-file", alice, "--metadata-file", about, "--attribute", "room=5", "--duration", "30m", video).line()
	got := d.run("get", "--grant-file", d.grant(alice, "grant"), "--out", d.path("out"), "--output", "json", id).ok().object()
	assert.Equal(t, "From the file", got["title"])
	assert.Equal(t, "video/mp4", got["content_type"])
	assert.Equal(t, "30m0s", got["duration"])
	assert.Equal(t, "2026-03-01T10:30:00Z", got["recorded_at"])
	assert.Equal(t, map[string]any{"clinic": "north", "room": "5"}, got["attributes"])
	evil := d.file("evil.json", []byte(`{"title":"x\u001b]0;y\u0007"}`))
	d.run("put", "--patient-file", alice, "--metadata-file", evil, video).ok()
	shown := d.run("list", "--grant-file", d.path("grant")).ok().stdout
	assert.Contains(t, shown, "x?]0;y?", "a title cannot control the terminal")
	for _, args := range [][]string{
		{"--metadata-file", d.file("bad.json", []byte(`{"titel":"x"}`))},
		{"--recorded-at", "yesterday"},
		{"--content-type", "no type"},
		{"--title", strings.Repeat("x", 2000)},
		{"--attribute", "x"},
	} {
		t.Run(strings.TrimPrefix(args[0], "--"), func(t *testing.T) {
			d.in(t).run(append([]string{"put", "--patient-file", alice, video}, args...)...).exits(exitUsage)
		})
	}
	d.run("put", "--patient-file", alice, d.home).exits(exitUsage)
}

func TestDryRunsChangeNothing(t *testing.T) {
	onEachBackend(t, dryRuns)
}

func dryRuns(t *testing.T, d *deployment) {
	alice, aliceID := d.enrol("alice")
	nobody := d.patient("nobody")
	id := d.put(alice, random(t, 10))
	grant := d.grant(alice, "grant")
	d.as("rotator").run("rotate", "--all").ok()
	digest := d.as("eraser").run("erase", "plan", "--key-id", aliceID, "--output", "json").ok().object()["digest"].(string)
	before := d.snapshot()
	for _, dry := range []struct {
		role string
		args []string
	}{
		{"setup", []string{"setup"}},
		{"enroller", []string{"enrol", "--patient-file", nobody}},
		{"writer", []string{"put", "--patient-file", alice, grant}},
		{"granter", []string{"grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", d.path("new")}},
		{"revoker", []string{"revoke", "--grant-file", grant}},
		{"revoker", []string{"revoke", "--accessor", "x"}},
		{"rotator", []string{"rotate", "--all"}},
		{"rotator", []string{"rewrap", "--all"}},
		{"trimmer", []string{"trim", "--all"}},
		{"retirer", []string{"reinstate", "--key-id", aliceID, "--oldest", "1"}},
		{"writer", []string{"rekey", "--grant-file", grant, id}},
		{"auditor", []string{"hold", "set", "--key-id", aliceID, "--reason", "r", "--operator", "o"}},
		{"eraser", []string{"erase", "confirm", "--key-id", aliceID, "--digest", digest, "--operator", "o", "--receipt", d.path("receipt")}},
		{"auditor", []string{"sweep", "--all"}},
	} {
		t.Run(strings.Join(words(dry.args), " ")+" as "+dry.role, func(t *testing.T) {
			d := d.in(t)
			args := append(dry.args, "--dry-run")
			d.as(dry.role).run(args...).ok()
			d.as(dry.role).run(append(args, "--output", "json")...).ok().object()
			require.Equal(t, before, d.snapshot())
		})
	}
	d.as("retirer").run(append([]string{"retire", "--all", "--dry-run"}, shortGrace...)...).exits(exitIncomplete)
	d.as("writer").run("put", "--dry-run", "--patient-file", nobody, grant).exits(exitNotFound)
	for _, fails := range []struct {
		exit int
		role string
		args []string
	}{
		{exitUsage, "writer", []string{"put", "--patient-file", alice, d.home}},
		{exitUsage, "writer", []string{"put", "--patient-file", alice, "--title", strings.Repeat("x", 2000), grant}},
		{exitFailure, "writer", []string{"put", "--patient-file", alice, d.path("missing")}},
		{exitUsage, "retirer", []string{"reinstate", "--key-id", aliceID, "--oldest", "3"}},
		{exitFailure, "granter", []string{"grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", grant}},
		{exitFailure, "granter", []string{"grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", d.path("missing/new")}},
		{exitFailure, "eraser", []string{"erase", "confirm", "--key-id", aliceID, "--digest", digest, "--operator", "o", "--receipt", grant}},
	} {
		t.Run(strings.Join(words(fails.args), " ")+" fails", func(t *testing.T) {
			d.in(t).as(fails.role).run(append(fails.args, "--dry-run")...).exits(fails.exit)
		})
	}
	confirm := []string{"erase", "confirm", "--dry-run", "--key-id", aliceID, "--operator", "o", "--digest"}
	d.as("eraser").run(append(confirm, "another")...).exits(exitFailure)
	require.Equal(t, before, d.snapshot())

	hold := []string{"--key-id", aliceID, "--reason", "r", "--operator", "o"}
	d.run(append([]string{"hold", "set"}, hold...)...).ok()
	held := d.snapshot()
	d.run(append([]string{"hold", "clear", "--dry-run"}, hold...)...).ok()
	d.run(append([]string{"hold", "set", "--dry-run"}, hold...)...).exits(exitHeld)
	d.as("eraser").run(append(confirm, digest)...).exits(exitHeld)
	assert.Equal(t, held, d.snapshot())
}

// snapshot returns all files of the test's directory and, on servers, all objects and key versions.
func (d *deployment) snapshot() map[string]string {
	d.t.Helper()
	found := map[string]string{}
	require.NoError(d.t, filepath.WalkDir(d.home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		found[path] = string(text)
		return err
	}))
	if len(d.tokens) == 0 {
		return found
	}
	client, err := s3.NewClient(s3.Config{
		Endpoint: d.environment["AWS_ENDPOINT_URL"], Region: d.environment["AWS_REGION"],
		Credentials: credentials.NewStaticV4(d.environment["AWS_ACCESS_KEY_ID"], d.environment["AWS_SECRET_ACCESS_KEY"], ""),
	})
	require.NoError(d.t, err)
	store, err := s3.New(client, d.environment["RECVAULT_BUCKET"])
	require.NoError(d.t, err)
	for object, err := range store.List(d.t.Context(), "") {
		require.NoError(d.t, err)
		found[object.Name] = object.ETag
	}
	config := api.DefaultConfig()
	config.Address = d.environment["VAULT_ADDR"]
	vaultClient, err := api.NewClient(config)
	require.NoError(d.t, err)
	vaultClient.SetToken(d.tokens["auditor"])
	mount := d.environment["RECVAULT_MOUNT"]
	list, err := vaultClient.Logical().ListWithContext(d.t.Context(), mount+"/keys")
	require.NoError(d.t, err)
	for _, name := range list.Data["keys"].([]any) {
		key, err := vaultClient.Logical().ReadWithContext(d.t.Context(), mount+"/keys/"+name.(string))
		require.NoError(d.t, err)
		found[name.(string)] = fmt.Sprint(key.Data)
	}
	return found
}
