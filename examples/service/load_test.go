package service_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
)

// The tokens of login and ingest, and all grants, live this long at most.
const tokenLife = 10 * time.Second

// Under load, no request fails that should not while all tokens end every 10 seconds. A grant that has ended is the one
// reason to be refused, and the user signs in again.
func TestServiceUnderLoad(t *testing.T) {
	duration, err := time.ParseDuration(cmp.Or(os.Getenv("RECVAULT_SERVICE"), "25s"))
	require.NoError(t, err)
	s := serve(t, testserver.Lifetime{TTL: tokenLife / 2, Max: tokenLife}, tokenLife)
	const others = 50
	for i := range others {
		_, err := s.Keyring(testdeployment.Enroller).Enrol(t.Context(), keys.Patient(fmt.Sprint("other-", i)))
		require.NoError(t, err)
	}
	ids := map[string]string{}
	for account, patient := range map[string]string{"amina": amina, "thomas": thomas} {
		for range 3 {
			ids[account] = s.mustUpload(t, patient, "Follow-up")
		}
	}
	var requests, uploads, endedGrants atomic.Int64
	var group sync.WaitGroup
	end := time.Now().Add(duration)
	repeat := func(times int, work func() error) {
		for range times {
			group.Go(func() {
				for time.Now().Before(end) && !t.Failed() {
					assert.NoError(t, work())
				}
			})
		}
	}
	want := func(a answer, err error, status int) error {
		requests.Add(1)
		if err == nil && a.status != status {
			err = fmt.Errorf("%s: %d instead of %d: %s", a.url, a.status, status, a.body)
		}
		return err
	}

	repeat(2, func() error { // recorders
		media := sample.Video[:1+rand.IntN(len(sample.Video))]
		a, err := s.upload(recorderKey, fmt.Sprint("other-", rand.IntN(others)), "Consultation", bytes.NewReader(media))
		uploads.Add(1)
		return want(a, err, http.StatusCreated)
	})
	// play uses a grant until it ends, and reports whether it ended no earlier than it should.
	play := func(b *browser, account string, until time.Time) error {
		leave := time.Now().Add(tokenLife) // half of the users sign out before their grant ends
		if rand.IntN(2) == 0 {
			leave = time.Now().Add(rand.N(tokenLife / 2))
		}
		for time.Now().Before(end) {
			if time.Now().After(leave) && time.Now().Before(until) {
				a, err := b.post("/logout")
				return want(a, err, http.StatusOK)
			}
			from := rand.IntN(len(sample.Video) - 1)
			to := from + rand.IntN(min(200_000, len(sample.Video)-from))
			a, err := b.get("/recordings/"+ids[account]+"/media", "Range", fmt.Sprintf("bytes=%d-%d", from, to))
			if err == nil && a.status == http.StatusUnauthorized && time.Now().After(until) {
				endedGrants.Add(1)
				return nil
			}
			if err := want(a, err, http.StatusPartialContent); err != nil {
				return err
			}
			if !bytes.Equal(a.body, sample.Video[from:to+1]) {
				return fmt.Errorf("bytes %d to %d are not those that were recorded", from, to)
			}
			if rand.IntN(10) > 0 {
				continue
			}
			a, err = b.get("/recordings", "Accept", "application/json")
			if err == nil && a.status == http.StatusUnauthorized && time.Now().After(until) {
				endedGrants.Add(1)
				return nil
			}
			var items []listed
			if err := want(a, err, http.StatusOK); err != nil {
				return err
			}
			if err := json.Unmarshal(a.body, &items); err != nil {
				return err
			}
			if len(items) != 3 {
				return fmt.Errorf("a list of %d recordings instead of 3", len(items))
			}
		}
		return nil
	}
	for account := range ids {
		repeat(2, func() error { // patients
			b, start := s.browser(), time.Now()
			a, err := b.signIn(account)
			if err := want(a, err, http.StatusOK); err != nil {
				return err
			}
			return play(b, account, start.Add(tokenLife-time.Second)) // Vault counts in seconds
		})
	}
	repeat(1, func() error { // a clinician
		b := s.browser()
		a, err := b.signIn("dr-novak")
		if err := want(a, err, http.StatusOK); err != nil {
			return err
		}
		start := time.Now()
		a, err = b.post("/access", "patient", "thomas", "purpose", "BTG", "reason", "emergency")
		if err := want(a, err, http.StatusOK); err != nil {
			return err
		}
		return play(b, "thomas", start.Add(tokenLife-time.Second))
	})
	group.Wait()

	renewed := s.countLogins(t)
	t.Logf("%v: %d requests, of which %d uploads; %d logins at Vault by the service; %d grants ended during play",
		duration, requests.Load(), uploads.Load(), renewed, endedGrants.Load())
	assert.GreaterOrEqual(t, renewed, 2*int(duration/tokenLife), "the tokens did not end during the test")
	assert.Positive(t, endedGrants.Load())
}

// countLogins counts the logins of login and ingest in Vault's audit log.
func (s *service) countLogins(t *testing.T) (n int) {
	t.Helper()
	file, err := os.Open(s.Vault.AuditFile())
	require.NoError(t, err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		for _, path := range s.logins {
			if strings.Contains(lines.Text(), `"type":"response"`) && strings.Contains(lines.Text(), path) {
				n++
			}
		}
	}
	require.NoError(t, lines.Err())
	return n
}
