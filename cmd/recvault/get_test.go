package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestGetWritesARange(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	grant := d.grant(alice, "grant")
	data := random(t, 200_000)
	id := d.put(alice, data)
	for text, want := range map[string][]byte{
		"0-0": data[:1], "0-1023": data[:1024], "65000-131099": data[65000:131100], "199999-": data[199999:], "-70000": data[130000:],
		"-999999": data, "100-999999": data[100:],
	} {
		t.Run(text, func(t *testing.T) {
			got := d.in(t).run("get", "--grant-file", grant, "--out", "-", "--range", text, id).ok().stdout
			assert.Equal(t, string(want), got)
		})
	}
	for _, text := range []string{"200000-", "5-4", "-", "-0", "7", "a-b", "1-2-3", "+1-2"} {
		t.Run("refused "+text, func(t *testing.T) {
			d.in(t).run("get", "--grant-file", grant, "--out", d.path("out"), "--range", text, id).exits(exitUsage)
			assert.NoFileExists(t, d.path("out"))
		})
	}
	assert.Equal(t, "10-19", d.run("get", "--grant-file", grant, "--out", d.path("out"), "--range", "10-19", "--output", "json", id).ok().object()["range"])
	assertFile(t, data[10:20], d.path("out"))
}
