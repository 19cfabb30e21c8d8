package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

func operationsManual(t *testing.T) string {
	t.Helper()
	return readFile(t, filepath.Join("..", "..", "docs", "operations.md"))
}

// The incident query of docs/operations.md must show every decrypt, however its context is written.
func TestIncidentQueryDropsNoLine(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("the query in docs/operations.md needs jq: install it to run this test")
	}
	query := regexp.MustCompile(`(?s)    jq -r '\n(.*?)' /var/log/vault/audit.log`).
		FindStringSubmatch(operationsManual(t))
	require.NotNil(t, query)
	const of = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/bbbbbbbbbbbbbbbbbbbbbbbbbb"
	encoded := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	opened, described := encoded("recvault/v1/"+of), encoded("recvault/v1/metadata/"+of)
	for name, c := range map[string]struct {
		data    any
		wrapTTL int
		want    []string
	}{
		"opened":              {map[string]any{"context": opened}, 0, []string{"opened", "recvault/v1/" + of}},
		"described":           {map[string]any{"context": described}, 0, []string{"described", "recvault/v1/metadata/" + of}},
		"line breaks":         {map[string]any{"context": opened[:7] + "\n" + opened[7:20] + "\r\n" + opened[20:]}, 0, []string{"opened", "recvault/v1/" + of}},
		"wrapped":             {map[string]any{"context": opened}, 3600, []string{"opened", "WRAPPED"}},
		"a batch":             {map[string]any{"batch_input": []any{map[string]any{"context": described}}}, 0, []string{"described"}},
		"not base64":          {map[string]any{"context": "***"}, 0, []string{"not base64"}},
		"not text":            {map[string]any{"context": []string{opened}}, 0, []string{"not base64"}},
		"no context":          {map[string]any{"ciphertext": "x"}, 0, []string{"no context"}},
		"no data":             {nil, 0, []string{"no context"}},
		"data is not objects": {map[string]any{"batch_input": "x"}, 0, []string{"no context"}},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := json.Marshal(map[string]any{
				"type": "response", "time": "2026-03-01T10:30:00Z", "auth": map[string]any{"metadata": map[string]any{"subject": "dr-lee", "purpose": "TREAT"}},
				"request": map[string]any{"path": "recordings/decrypt/x-kek", "data": c.data, "wrap_ttl": c.wrapTTL},
			})
			require.NoError(t, err)
			jq := exec.Command("jq", "-r", query[1])
			jq.Stdin = strings.NewReader(string(line) + "\n")
			printed, err := jq.CombinedOutput()
			require.NoError(t, err, "%s", printed)
			assert.Equal(t, 1, strings.Count(string(printed), "\n"))
			for _, want := range append(c.want, "dr-lee", "allowed") {
				assert.Contains(t, string(printed), want)
			}
			assert.Equal(t, c.wrapTTL > 0, strings.Contains(string(printed), "WRAPPED"))
		})
	}
}

// The query for emergency access must find the grants of a real Vault's audit log, and no others.
func TestEmergencyQueryShowsTheGrants(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("the query in docs/operations.md needs jq: install it to run this test")
	}
	query := regexp.MustCompile(`(?s)### Emergency access.*?    jq -r '\n(.*?)' \\`).FindStringSubmatch(operationsManual(t))
	require.NotNil(t, query)
	d := onServers(t)
	alice, keyID := d.enrol("alice")
	for _, purpose := range []string{"TREAT", "BTG", "ETREAT"} {
		d.as("granter").run("grant", "--patient-file", alice, "--subject", "dr-"+purpose, "--purpose", purpose, "--reason", "because "+purpose, "--out", d.path(purpose)).ok()
	}
	// The test's policies and token roles have a prefix of its own.
	jq := exec.Command("jq", "-r", strings.ReplaceAll(query[1], "recvault-", d.environment["RECVAULT_POLICY_PREFIX"]+"-"), testserver.Vault(t).AuditFile())
	printed, err := jq.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	lines := strings.Split(strings.TrimSpace(string(printed)), "\n")
	require.Len(t, lines, 2, "%s", printed)
	for i, want := range []string{"BTG", "ETREAT"} {
		assert.Contains(t, lines[i], want+"\tdr-"+want+"\t"+keyID+"\tbecause "+want)
	}
	d.as("granter").run("grant", "--patient-file", alice, "--subject", "dr-lee", "--purpose", "BTG", "--out", d.path("none")).exits(exitUsage)
}

// bucketPolicies returns the policies of docs/operations.md by name, for the bucket and prefix of a deployment.
func bucketPolicies(t *testing.T, d *deployment) map[string]string {
	t.Helper()
	bucket, prefix := d.environment["RECVAULT_BUCKET"], d.environment["RECVAULT_PREFIX"]
	here := strings.NewReplacer("consultations/recordings", bucket+"/"+prefix+"recordings",
		"consultations/store-id", bucket+"/"+prefix+"store-id", "consultations", bucket)
	policies := map[string]string{}
	for _, found := range regexp.MustCompile("(?ms)^([a-z]+):\n\n```json\n(.*?)```").FindAllStringSubmatch(operationsManual(t), -1) {
		policies[found[1]] = here.Replace(found[2])
	}
	require.Len(t, policies, 6)
	return policies
}

// bucket returns the store with the deployment's credentials.
func (d *deployment) bucket() storage.Store {
	d.t.Helper()
	client, err := s3.NewClient(s3.Config{Endpoint: d.environment["AWS_ENDPOINT_URL"], Region: d.environment["AWS_REGION"], Credentials: credentials.NewStaticV4(
		d.environment["AWS_ACCESS_KEY_ID"], d.environment["AWS_SECRET_ACCESS_KEY"], d.environment["AWS_SESSION_TOKEN"])})
	require.NoError(d.t, err)
	store, err := s3.New(client, d.environment["RECVAULT_BUCKET"])
	require.NoError(d.t, err)
	return store
}

// Each policy for the bucket lets the commands of its row run, and refuses what is not theirs.
func TestBucketPoliciesFitTheirRoles(t *testing.T) {
	d := onServers(t)
	environment := d.environment
	policies := bucketPolicies(t, d)
	with := func(policy string) *deployment {
		t.Helper()
		require.Contains(t, policies, policy)
		temporary, err := credentials.NewSTSAssumeRole(environment["AWS_ENDPOINT_URL"], credentials.STSAssumeRoleOptions{
			AccessKey: environment["AWS_ACCESS_KEY_ID"], SecretKey: environment["AWS_SECRET_ACCESS_KEY"],
			DurationSeconds: 3600, Policy: policies[policy],
		})
		require.NoError(t, err)
		value, err := temporary.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
		require.NoError(t, err)
		return d.with("AWS_ACCESS_KEY_ID", value.AccessKeyID, "AWS_SECRET_ACCESS_KEY", value.SecretAccessKey, "AWS_SESSION_TOKEN", value.SessionToken)
	}
	read, write, rewrap := with("read"), with("write"), with("rewrap")
	erase, hold, setup := with("erase"), with("hold"), with("setup")

	setup.as("setup").run("setup", "--max-grant-ttl", "1h").ok()
	setup.run("store-id").ok()
	setup.with("RECVAULT_PREFIX", "other/").run("store-id").exits(exitDenied)
	alice, keyID := d.enrol("alice")
	bob, _ := d.enrol("bob")
	grant := d.grant(alice, "grant")
	small, large := random(t, 1000), random(t, 40<<20) // one request, and parts
	id := write.put(alice, small)
	largeID := write.put(alice, large)
	read.as("writer").run("put", "--patient-file", alice, d.file("small", small)).exits(exitDenied)
	rewrap.as("writer").run("put", "--patient-file", alice, d.file("small", small)).exits(exitDenied)

	assert.Equal(t, string(small), read.run("get", "--grant-file", grant, "--out", "-", id).ok().stdout)
	assert.Equal(t, string(large), read.run("get", "--grant-file", grant, "--out", "-", largeID).ok().stdout)
	read.run("list", "--grant-file", grant).ok()
	read.run("describe", "--grant-file", grant, id).ok()
	read.run("describe", "--grant-file", grant, "--set", "title=Other", id).exits(exitDenied)
	read.run("get", "--grant-file", grant, "--out", "-", keyID+".aaaaaaaaaaaaaaaaaaaaaaaaaa").exits(exitNotFound)
	read.as("auditor").run("verify", "--all").ok()

	write.run("describe", "--grant-file", grant, "--set", "title=Other", id).ok()
	write.as("writer").run("copy", "--grant-file", grant, "--patient-file", bob, largeID).ok()
	rekeyed := write.as("writer").run("rekey", "--grant-file", grant, id).line()
	write.as("writer").run("reassign", "--grant-file", grant, "--patient-file", bob, rekeyed).ok()
	for _, policy := range []*deployment{read, write, rewrap, erase, setup} {
		policy.run("hold", "set", "--key-id", keyID, "--reason", "case", "--operator", "legal").exits(exitDenied)
	}
	// Without our command, too, the one can change nothing, and the other no media.
	for store, changeable := range map[storage.Store]string{read.bucket(): "none", rewrap.bucket(): "/envelope"} {
		for _, part := range []string{"/envelope", "/media"} {
			name := environment["RECVAULT_PREFIX"] + "recordings/" + strings.Replace(largeID, ".", "/", 1) + part
			before, err := store.Stat(t.Context(), name)
			require.NoError(t, err)
			if part != changeable {
				_, err = store.Put(t.Context(), name, strings.NewReader("x"), 1, storage.Condition{})
				require.ErrorIs(t, err, storage.ErrDenied)
			}
			require.ErrorIs(t, store.Delete(t.Context(), name), storage.ErrDenied)
			after, err := store.Stat(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, before, after)
		}
	}

	for _, args := range [][]string{{"plan"}, {"rotate"}, {"rewrap"}, {"verify"}} {
		rewrap.as("rotator").run(append(args, "--all")...).ok()
	}
	read.as("rotator").run("rotate", "--key-id", keyID).ok()
	assert.NotEqual(t, exitOK, read.as("rotator").run("rewrap", "--key-id", keyID).code)
	rewrap.as("rotator").run("rewrap", "--all").ok()
	assert.Contains(t, read.as("retirer").run("retire", "--all").exits(exitIncomplete).stdout, "grace_period", "nothing else is in the way")

	hold.run("hold", "set", "--key-id", keyID, "--reason", "case", "--operator", "legal").ok()
	for _, policy := range []*deployment{read, write, rewrap, erase, setup} {
		policy.run("hold", "clear", "--key-id", keyID, "--reason", "case", "--operator", "legal").exits(exitDenied)
	}
	erase.as("eraser").run("erase", "plan", "--key-id", keyID).ok()
	hold.run("hold", "clear", "--key-id", keyID, "--reason", "case", "--operator", "legal").ok()
	erase.run("sweep", "--all").ok()
	plan := erase.as("eraser").run("erase", "plan", "--key-id", keyID, "--output", "json").ok().object()
	digest, _ := plan["digest"].(string)
	erase.as("eraser").run("erase", "confirm", "--key-id", keyID, "--digest", digest, "--operator", "dpo", "--receipt", d.path("receipt")).ok()
}
