package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

// Each job takes longer than its first token lives.
func TestJobOutlivesItsToken(t *testing.T) {
	d := onServers(t)
	const patients = 12
	for i := range patients {
		alice, _ := d.enrol("patient" + string(rune('a'+i)))
		d.put(alice, random(t, 10))
	}
	life := testserver.Lifetime{TTL: 2 * time.Second, Max: 3 * time.Second}
	rotate := func(d *deployment, args ...string) {
		begun := time.Now()
		report := d.run(append([]string{"rotate", "--all", "--keyring-rate", "4", "--output", "json"}, args...)...).ok().object()
		assert.EqualValues(t, patients, report["patients"].(map[string]any)["changed"])
		assert.Greater(t, time.Since(begun), life.Max, "the token did not end during the job")
	}
	t.Run("AppRole", func(t *testing.T) {
		l := d.vault.AppRole(t, "rotator", life)
		rotate(d.in(t).with("RECVAULT_LOGIN", "approle", "RECVAULT_LOGIN_ROLE", l.Role, "RECVAULT_LOGIN_FILE", l.File,
			"RECVAULT_LOGIN_MOUNT", l.Mount, "VAULT_TOKEN", ""))
	})
	t.Run("JWT, by flags", func(t *testing.T) {
		l := d.vault.JWT(t, "rotator", life)
		rotate(d.in(t), "--login", "jwt", "--login-role", l.Role, "--login-file", l.File, "--login-mount", l.Mount)
	})
	t.Run("token file", func(t *testing.T) {
		// The first token ends during the job, after another one is in the file.
		path := d.file("token", []byte(d.tokens["rotator"]))
		next := d.vault.RoleToken("rotator")
		d.secrets = append(d.secrets, next)
		root := d.vault.Client(d.vault.RootToken())
		timer := time.AfterFunc(time.Second, func() {
			assert.NoError(t, os.WriteFile(path+".new", []byte(next+"\n"), 0o600))
			assert.NoError(t, os.Rename(path+".new", path))
			assert.NoError(t, root.Auth().Token().RevokeOrphanWithContext(t.Context(), d.tokens["rotator"]))
		})
		defer timer.Stop()
		rotate(d.in(t), "--token-file", path)
	})
}

func TestLoginSettingsAreChecked(t *testing.T) {
	d := newDeployment(t)
	file := d.file("secret", []byte("canary-secret"))
	d.secrets = []string{"canary-secret"}
	for name, test := range map[string]struct {
		environment, args []string
		names             []string
	}{
		"two flags":      {nil, []string{"--login", "jwt", "--token-file", file}, []string{"--login", "--token-file"}},
		"two variables":  {[]string{"RECVAULT_LOGIN", "jwt", "VAULT_TOKEN", "x"}, nil, []string{"RECVAULT_LOGIN", "VAULT_TOKEN"}},
		"another method": {[]string{"RECVAULT_LOGIN", "canary-secret", "RECVAULT_LOGIN_ROLE", "r"}, nil, []string{"RECVAULT_LOGIN", "--login"}},
		"no role":        {nil, []string{"--login", "kubernetes"}, []string{"RECVAULT_LOGIN_ROLE", "--login-role"}},
		"no secret ID":   {nil, []string{"--login", "approle", "--login-role", "r"}, []string{"RECVAULT_LOGIN_FILE", "--login-file"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := d.in(t).with("VAULT_ADDR", "http://127.0.0.1:1", "RECVAULT_BUCKET", "b-b-b").with(test.environment...).
				run(append([]string{"rotate", "--all"}, test.args...)...).exits(exitUsage)
			for _, setting := range test.names {
				assert.Contains(t, o.stderr, setting)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		o := d.in(t).with("VAULT_ADDR", "http://127.0.0.1:1", "RECVAULT_BUCKET", "b-b-b", "RECVAULT_LOGIN", "kubernetes",
			"RECVAULT_LOGIN_ROLE", "r", "RECVAULT_LOGIN_FILE", "canary-file").run("rotate", "--all").exits(exitFailure)
		assert.Contains(t, o.stderr, "--login-file: no such file")
		assert.NotContains(t, o.stderr, "canary-file")
	})
}

func TestRefusedLoginIsUnauthenticated(t *testing.T) {
	d := onServers(t)
	l := d.vault.AppRole(t, "rotator", testserver.Lifetime{TTL: time.Minute, Max: time.Minute})
	wrong := d.file("wrong", []byte("canary-secret"))
	d.secrets = append(d.secrets, "canary-secret")
	o := d.with("VAULT_TOKEN", "").run("rotate", "--all", "--output", "json",
		"--login", "approle", "--login-role", l.Role, "--login-file", wrong, "--login-mount", l.Mount).exits(exitDenied)
	failed := o.failure()
	require.Equal(t, "unauthenticated", failed.Code)
	assert.Equal(t, 1, strings.Count(failed.Error, "invalid role or secret ID"), failed.Error)
}
