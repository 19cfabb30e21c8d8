package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"time"
)

//go:embed export.html
var exportHTML string

// exportTemplate escapes every text for its place in the page.
var exportTemplate = template.Must(template.New("export").Funcs(template.FuncMap{
	"date":   func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	"length": spokenDuration,
	"bytes":  humanBytes,
	"kind": func(contentType string) string {
		kind, _, _ := strings.Cut(contentType, "/")
		return strings.ToLower(kind)
	},
	"reason": func(code string) string {
		switch code {
		case "damaged":
			return "It is damaged and cannot be read."
		case "unsupported":
			return "It can be read only with a newer version of the software that made this copy."
		case "not_found":
			return "It was deleted before it was copied."
		}
		return "It cannot be opened (" + code + ")."
	},
}).Parse(exportHTML))

// page returns the page that a patient can open.
func (d exportDocument) page() ([]byte, error) {
	var page bytes.Buffer
	err := exportTemplate.Execute(&page, d)
	return page.Bytes(), err
}

// spokenDuration returns a duration in hours and minutes, or in seconds below a minute.
func spokenDuration(d duration) string {
	if time.Duration(d) < time.Minute {
		return fmt.Sprintf("%d s", int(time.Duration(d).Seconds()))
	}
	minutes := int(time.Duration(d).Round(time.Minute).Minutes())
	if minutes < 60 {
		return fmt.Sprintf("%d min", minutes)
	}
	return fmt.Sprintf("%d h %d min", minutes/60, minutes%60)
}
