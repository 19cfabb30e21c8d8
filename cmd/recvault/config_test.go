package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// shown returns the settings that config show prints: name -> value and source.
func (d *deployment) shown(args ...string) map[string][2]string {
	d.t.Helper()
	shown := map[string][2]string{}
	for _, s := range d.run(append([]string{"config", "show", "--output", "json"}, args...)...).ok().object()["settings"].([]any) {
		s := s.(map[string]any)
		shown[s["name"].(string)] = [2]string{s["value"].(string), s["source"].(string)}
	}
	return shown
}

func TestConfigShowNamesTheSourceOfEachValue(t *testing.T) {
	d := newDeployment(t)
	file := d.file("config.yaml", []byte("# ours\nvault-addr: https://vault.example.org:8200\nbucket: from-file\nprefix: \"clinic/\"\ngrace: 20m\n"+
		"region: file\ntoken-file: /run/token\nendpoint: https://user:canary-password@minio.example.org\npath-style: true\n"))
	d = d.with("RECVAULT_CONFIG", file, "RECVAULT_BUCKET", "from-variable", "VAULT_TOKEN", "canary-token", "AWS_DEFAULT_REGION", "variable",
		"MINIO_ACCESS_KEY", "canary-id", "MINIO_SECRET_KEY", "canary-secret")
	d.secrets = []string{"canary-token", "canary-id", "canary-secret", "canary-password"}
	shown := d.shown("--prefix", "flag/")
	for name, want := range map[string][2]string{
		"vault-addr": {"https://vault.example.org:8200", "file"}, "bucket": {"from-variable", "RECVAULT_BUCKET"}, "prefix": {"flag/", "--prefix"},
		"region": {"variable", "AWS_DEFAULT_REGION"}, "grace": {"20m", "file"}, "mount": {"recordings", "default"},
		"token-file": {hidden, "VAULT_TOKEN"}, "path-style": {"true", "file"}, "S3 credentials": {hidden, "MINIO_ACCESS_KEY"}, "dir": {"", "default"},
	} {
		assert.Equal(t, want, shown[name], name)
	}
	assert.Regexp(t, `(?m)^vault-addr +https://vault.example.org:8200 +file, line 2$`, d.run("config", "show").ok().stdout)
	other := d.file("other.yaml", []byte("bucket: other\n"))
	assert.Equal(t, "default", d.shown("--config", other)["vault-addr"][1], "the flag takes precedence over the variable")
}

func TestTheConfigurationFileSetsUpARun(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	d.put(alice, random(t, 10))
	directory := d.environment["RECVAULT_DIR"]
	file := d.file("config.yaml", []byte("dir: "+directory+"\noutput: json\noperator: okafor\nconcurrency: 4\ngrace: 1ns\n"))
	d = d.with("RECVAULT_DIR", "")
	d.run("verify", "--all").exits(exitUsage)
	d = d.with("RECVAULT_CONFIG", file)
	assert.EqualValues(t, 1, d.run("verify", "--all").ok().object()["recordings"])
	assert.Contains(t, d.run("verify", "--all", "--output", "text").ok().stdout, "no problems found")
	held := d.run("hold", "set", "--key-id", aliceID, "--reason", "r").ok().object()["hold"].(map[string]any)
	assert.Equal(t, "okafor", held["operator"])
	assert.Contains(t, d.run("retire", "--all").exits(exitUsage).stderr, "a grace period of 1ns")
	d.run(append([]string{"retire", "--all"}, shortGrace...)...).ok()
	assert.Equal(t, exitUnavailable, d.with("VAULT_ADDR", "http://127.0.0.1:1", "VAULT_TOKEN", "t", "RECVAULT_BUCKET", "recordings").
		run("rotate", "--key-id", aliceID, "--dry-run").code, "the servers' variables take precedence over the file's directory")
	servers := d.file("servers.yaml", []byte("vault-addr: http://127.0.0.1:1\nbucket: recordings\n"))
	d.with("RECVAULT_CONFIG", servers).run("verify", "--all", "--dir", directory).ok()
}

func TestBadConfigurationFilesAreRefused(t *testing.T) {
	d := newDeployment(t)
	for name, text := range map[string]string{
		"no YAML": "bucket: [canary", "a list": "- canary", "a text": "canary", "unknown": "canary: x", "a secret": "vault-token: canary",
		"of a run": "all: true", "twice": "bucket: a\nbucket: canary", "empty": "bucket:", "no scalar": "bucket: [canary]",
		"of another type": "path-style: canary", "both kinds": "dir: canary\nbucket: canary",
	} {
		t.Run(name, func(t *testing.T) {
			d := d.in(t)
			o := d.run("config", "show", "--config", d.file("config.yaml", []byte(text))).exits(exitUsage)
			assert.NotContains(t, o.stdout+o.stderr, "canary")
			assert.Contains(t, o.stderr, "configuration")
		})
	}
	assert.NotContains(t, d.run("config", "show", "--config", "canary").exits(exitUsage).stderr, "canary")
	d.run("config", "show", "--config", d.file("empty.yaml", nil)).ok()
}
