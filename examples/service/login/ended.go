package main

import (
	"maps"
	"sync"
	"time"

	"github.com/recvault/recvault/examples/service/internal/session"
)

// ended knows the sessions that have ended before their cookies. It is in memory, so after a restart all sessions from
// before count as ended: clinicians sign in again, and what plays goes on. Several replicas of login need a shared store.
type ended struct {
	before time.Time // sessions that started before this have ended

	mu    sync.Mutex
	until map[string]time.Time // by session: when its cookie ends by itself
}

func (e *ended) add(s session.Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(e.until, func(_ string, until time.Time) bool { return now.After(until) })
	if e.until == nil {
		e.until = map[string]time.Time{}
	}
	e.until[s.ID] = now.Add(sessionTTL)
}

func (e *ended) has(s session.Session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, has := e.until[s.ID]
	return has || s.Start.Before(e.before)
}
