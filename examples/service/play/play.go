package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/recvault/recvault/examples/service/internal/session"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

//go:embed play.html
var html string

var page = template.Must(template.New("play").Parse(html))

// view is what a page shows: a list, or one recording.
type view struct {
	keys.GrantDetails
	Patient string
	Left    time.Duration
	Items   []item
	One     *item
}

// item is a recording in the list. It is also the JSON of the list.
type item struct {
	ID         vault.ID      `json:"id"`
	Title      string        `json:"title,omitempty"`
	RecordedAt time.Time     `json:"recorded_at,omitzero"`
	Duration   time.Duration `json:"-"`
	Size       int64         `json:"size"` // bytes
	Problem    string        `json:"problem,omitempty"`
}

func itemOf(info vault.Info) item {
	return item{ID: info.ID, Title: info.Title, RecordedAt: info.RecordedAt, Duration: info.Duration, Size: info.Size}
}

func viewOf(a session.Access) view {
	return view{GrantDetails: a.Grant.Details(), Patient: a.Patient, Left: time.Until(a.Grant.Expires()).Round(time.Second)}
}

// BrokeTheGlass is for the page, which then says so.
func (v view) BrokeTheGlass() bool { return v.Purpose == keys.BreakTheGlass }

// access returns the access of a request. Without one, it answers the request.
func (p *player) access(w http.ResponseWriter, r *http.Request) (session.Access, bool) {
	a, err := p.cookie.Access(r)
	if err != nil {
		p.failed(w, r, keys.ErrInvalidGrant)
	}
	return a, err == nil
}

// failed answers a request with why the vault refused. A browser whose grant has ended goes to the login.
func (p *player) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the browser has left
	}
	status, text := vault.HTTPStatus(err)
	if errors.Is(err, keys.ErrInvalidGrant) && !wantsJSON(r) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if status >= http.StatusInternalServerError {
		p.log.Error("request", "route", r.Pattern, "error", err)
	}
	http.Error(w, text, status)
}

func wantsJSON(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "application/json")
}

// list lists the recordings of the grant's patient with their titles. One that is damaged does not hide the others.
func (p *player) list(w http.ResponseWriter, r *http.Request) {
	a, ok := p.access(w, r)
	if !ok {
		return
	}
	found, err := p.vault.ListInfo(r.Context(), a.Grant)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	items := make([]item, 0, len(found))
	for _, recording := range found {
		it := itemOf(recording.Info)
		if recording.Err != nil {
			it = item{ID: recording.ID}
			_, it.Problem = vault.HTTPStatus(recording.Err)
		}
		items = append(items, it)
	}
	v := viewOf(a)
	v.Items = items
	p.show(w, r, v, items)
}

// play shows one recording with a player.
func (p *player) play(w http.ResponseWriter, r *http.Request) {
	a, ok := p.access(w, r)
	if !ok {
		return
	}
	id, err := vault.ParseID(r.PathValue("id"))
	if err != nil {
		p.failed(w, r, err)
		return
	}
	info, err := p.vault.Stat(r.Context(), a.Grant, id)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	it := itemOf(info)
	v := viewOf(a)
	v.One = &it
	p.show(w, r, v, it)
}

// media answers the player's requests, of which there are many, with ranges.
func (p *player) media(w http.ResponseWriter, r *http.Request) {
	a, err := p.cookie.Access(r)
	if err != nil {
		status, text := vault.HTTPStatus(keys.ErrInvalidGrant)
		http.Error(w, text, status)
		return
	}
	id, _ := vault.ParseID(r.PathValue("id")) // no recording has the zero ID
	p.vault.ServeRecording(w, r, a.Grant, id)
}

// show shows a page, or the same as JSON.
func (p *player) show(w http.ResponseWriter, r *http.Request, v view, asJSON any) {
	var err error
	if wantsJSON(r) {
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(w).Encode(asJSON)
	} else {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		err = page.Execute(w, v)
	}
	if err != nil {
		p.log.Warn("page", "error", err)
	}
}
