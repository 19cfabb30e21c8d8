package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/recvault/recvault/internal/auditlog"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// reports answers who saw what. It reads the event stream, which both halves write to a file, and Vault's audit log where
// there is one. Another application gets the same from "recvault audit report", as HTML or JSON.
type reports struct {
	stream  *events.Stream
	journal string    // the file of the events
	logs    []string  // of Vault; none with keys in a directory
	mount   string    // of the engine in Vault
	since   time.Time // when the portal started; the engine in Vault has the uses of earlier runs too
	names   map[string]string
	reading chan struct{} // has room for one report at a time
}

// namesOf returns the names of the staff, by account. A patient is shown who they are.
func namesOf(people []person) map[string]string {
	names := map[string]string{}
	for _, p := range people {
		if p.Role != patientRole {
			names[p.ID] = p.Name
		}
	}
	return names
}

// read makes a report of what the options select.
func (r *reports) read(ctx context.Context, options auditlog.Options) (*auditlog.Report, error) {
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := r.stream.Flush(ctx); err != nil {
		return nil, err
	}
	options.Mount, options.Prefix, options.Since = r.mount, r.mount, r.since
	options.Events = []auditlog.Source{file(r.journal)}
	var logs []auditlog.Source
	for _, name := range r.logs {
		logs = append(logs, file(name))
	}
	return auditlog.Read(ctx, logs, options)
}

func file(name string) auditlog.Source {
	return auditlog.Source{Name: filepath.Base(name), Open: func() (io.ReadCloser, error) { return os.Open(name) }}
}

// report shows the security desk who saw which recordings: all of it, or what one account did, or what was done with one
// patient's recordings.
func (s *server) report(w http.ResponseWriter, r *http.Request, session session) {
	if !s.isDesk(w, session) {
		return
	}
	var options auditlog.Options
	if subject := r.FormValue("subject"); subject != "" {
		options.Subjects = []string{subject}
	}
	if text := r.FormValue("patient"); text != "" {
		keyID, err := keys.ParseKeyID(text)
		if err != nil {
			s.pages.problem(w, http.StatusBadRequest, "There is no such patient", "The address does not have a patient's KeyID.")
			return
		}
		options.KeyIDs = []keys.KeyID{keyID}
	}
	report, err := s.reports.read(r.Context(), options)
	if errors.Is(err, auditlog.ErrNoEvents) || errors.Is(err, auditlog.ErrNoEntries) {
		s.pages.problem(w, http.StatusNotFound, "There is nothing to report yet", "Nobody has signed in to see a recording.")
		return
	}
	var page bytes.Buffer
	if err == nil {
		err = report.WriteHTML(&page)
	}
	if err != nil {
		s.pages.failed(w, err)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src '"+styleHash(page.Bytes())+"'; base-uri 'none'; frame-ancestors 'none'")
	_, _ = page.WriteTo(w) // fails if the browser has gone away
}

// styleHash allows the page its own style, and no other (Content Security Policy Level 3, section 6.7.3.3).
func styleHash(page []byte) string {
	_, rest, _ := bytes.Cut(page, []byte("<style>"))
	style, _, _ := bytes.Cut(rest, []byte("</style>"))
	sum := sha256.Sum256(style)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// accessesPage is the content of the page on which patients see who has seen their consultations.
type accessesPage struct {
	*auditlog.PatientView
	Others, Own []auditlog.PatientAccess
	Outcome     outcome
}

// accesses shows a patient who has seen the own consultations, when and why.
func (s *server) accesses(w http.ResponseWriter, r *http.Request, session session) {
	grant := session.Access.Grant
	if session.Role != patientRole || grant.IsZero() {
		s.pages.problem(w, http.StatusForbidden, "This page is for patients", "Sign in as one to see who has seen your consultations.")
		return
	}
	content := accessesPage{Outcome: good}
	names := auditlog.Names{People: s.reports.names, Recordings: map[keys.RecordingID]string{}}
	own, err := s.vault.ListInfo(r.Context(), grant)
	if content.Outcome = outcomeOf(err); content.Outcome == good {
		for _, recording := range own {
			if recording.Err == nil {
				names.Recordings[recording.ID] = recording.Info.Title
			}
		}
		report, err := s.reports.read(r.Context(), auditlog.Options{KeyIDs: []keys.KeyID{grant.KeyID()}})
		if err != nil {
			s.pages.failed(w, err)
			return
		}
		content.PatientView = report.PatientView(grant.KeyID(), names)
		for _, access := range content.Accesses {
			if access.Purpose == string(keys.PatientRequest) {
				content.Own = append(content.Own, access)
			} else {
				content.Others = append(content.Others, access)
			}
		}
	}
	s.pages.render(w, content.Outcome.status(), "accesses", page{Title: "Who has seen my consultations", Session: session, Content: content})
}
