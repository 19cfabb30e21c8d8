package main

import (
	"maps"
	"sync"
	"time"

	"github.com/recvault/recvault/examples/service/internal/session"
	"github.com/recvault/recvault/keys"
)

// sessions knows which sessions have ended before their cookies, and the grants of the others, so that a logout ends them all.
// It is in memory, so after a restart the sessions from before count as ended: users sign in again, and their grants last
// until their TTL. Several replicas of login need a shared store.
type sessions struct {
	before time.Time // sessions that started before this have ended

	mu   sync.Mutex
	byID map[string]*known
}

type known struct {
	until  time.Time // when the session's cookie ends
	ended  bool
	grants []keys.Grant
}

// of returns what is known of a session, and forgets what has expired. The caller holds the mutex.
func (s *sessions) of(of session.Session) *known {
	now := time.Now()
	found := s.byID[of.ID]
	if found == nil {
		maps.DeleteFunc(s.byID, func(_ string, k *known) bool { return now.After(k.until) })
		found = &known{until: of.Start.Add(sessionTTL), ended: of.Start.Before(s.before)}
		s.byID[of.ID] = found
	}
	return found
}

// live reports whether a session has not ended.
func (s *sessions) live(of session.Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.of(of).ended
}

// add gives a live session a grant, and returns those that it had. If the session has ended, it returns false.
func (s *sessions) add(of session.Session, grant keys.Grant) (had []keys.Grant, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.of(of)
	if found.ended {
		return nil, false
	}
	had, found.grants = found.grants, []keys.Grant{grant}
	return had, true
}

// end ends a session and returns its grants.
func (s *sessions) end(of session.Session) (had []keys.Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.of(of)
	had, found.grants, found.ended = found.grants, nil, true
	return had
}

// keep remembers grants that could not be ended, for the next attempt.
func (s *sessions) keep(of session.Session, grants []keys.Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.of(of)
	found.grants = append(found.grants, grants...)
}
