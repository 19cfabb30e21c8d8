package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestListWithAGrantShowsTheNewestFirst(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	grant := d.grant(alice, "grant")
	var want []any
	for day := 9; day > 0; day-- {
		about := d.file("about.json", fmt.Appendf(nil, `{"title":"day %d","recorded_at":"2026-03-0%dT10:30:00Z"}`, day, day))
		want = append(want, d.run("put", "--patient-file", alice, "--metadata-file", about, d.file("a.webm", random(t, 10))).line())
	}
	var ids []any
	for _, recording := range d.run("list", "--grant-file", grant, "--output", "json").ok().object()["recordings"].([]any) {
		ids = append(ids, recording.(map[string]any)["id"])
	}
	assert.Equal(t, want, ids)
}
