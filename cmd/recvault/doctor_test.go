package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys/transit/transitcheck"
)

// statuses returns the statuses of a report in JSON, by check.
func statuses(t *testing.T, o *outcome) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, check := range o.object()["checks"].([]any) {
		fields := check.(map[string]any)
		found[fields["of"].(string)+" "+fields["name"].(string)] = fields["status"].(string)
	}
	return found
}

func TestDoctorFindsNothingWrong(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		args := []string{"doctor"}
		if len(d.tokens) > 0 {
			for _, role := range transitcheck.Roles()[1:] {
				args = append(args, "--role-token", role+"="+d.file("token-"+role, []byte(d.tokens[role]+"\n")))
			}
			args = append(args, "--also-endpoint", d.environment["AWS_ENDPOINT_URL"])
			d = d.as("setup")
		}
		printed := d.run(args...).ok().stdout
		assert.Contains(t, printed, "if-match, in parts")
		assert.Contains(t, printed, "no check failed")

		o := d.run(append(args, "--quick", "--output", "json")...).ok()
		assert.Zero(t, o.object()["failed"])
		found := statuses(t, o)
		assert.Equal(t, "ok", found["store if-match"])
		assert.Equal(t, "skipped", found["store if-match, in parts"])
		for name, status := range found {
			if len(d.tokens) > 0 && name != "keyring audit devices" && name[:7] == "keyring" {
				assert.Equal(t, "ok", status, name) // the test's Vault has one audit device: a note
			}
		}
	})
}

func TestDoctorEndsWithSixAfterAFailure(t *testing.T) {
	d := onServers(t).as("setup")
	wrong := "writer=" + d.file("token", []byte(d.tokens["granter"]))
	o := d.run("doctor", "--quick", "--role-token", wrong)
	assert.Contains(t, o.exits(exitIncomplete).stdout, "lacks update")
	o = d.run("doctor", "--quick", "--role-token", wrong, "--output", "json").exits(exitIncomplete)
	assert.EqualValues(t, 1, o.object()["failed"])
	assert.Equal(t, "failed", statuses(t, o)["keyring role writer"])
	assert.Equal(t, "incomplete", o.failure().Code)

	o = d.with("AWS_SECRET_ACCESS_KEY", "wrong").run("doctor", "--output", "json").exits(exitIncomplete)
	assert.Equal(t, "failed", statuses(t, o)["store access"])
	o = d.with("RECVAULT_PREFIX", "another/").run("doctor", "--quick", "--output", "json").exits(exitIncomplete)
	assert.Equal(t, "skipped", statuses(t, o)["keyring store"], "it has no ID yet")
	assert.Equal(t, "failed", statuses(t, o)["store store-id"])
}

func TestDoctorChecksWhatIsNamed(t *testing.T) {
	d := onServers(t)
	found := statuses(t, d.with("VAULT_ADDR", "").run("doctor", "--quick", "--output", "json").ok())
	assert.Equal(t, "skipped", found["keyring keyring"])
	assert.Equal(t, "ok", found["store if-none-match"])
	found = statuses(t, d.with("RECVAULT_BUCKET", "").run("doctor", "--output", "json").ok())
	assert.Equal(t, "skipped", found["store store"])
	assert.Equal(t, "ok", found["keyring seal"])
	for name, o := range map[string]*outcome{
		"nothing named":    d.with("VAULT_ADDR", "", "RECVAULT_BUCKET", "").run("doctor"),
		"a role's grant":   d.run("doctor", "--quick", "--role-token", "grant="+d.file("token", []byte("x"))),
		"no file":          d.run("doctor", "--quick", "--role-token", "writer"),
		"a role twice":     d.run("doctor", "--quick", "--role-token", "writer="+d.path("token"), "--role-token", "writer="+d.path("token")),
		"a directory's":    inDirectory(t).run("doctor", "--role-token", "writer=x"),
		"a wrong endpoint": d.run("doctor", "--quick", "--also-endpoint", "minio"),
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, exitUsage, o.code, o.stderr) })
	}
}
