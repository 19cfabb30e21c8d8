package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/internal/deployment"
	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault/events"
)

// running is a portal behind a test server.
type running struct {
	*portal
	deployment *deployment.Deployment
	url        string
}

// start runs a portal on the servers that the environment names. logs are the files of Vault's audit log.
func start(t *testing.T, logs ...string) *running {
	t.Helper()
	p := prepare(t, logs...)
	server := httptest.NewServer(p.handler(loopback))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// prepare makes a portal that is not served yet.
func prepare(t *testing.T, logs ...string) *running {
	t.Helper()
	d, err := deployment.New(t.Context(), "portal", tokenTTL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Remove()) })
	require.NoError(t, seed(t.Context(), d, people))
	p, err := newPortal(d, people, time.Minute, logs)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.close()) })
	return &running{portal: p, deployment: d}
}

// startEmbedded runs a portal on the embedded default.
func startEmbedded(t *testing.T) *running {
	t.Helper()
	setEmbedded(t)
	return start(t)
}

// setEmbedded chooses the embedded default.
func setEmbedded(t *testing.T) {
	t.Helper()
	t.Setenv("VAULT_ADDR", "")
	t.Setenv("AWS_ENDPOINT_URL", "")
	t.Setenv("TMPDIR", t.TempDir())
}

// browser is a client with cookies of its own. It does not follow redirects.
type browser struct {
	t      *testing.T
	client *http.Client
	portal *running
}

// browse returns a browser in which an account is signed in, or none if it is "".
func (p *running) browse(t *testing.T, account string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	b := &browser{t, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, p}
	if account != "" {
		answer, text := b.post("/login", url.Values{"account": {account}})
		require.Equal(t, http.StatusSeeOther, answer.StatusCode, text)
	}
	return b
}

func (b *browser) get(path string) (*http.Response, string) {
	b.t.Helper()
	return b.send(http.MethodGet, path, nil, nil)
}

func (b *browser) post(path string, form url.Values) (*http.Response, string) {
	b.t.Helper()
	return b.send(http.MethodPost, path, form, http.Header{"Origin": {b.portal.url}})
}

func (b *browser) send(method, path string, form url.Values, header http.Header) (*http.Response, string) {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.portal.url+path, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	for name, values := range header {
		request.Header[name] = values
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	answer, err := b.client.Do(request)
	require.NoError(b.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(b.t, err)
	return answer, string(text)
}

// session returns the browser's session on the server.
func (b *browser) session() session {
	b.t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	address, err := url.Parse(b.portal.url)
	require.NoError(b.t, err)
	for _, cookie := range b.client.Jar.Cookies(address) {
		request.AddCookie(cookie)
	}
	s, ok := b.portal.server.sessions.of(request)
	require.True(b.t, ok, "no account is signed in")
	return s
}

var (
	ownLink    = regexp.MustCompile(`<li data-recording="([^"]+)"`)
	sealedLink = regexp.MustCompile(`<li class="sealed" data-recording="([^"]+)"`)
)

func found(pattern *regexp.Regexp, text string) []string {
	var all []string
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		all = append(all, match[1])
	}
	return all
}

func TestPatientsSeeAndPlayOnlyTheirOwnConsultations(t *testing.T) {
	p := startEmbedded(t)
	for _, who := range people {
		if who.Role != patientRole {
			continue
		}
		t.Run(who.ID, func(t *testing.T) {
			b := p.browse(t, who.ID)
			answer, text := b.get("/consultations")
			require.Equal(t, http.StatusOK, answer.StatusCode)
			own := found(ownLink, text)
			assert.Len(t, own, len(who.consultations))
			for _, other := range people {
				for _, c := range other.consultations {
					assert.Equal(t, other.ID == who.ID, strings.Contains(text, c.title), "%s sees %q", who.ID, c.title)
				}
			}
			for _, id := range own {
				answer, page := b.get("/consultations/" + id)
				assert.Equal(t, http.StatusOK, answer.StatusCode)
				assert.Contains(t, page, `src="/recordings/`+id+`"`)
				_, video := b.get("/recordings/" + id)
				assert.Equal(t, len(sample.Video), len(video))
				assert.True(t, video == string(sample.Video))
			}
		})
	}
}

func TestARecordingOfANewerReleaseHidesNoOther(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "P-1042")
	_, text := b.get("/consultations")
	own := found(ownLink, text)
	require.Len(t, own, 3)
	name := p.deployment.Prefix + "recordings/" + strings.Replace(own[0], ".", "/", 1) + "/envelope"
	teststore.Write(t, p.deployment.Store, name, []byte(`{"version":2,"shape":"unknown"}`))

	answer, text := b.get("/consultations")
	assert.Equal(t, http.StatusOK, answer.StatusCode)
	assert.ElementsMatch(t, own[1:], found(ownLink, text))
	assert.Equal(t, own[:1], found(sealedLink, text))
	answer, text = b.get("/consultations/" + own[0])
	assert.Equal(t, http.StatusNotImplemented, answer.StatusCode)
	assert.Contains(t, text, "It is not damaged.")
}

func TestTheBugListsEverybodysRecordingsAndOpensNone(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "P-1042")
	answer, _ := b.post("/bug", url.Values{"bug": {"on"}})
	require.Equal(t, http.StatusSeeOther, answer.StatusCode)
	_, text := b.get("/consultations")
	assert.Len(t, found(ownLink, text), 3)
	leaked := found(sealedLink, text)
	assert.Len(t, leaked, 7)
	assert.Contains(t, text, "7 of these are not yours")
	for _, other := range people[1:] {
		for _, c := range other.consultations {
			assert.NotContains(t, text, c.title)
		}
	}
	for _, id := range leaked {
		answer, body := b.send(http.MethodGet, "/recordings/"+id, nil, http.Header{"Range": {"bytes=1000-"}})
		assert.Equal(t, http.StatusForbidden, answer.StatusCode)
		assert.Less(t, len(body), 100, "one line")

		answer, page := b.get("/consultations/" + id)
		assert.Equal(t, http.StatusForbidden, answer.StatusCode)
		assert.Contains(t, page, "The key was refused, not the URL")
		assert.Contains(t, page, b.session().Access.Grant.KeyID().String())
		assert.Contains(t, page, "<dd><code>"+id[:strings.Index(id, ".")]+"</code></dd>")
	}

	require.EventuallyWithT(t, func(t *assert.CollectT) {
		reported := map[string]int{}
		alerts, _ := p.server.events.snapshot()
		for _, alert := range alerts {
			assert.Equal(t, events.WrongPatient, alert.Kind)
			assert.Equal(t, "P-1042", alert.Grant.Subject)
			assert.Equal(t, b.session().Access.Grant.KeyID(), alert.Grant.KeyID)
			reported[alert.Recording.String()] = alert.Attempts
		}
		for _, id := range leaked {
			assert.Equal(t, 3, reported[id], "the listing, the page and the player")
		}
		assert.Len(t, reported, len(leaked))
	}, 10*time.Second, 10*time.Millisecond)
	_, page := b.get("/consultations/" + leaked[0])
	assert.Contains(t, page, `data-recording="`+leaked[0]+`"`)

	b.post("/bug", url.Values{"bug": {"off"}})
	_, text = b.get("/consultations")
	assert.Empty(t, found(sealedLink, text))
}

// TestTheServingHalfCannotIssueGrants checks which methods the serving half gets: the embedded keyring itself
// can do everything. On Vault the half has no token: see TestTheServingHalfHasNoRightOnRealServers.
func TestTheServingHalfCannotIssueGrants(t *testing.T) {
	p := startEmbedded(t)
	for role, holds := range map[string]bool{
		"granter":  holds[keys.Granter](p.deployment.Server),
		"enroller": holds[keys.Enroller](p.deployment.Server),
		"revoker":  holds[keys.Revoker](p.deployment.Server),
		"rotator":  holds[keys.Rotator](p.deployment.Server),
		"eraser":   holds[keys.Eraser](p.deployment.Server),
	} {
		t.Run(role, func(t *testing.T) { assert.False(t, holds) })
	}
	assert.True(t, holds[keys.Granter](p.login.granter))

	granter := reflect.TypeFor[keys.Granter]()
	half := reflect.TypeFor[server]()
	for i := range half.NumField() {
		field := half.Field(i)
		assert.False(t, field.Type.Implements(granter), field.Name)
		assert.NotEqual(t, reflect.TypeFor[*login](), field.Type, field.Name)
	}
}

// holds reports whether a keyring has the methods of a role.
func holds[Role any](keyring any) bool {
	_, ok := keyring.(Role)
	return ok
}

func TestTheLoginDecidesByCareAndPurpose(t *testing.T) {
	l := &login{people: people}
	novak, ok := find(people, "dr-novak")
	require.True(t, ok)
	for _, c := range []struct {
		name  string
		asked request
		want  string // part of the problem; "" if access is given
	}{
		{"treatment of a patient in care", request{"P-1042", keys.Treatment, ""}, ""},
		{"treatment of another's patient", request{"P-1305", keys.Treatment, "curious"}, "not in your care"},
		{"emergency with a reason", request{"P-1305", keys.BreakTheGlass, "unconscious"}, ""},
		{"emergency without a reason", request{"P-1305", keys.BreakTheGlass, ""}, "give a reason"},
		{"emergency in care without a reason", request{"P-1042", keys.BreakTheGlass, ""}, "give a reason"},
		{"another purpose", request{"P-1042", keys.Research, "a study"}, "Choose a purpose"},
		{"no purpose", request{"P-1042", "", "please"}, "Choose a purpose"},
		{"no patient", request{"", keys.Treatment, ""}, "Choose a patient"},
		{"nobody", request{"P-9999", keys.BreakTheGlass, "unconscious"}, "Choose a patient"},
		{"somebody who is no patient", request{"security-desk", keys.BreakTheGlass, "unconscious"}, "Choose a patient"},
		{"a reason without end", request{"P-1305", keys.BreakTheGlass, strings.Repeat("x", keys.MaxReasonLen+1)}, "longer than"},
		{"a reason with an escape", request{"P-1305", keys.BreakTheGlass, "a\x1b[31m"}, "cannot be shown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			of, problem := l.decide(novak, c.asked)
			if c.want == "" {
				assert.Empty(t, problem)
				assert.Equal(t, c.asked.Account, of.ID)
				return
			}
			assert.Contains(t, problem, c.want)
		})
	}
}

func TestAClinicianSeesOnePatientAtATimeAndIsOnRecord(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "dr-novak")
	answer, _ := b.get("/consultations")
	assert.Equal(t, "/patients", answer.Header.Get("Location"), "there is nothing to see yet")
	answer, text := b.post("/access", url.Values{"patient": {"P-1305"}, "purpose": {"TREAT"}})
	assert.Equal(t, http.StatusUnprocessableEntity, answer.StatusCode)
	assert.Contains(t, text, "Lukas Hoang is not in your care")
	assert.True(t, b.session().Access.Grant.IsZero(), "no grant was issued")

	b.post("/access", url.Values{"patient": {"P-1042"}, "purpose": {"TREAT"}})
	_, text = b.get("/consultations")
	assert.Contains(t, text, "Consultations of Amina Rahman")
	first := found(ownLink, text)
	require.Len(t, first, 3)
	before := b.session().Access.Grant
	assert.Equal(t, keys.Treatment, before.Details().Purpose)
	assert.Equal(t, "dr-novak", before.Details().Subject)

	b.post("/access", url.Values{"patient": {"P-1305"}, "purpose": {"BTG"}, "reason": {"Found <b>unconscious</b>"}})
	_, text = b.get("/consultations")
	assert.Contains(t, text, "Counselling session 5")
	answer, _ = b.get("/recordings/" + first[0])
	assert.Equal(t, http.StatusForbidden, answer.StatusCode, "the first patient's are out of reach")
	assert.ErrorIs(t, p.deployment.Server.RevokeSelf(t.Context(), before), keys.ErrInvalidGrant, "the first grant has ended")

	_, text = p.browse(t, "security-desk").get("/security")
	assert.Contains(t, text, "Found &lt;b&gt;unconscious")
	assert.Contains(t, text, b.session().Access.Grant.Details().RequestID)
	assert.Contains(t, text, before.Details().RequestID)
}

func TestAnAccessThatWasGivenUpIsRefusedByTheKeyring(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "dr-novak")
	b.post("/access", url.Values{"patient": {"P-1042"}, "purpose": {"TREAT"}})
	_, text := b.get("/consultations")
	id := found(ownLink, text)[0]
	answer, _ := b.get("/recordings/" + id)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	answer, _ = b.post("/access/end", nil)
	require.Equal(t, http.StatusSeeOther, answer.StatusCode)
	answer, _ = b.get("/recordings/" + id)
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode, "at once, although the key was cached")
	for _, path := range []string{"/consultations", "/consultations/" + id} {
		answer, text = b.get(path)
		assert.Equal(t, http.StatusForbidden, answer.StatusCode)
		assert.Contains(t, text, "Your access has ended")
	}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		alerts, _ := p.server.events.snapshot()
		if assert.NotEmpty(t, alerts) {
			assert.Equal(t, events.Refused, alerts[0].Kind)
		}
	}, 10*time.Second, 10*time.Millisecond)
}

func TestSigningOutEndsEveryCopyOfTheGrant(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "P-1042")
	grant := b.session().Access.Grant
	answer, _ := b.post("/logout", nil)
	assert.Equal(t, http.StatusSeeOther, answer.StatusCode)
	assert.ErrorIs(t, p.deployment.Server.RevokeSelf(t.Context(), grant), keys.ErrInvalidGrant)
	answer, _ = b.get("/consultations")
	assert.Equal(t, "/", answer.Header.Get("Location"))

	b = p.browse(t, "P-1042")
	grant = b.session().Access.Grant
	b.post("/login", url.Values{"account": {"P-1107"}})
	assert.ErrorIs(t, p.deployment.Server.RevokeSelf(t.Context(), grant), keys.ErrInvalidGrant, "so does signing in as somebody else")
}

func TestEachPageIsForItsRoleOnly(t *testing.T) {
	p := startEmbedded(t)
	_, text := p.browse(t, "P-1042").get("/consultations")
	id := found(ownLink, text)[0]
	for _, c := range []struct {
		account, method, path string
		status                int
		location              string
	}{
		{"", "GET", "/", 200, ""},
		{"", "GET", "/consultations", 303, "/"},
		{"", "GET", "/consultations/" + id, 303, "/"},
		{"", "GET", "/recordings/" + id, 303, "/"},
		{"", "GET", "/events", 303, "/"},
		{"", "GET", "/security", 303, "/"},
		{"", "GET", "/security/report", 303, "/"},
		{"", "GET", "/accesses", 303, "/"},
		{"", "GET", "/patients", 303, "/"},
		{"", "POST", "/bug", 303, "/"},
		{"", "POST", "/access", 303, "/"},
		{"", "POST", "/access/end", 303, "/"},
		{"", "POST", "/login", 400, ""},
		{"P-1042", "GET", "/", 303, "/consultations"},
		{"P-1042", "GET", "/security", 403, ""},
		{"P-1042", "GET", "/security/report", 403, ""},
		{"P-1042", "GET", "/accesses", 200, ""},
		{"P-1042", "GET", "/patients", 403, ""},
		{"P-1042", "POST", "/access", 403, ""},
		{"P-1042", "GET", "/consultations/none", 404, ""},
		{"P-1042", "GET", "/recordings/none", 404, ""},
		{"P-1042", "POST", "/recordings/" + id, 405, ""},
		{"dr-novak", "GET", "/", 303, "/patients"},
		{"dr-novak", "GET", "/security", 403, ""},
		{"dr-novak", "GET", "/security/report", 403, ""},
		{"dr-novak", "GET", "/accesses", 403, ""},
		{"dr-novak", "GET", "/recordings/" + id, 403, ""},
		{"security-desk", "GET", "/", 303, "/security"},
		{"security-desk", "GET", "/security/report", 200, ""},
		{"security-desk", "GET", "/security/report?patient=P-1042", 400, ""},
		{"security-desk", "GET", "/accesses", 403, ""},
		{"security-desk", "GET", "/recordings/" + id, 403, ""},
		{"security-desk", "GET", "/consultations/" + id, 303, "/security"},
	} {
		name := cmp.Or(c.account, "nobody") + " " + c.method + strings.NewReplacer("/", " ", "?", " ", id, "ID").Replace(c.path)
		t.Run(name, func(t *testing.T) {
			b := p.browse(t, c.account)
			var answer *http.Response
			if c.method == http.MethodGet {
				answer, _ = b.get(c.path)
			} else {
				answer, _ = b.post(c.path, nil)
			}
			assert.Equal(t, c.status, answer.StatusCode)
			assert.Equal(t, c.location, answer.Header.Get("Location"))
		})
	}
	assert.False(t, p.server.listings.bugged.Load())
}

func TestOtherSitesCannotMakeABrowserPost(t *testing.T) {
	p := startEmbedded(t)
	for name, header := range map[string]http.Header{
		"another origin":             {"Origin": {"https://evil.example"}},
		"origin null":                {"Origin": {"null"}},
		"cross-site without origin":  {"Sec-Fetch-Site": {"cross-site"}},
		"same site and another port": {"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := p.browse(t, "dr-novak")
			for path, form := range map[string]url.Values{
				"/bug":        {"bug": {"on"}},
				"/access":     {"patient": {"P-1042"}, "purpose": {"TREAT"}},
				"/access/end": nil,
				"/login":      {"account": {"P-1042"}},
				"/logout":     nil,
			} {
				answer, _ := b.send(http.MethodPost, path, form, header)
				assert.Equal(t, http.StatusForbidden, answer.StatusCode, path)
			}
			assert.Equal(t, "dr-novak", b.session().ID)
			assert.True(t, b.session().Access.Grant.IsZero())
		})
	}
	assert.False(t, p.server.listings.bugged.Load())

	answer, _ := p.browse(t, "").post("/login", url.Values{"account": {"P-1042"}})
	cookies := answer.Cookies()
	require.Len(t, cookies, 1)
	assert.True(t, cookies[0].HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, cookies[0].SameSite)
	assert.GreaterOrEqual(t, len(cookies[0].Value), 26, "130 bits in base32")
}

func TestAnswersHoldNoSecretAndLetNoScriptIn(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "P-1042")
	clinician := p.browse(t, "dr-novak")
	clinician.post("/access", url.Values{"patient": {"P-1305"}, "purpose": {"BTG"}, "reason": {"unconscious"}})
	b.post("/bug", url.Values{"bug": {"on"}})
	_, text := b.get("/consultations")
	paths := []string{
		"/", "/consultations", "/consultations/" + found(ownLink, text)[0], "/consultations/" + found(sealedLink, text)[0],
		"/recordings/" + found(sealedLink, text)[0], "/security", "/security/report", "/accesses", "/patients",
		"/static/portal.js", "/nowhere",
	}
	secrets := []string{"hospital-number", p.deployment.Run, "recvault-grant-1."}
	p.server.sessions.mu.Lock()
	for cookie, session := range p.server.sessions.byCookie {
		secrets = append(secrets, cookie)
		if !session.Access.Grant.IsZero() {
			secrets = append(secrets, session.Access.Grant.Token())
		}
	}
	p.server.sessions.mu.Unlock()
	require.GreaterOrEqual(t, len(secrets), 7)
	for _, who := range []*browser{b, clinician, p.browse(t, "security-desk"), p.browse(t, "")} {
		for _, path := range paths {
			answer, text := who.get(path)
			var all bytes.Buffer
			require.NoError(t, answer.Header.Write(&all))
			all.WriteString(text)
			for _, secret := range secrets {
				assert.NotContains(t, all.String(), secret, path)
			}
			assert.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'none'")
			assert.NotContains(t, answer.Header.Get("Content-Security-Policy"), "unsafe")
			assert.Contains(t, answer.Header.Get("Cache-Control"), "no-store")
			assert.NotRegexp(t, `<script>| on[a-z]+="| style="`, text, "it would not run under the policy")
		}
	}
}

func TestEventsArriveOnAnOpenPage(t *testing.T) {
	p := startEmbedded(t)
	desk, b := p.browse(t, "security-desk"), p.browse(t, "P-1042")
	_, text := p.browse(t, "P-1107").get("/consultations")
	foreign := found(ownLink, text)[0]

	ctx, leave := context.WithTimeout(t.Context(), 10*time.Second)
	defer leave()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/events", nil)
	require.NoError(t, err)
	stream, err := desk.client.Do(request)
	require.NoError(t, err)
	defer stream.Body.Close()
	assert.Equal(t, "text/event-stream", stream.Header.Get("Content-Type"))
	until := func(want string) error {
		var seen []byte
		buffer := make([]byte, 4096)
		for !bytes.Contains(seen, []byte(want)) {
			n, err := stream.Body.Read(buffer)
			if err != nil {
				return errors.Join(err, errors.New(string(seen)))
			}
			seen = append(seen, buffer[:n]...)
		}
		return nil
	}
	require.NoError(t, until("Nothing to report"))
	attempt := time.Now()
	b.get("/recordings/" + foreign)
	require.NoError(t, until(`data-recording="`+foreign+`"`))
	assert.Less(t, time.Since(attempt), time.Second)
}

func TestAFloodOfEventsLeavesThePanelBounded(t *testing.T) {
	p := newPanel()
	keyID := keys.NewKeyID(make([]byte, keys.KeyIDBytes))
	again := events.Event{Kind: events.WrongPatient, Recording: keystest.NewRecordingID(keyID), Count: 2}
	require.NoError(t, p.add(again))
	for range 10 * maxAlerts {
		require.NoError(t, p.add(events.Event{Kind: events.WrongPatient, Recording: keystest.NewRecordingID(keyID), Count: 1}))
	}
	require.NoError(t, p.add(again))
	require.NoError(t, p.add(events.Event{Kind: events.Opened, Recording: again.Recording, Count: 1}), "what went well is not shown")
	require.NoError(t, p.add(again))
	alerts, _ := p.snapshot()
	require.Len(t, alerts, maxAlerts)
	assert.Equal(t, again, alerts[0].Event)
	assert.Equal(t, 4, alerts[0].Attempts, "since it was last in the panel")
}

func TestTheServingHalfHasNoRightOnRealServers(t *testing.T) {
	server, s3 := testserver.Vault(t), testserver.MinIO(t)
	t.Setenv("VAULT_ADDR", server.Address())
	t.Setenv("VAULT_TOKEN", server.RootToken())
	t.Setenv("AWS_ENDPOINT_URL", "http://"+s3.Endpoint())
	t.Setenv("AWS_REGION", s3.Region())
	t.Setenv("AWS_ACCESS_KEY_ID", s3.AccessKey())
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3.SecretKey())
	t.Setenv("RECVAULT_BUCKET", s3.Bucket())
	t.Setenv("TMPDIR", t.TempDir())
	t.Cleanup(func() { // runs after the portal has removed its objects
		for object := range s3.Client().ListObjects(context.Background(), s3.Bucket(), minio.ListObjectsOptions{Recursive: true}) {
			assert.Fail(t, "left in the bucket", object.Key)
		}
	})
	p := start(t, server.AuditFile())
	patient := p.deployment.Patient(people[0].number)
	_, err := p.deployment.Server.(keys.Granter).Issue(t.Context(), patient, keys.GrantOptions{
		TTL: time.Minute, Subject: "nobody", Purpose: keys.Treatment,
	})
	assert.ErrorIs(t, err, keys.ErrDenied)
	_, err = p.deployment.Server.KeyID(t.Context(), patient)
	assert.ErrorIs(t, err, keys.ErrDenied)

	b := p.browse(t, "P-1042")
	_, text := b.get("/consultations")
	own := found(ownLink, text)
	require.Len(t, own, 3)
	keyID, _, _ := strings.Cut(own[0], ".")
	_, _ = b.get("/consultations/" + own[0])
	described := server.Unwrapped(t, keyID+"-kek")
	assert.GreaterOrEqual(t, len(described), 3)
	for _, context := range described {
		assert.Contains(t, context, "recvault/v1/metadata/", "a page opened a recording")
	}
	_, video := b.get("/recordings/" + own[0])
	assert.True(t, video == string(sample.Video))
	assert.NotContains(t, server.Unwrapped(t, keyID+"-kek")[len(described)], "metadata")
	b.post("/bug", url.Values{"bug": {"on"}})
	_, text = b.get("/consultations")
	leaked := found(sealedLink, text)
	require.Len(t, leaked, 7)
	answer, _ := b.get("/recordings/" + leaked[0])
	assert.Equal(t, http.StatusForbidden, answer.StatusCode)
	_, page := b.get("/consultations/" + leaked[0])
	assert.Contains(t, page, "Vault refused to unlock this key")

	b.post("/bug", url.Values{"bug": {"off"}})
	checkReports(t, p)
}

// checkReports has a clinician watch a patient's recording and try another patient's, and reads what the security desk and
// the patients are shown of that.
func checkReports(t *testing.T, p *running) {
	t.Helper()
	clinician, amina, desk := p.browse(t, "dr-novak"), p.browse(t, "P-1042"), p.browse(t, "security-desk")
	lukas := p.browse(t, "P-1305")
	_, text := lukas.get("/consultations")
	foreign := found(ownLink, text)[0]
	clinician.post("/access", url.Values{"patient": {"P-1042"}, "purpose": {"BTG"}, "reason": {"unconscious"}})
	_, text = clinician.get("/consultations")
	own := found(ownLink, text)[0]
	clinician.get("/recordings/" + own)
	clinician.get("/recordings/" + foreign)

	report := func(query string) string {
		answer, text := desk.get("/security/report" + query)
		require.Equal(t, http.StatusOK, answer.StatusCode, text)
		assert.Contains(t, answer.Header.Get("Content-Security-Policy"), "style-src 'sha256-")
		return text
	}
	text = report("?subject=dr-novak")
	for _, shown := range []string{own, foreign, "wrong_patient", "unconscious", clinician.session().Access.Grant.Details().RequestID} {
		assert.Contains(t, text, shown)
	}
	assert.NotContains(t, text, "<td>P-1305</td>", "another account")
	keyID, _, _ := strings.Cut(foreign, ".")
	text = report("?patient=" + keyID)
	assert.Contains(t, text, foreign)
	assert.NotContains(t, text, own)
	assert.Contains(t, report(""), own)
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		_, text := desk.get("/security")
		assert.Contains(t, text, `href="/security/report?subject=dr-novak"`)
		assert.Contains(t, text, `href="/security/report?patient=`+keyID+`"`)
	}, 10*time.Second, 10*time.Millisecond)
	_, text = clinician.get("/consultations")
	assert.NotContains(t, text, "/security/report", "which is for the desk")

	_, text = amina.get("/accesses")
	others, rest, _ := strings.Cut(text, "</ol>")
	assert.Contains(t, others, "Dr Helen Novak")
	assert.Contains(t, others, "Asthma review: played")
	assert.Contains(t, others, "an emergency, without the usual permission")
	assert.NotContains(t, others, "your own request")
	assert.Regexp(t, `<b>Asthma review</b>`, rest)
	assert.Contains(t, rest, "No attempt was refused.")
	for _, secret := range []string{"unconscious", "request-", "dr-novak", own[:32]} {
		assert.NotContains(t, text, secret)
	}
	_, text = lukas.get("/accesses")
	assert.NotContains(t, text, "Novak", "who was refused is not named")
	assert.Contains(t, text, "Nobody but you has seen a consultation of yours in this time.")
	assert.Regexp(t, `[1-9] attempts? (was|were) refused\.`, text)
}

func TestReportsAreMadeFromTheEventsAlone(t *testing.T) {
	p := startEmbedded(t)
	answer, text := p.browse(t, "security-desk").get("/security/report")
	assert.Equal(t, http.StatusNotFound, answer.StatusCode, text)
	checkReports(t, p)
}

func TestAPatientWhoseAccessEndedIsShownNothing(t *testing.T) {
	p := startEmbedded(t)
	b := p.browse(t, "P-1042")
	require.NoError(t, p.deployment.Server.RevokeSelf(t.Context(), b.session().Access.Grant))
	answer, text := b.get("/accesses")
	assert.Equal(t, http.StatusForbidden, answer.StatusCode)
	assert.Contains(t, text, "Your access has ended")
	assert.NotContains(t, text, "What this means")
}

func TestAuditLogNeedsKeysInVault(t *testing.T) {
	setEmbedded(t)
	err := run(t.Context(), []string{"-addr", "127.0.0.1:0", "-audit", "audit.log"}, io.Discard)
	assert.ErrorContains(t, err, "no audit log")
}

func TestTheCommandServesUntilStoppedAndLeavesNothing(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	t.Setenv("AWS_ENDPOINT_URL", "")
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reader, writer := io.Pipe()
	defer reader.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-addr", "127.0.0.1:0"}, writer)
		writer.Close()
	}()
	out := make([]byte, 1000)
	printed := ""
	address := regexp.MustCompile(`portal: (http://127\.0\.0\.1:\d+/)\n`)
	for !address.MatchString(printed) {
		n, err := reader.Read(out)
		require.NoError(t, err, printed)
		printed += string(out[:n])
	}
	assert.Contains(t, printed, "keys in a temporary directory, recordings in a temporary directory")
	answer, err := http.Get(address.FindStringSubmatch(printed)[1])
	require.NoError(t, err)
	answer.Body.Close()
	assert.Equal(t, http.StatusOK, answer.StatusCode)
	stop()
	require.NoError(t, <-ended)
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	assert.Empty(t, left)
}
