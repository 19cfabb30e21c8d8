package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// panel has the security events that the vault reported, newest first, for the security desk. Attempts on
// the same recording by the same account share a line. The register of accesses is shown beside it.
type panel struct {
	register register

	mu      sync.Mutex
	alerts  []alert
	changed chan struct{} // closed at the next change
}

// alert is one line of the panel.
type alert struct {
	events.Event     // the latest of them
	Attempts     int // how many attempts the line counts
}

func newPanel() *panel { return &panel{changed: make(chan struct{})} }

// maxAlerts is how many lines are kept.
const maxAlerts = 50

// add is the vault's sink of events.
func (p *panel) add(event events.Event) error {
	if event.Level() < slog.LevelWarn {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	line := alert{event, event.Count}
	same := slices.IndexFunc(p.alerts, func(a alert) bool {
		return a.Kind == event.Kind && a.Recording == event.Recording && a.Grant == event.Grant
	})
	if same >= 0 {
		line.Attempts += p.alerts[same].Attempts
		p.alerts = slices.Delete(p.alerts, same, same+1)
	}
	p.alerts = slices.Insert(p.alerts, 0, line)
	p.alerts = p.alerts[:min(len(p.alerts), maxAlerts)]
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// snapshot returns the lines, and a channel that is closed at the next change.
func (p *panel) snapshot() ([]alert, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.alerts), p.changed
}

// panelView is what the panel shows to one account.
type panelView struct {
	Alerts []alert
	Desk   bool // the security desk, which can open reports
}

// view returns what the panel shows to the account of a session, and a channel that is closed at the next change.
func (p *panel) view(session session) (panelView, <-chan struct{}) {
	alerts, changed := p.snapshot()
	return panelView{alerts, session.Role == securityRole}, changed
}

// watchEvents sends the panel's lines as server-sent events, whenever they change. A real portal would send
// them to the security desk only, and connect the vault's events to its alerting.
func (s *server) watchEvents(w http.ResponseWriter, r *http.Request, session session) {
	w.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(w)
	over := time.NewTimer(time.Until(session.until))
	defer over.Stop()
	for {
		if _, ok := s.sessions.of(r); !ok {
			return // signed out since
		}
		shown, changed := s.events.view(session)
		lines, err := s.pages.part("alerts", shown)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", bytes.ReplaceAll(lines, []byte("\n"), []byte("\ndata: "))); err != nil {
			return
		}
		if err := stream.Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-over.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// securityPage is the content of the security desk's page.
type securityPage struct {
	Events   panelView
	Register []registered
}

// isDesk returns whether the session is the security desk's. Otherwise it answers the request itself.
func (s *server) isDesk(w http.ResponseWriter, session session) bool {
	if session.Role != securityRole {
		s.pages.problem(w, http.StatusForbidden, "This page is for the security desk", "Sign in as the security desk to see it.")
		return false
	}
	return true
}

func (s *server) security(w http.ResponseWriter, r *http.Request, session session) {
	if !s.isDesk(w, session) {
		return
	}
	shown, _ := s.events.view(session)
	s.pages.render(w, http.StatusOK, "security", page{
		Title: "Security desk", Session: session,
		Content: securityPage{shown, s.events.register.snapshot()},
	})
}

// register records each access that the login gave to a clinician, and why.
type register struct {
	mu    sync.Mutex
	lines []registered
}

type registered struct {
	Time  time.Time
	Grant keys.GrantDetails
}

const maxRegistered = 200

func (r *register) add(line registered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = slices.Insert(r.lines, 0, line)
	r.lines = r.lines[:min(len(r.lines), maxRegistered)]
}

// snapshot returns the lines, newest first.
func (r *register) snapshot() []registered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}
