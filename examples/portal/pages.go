package main

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

//go:embed web
var web embed.FS

// static serves the style sheet, the script and the icon.
func static() http.Handler {
	files, err := fs.Sub(web, "web/static")
	if err != nil {
		panic("portal: internal error: " + err.Error())
	}
	return http.StripPrefix("/static/", http.FileServerFS(files))
}

// pages renders the portal's pages.
type pages struct {
	decides   string // what decides whether a grant fits
	bugged    *atomic.Bool
	templates map[string]*template.Template
}

func newPages(decides string, bugged *atomic.Bool) (*pages, error) {
	base, err := template.New("").Funcs(template.FuncMap{
		"date":    func(t time.Time) string { return t.Local().Format("2 January 2006") },
		"moment":  func(t time.Time) string { return t.Local().Format("2 January 2006, 15:04") },
		"clock":   func(t time.Time) string { return t.Local().Format("15:04:05") },
		"iso":     func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") },
		"seconds": func(d time.Duration) int { return int(d.Seconds()) },
		"lasts":   lasts,
		"inWords": inWords,
		"purpose": purpose,
		"kind":    kind,
	}).ParseFS(web, "web/base.html", "web/parts.html")
	if err != nil {
		return nil, err
	}
	p := &pages{decides: decides, bugged: bugged, templates: map[string]*template.Template{"parts": base}}
	for _, name := range []string{"login", "consultations", "play", "patients", "security", "accesses", "problem"} {
		page, err := base.Clone()
		if err != nil {
			return nil, err
		}
		if p.templates[name], err = page.ParseFS(web, "web/"+name+".html"); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// lasts formats a duration as on a clock, such as 0:40.
func lasts(d time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// inWords formats a duration in words, such as 2 minutes.
func inWords(d time.Duration) string {
	switch {
	case d == time.Minute:
		return "a minute"
	case d%time.Minute == 0:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return fmt.Sprintf("%v seconds", d.Seconds())
}

// purpose returns a code of HL7's PurposeOfUse in words.
func purpose(p keys.Purpose) string {
	switch p {
	case keys.Treatment:
		return "Treatment"
	case keys.BreakTheGlass:
		return "Break the glass"
	case keys.PatientRequest:
		return "Patient's own request"
	}
	return string(p)
}

// kind returns the kind of a security event in words.
func kind(k events.Kind) string {
	switch k {
	case events.WrongPatient:
		return "Refused: another patient's recording"
	case events.Refused, events.Exhausted:
		return "Refused: the access has ended"
	case events.Damaged:
		return "A recording is damaged"
	case events.Failed:
		return "A recording could not be played"
	}
	return "More attempts, which were only counted"
}

// page is what all pages show, and the content of one.
type page struct {
	Title   string
	Session session // the zero session when nobody is signed in
	Content any

	Decides string
	Bugged  bool
}

// render answers a request with a page.
func (p *pages) render(w http.ResponseWriter, status int, name string, content page) {
	content.Decides, content.Bugged = p.decides, p.bugged.Load()
	var buffer bytes.Buffer
	if err := p.templates[name].ExecuteTemplate(&buffer, "base.html", content); err != nil {
		slog.Error("portal: render", "page", name, "error", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = buffer.WriteTo(w) // fails if the browser has gone away
}

// part renders one part of a page.
func (p *pages) part(name string, content any) ([]byte, error) {
	var buffer bytes.Buffer
	err := p.templates["parts"].ExecuteTemplate(&buffer, name, content)
	return buffer.Bytes(), err
}

// problem answers with a page that says why the request was not carried out.
func (p *pages) problem(w http.ResponseWriter, status int, title, text string) {
	p.render(w, status, "problem", page{Title: title, Content: text})
}

// failed logs an error for the operator, and answers with a page that shows no details.
func (p *pages) failed(w http.ResponseWriter, err error) {
	slog.Error("portal", "error", err)
	status := http.StatusInternalServerError
	if outcomeOf(err) == unavailable {
		status = http.StatusServiceUnavailable
	}
	p.problem(w, status, "This did not work", "The portal cannot reach its keys or its recordings. Please try again in a few minutes.")
}
