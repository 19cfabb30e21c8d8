package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/recvault/recvault/keys/transit"
)

// TestOneMountServesOneBucket is what an operator meets who mixes up the settings of two deployments.
func TestOneMountServesOneBucket(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		file := d.file("consultation.webm", []byte("content"))
		d.as("writer").run("put", "--patient-file", alice, file).ok()

		elsewhere := d.with("RECVAULT_PREFIX", "elsewhere/")
		refused := func(o *outcome) {
			t.Helper()
			assert.Equal(t, "foreign_store", o.exits(exitUsage).failure().Code)
		}
		refused(elsewhere.as("writer").run("put", "--patient-file", alice, file, "--output", "json"))
		refused(elsewhere.as("retirer").run("retire", "--all", "--output", "json"))
		refused(elsewhere.as("trimmer").run("trim", "--all", "--output", "json"))
		d.as("retirer").run("retire", "--all").ok()
	})
}

func TestSetupRefusesASecondBucket(t *testing.T) {
	d := onServers(t)
	for _, args := range [][]string{{"setup", "--dry-run"}, {"setup"}} {
		f := d.as("setup").with("RECVAULT_PREFIX", "elsewhere/").run(append(args, "--output", "json")...).exits(exitUsage).failure()
		assert.Equal(t, "foreign_store", f.Code)
	}
	assert.Equal(t, "nothing to change\n", d.as("setup").run("setup", "--dry-run", "--max-grant-ttl", "1h").ok().stdout)
}

// TestSetupWithoutTheBucket is for an administrator of Vault who has no access to the bucket.
func TestSetupWithoutTheBucket(t *testing.T) {
	d := onServers(t).as("setup").with("RECVAULT_PREFIX", "another/")
	d = d.with("RECVAULT_MOUNT", d.environment["RECVAULT_MOUNT"]+"-2", "RECVAULT_POLICY_PREFIX", d.environment["RECVAULT_POLICY_PREFIX"]+"-2")
	admin := d.with("RECVAULT_BUCKET", "")
	assert.Contains(t, admin.run("setup").exits(exitUsage).stderr, "--store-id")
	assert.Contains(t, admin.run("setup", "--store-id", "not an ID").exits(exitUsage).stderr, "base32")
	assert.Contains(t, admin.run("setup", "--print").ok().stdout, transit.StorePlaceholder)

	store := d.with("VAULT_ADDR", "").run("store-id").line()
	assert.Equal(t, store, d.with("VAULT_ADDR", "").run("store-id").line())
	admin.run("setup", "--store-id", store, "--dry-run").ok()
	admin.run("setup", "--store-id", store).ok()
	assert.Equal(t, "nothing to change\n", d.run("setup").ok().stdout)
	alice := d.patient("alice")
	d.run("enrol", "--patient-file", alice).ok()
	d.run("put", "--patient-file", alice, d.file("consultation.webm", []byte("content"))).ok()
}
