// Package service_test runs the three processes on a real Vault and a real MinIO, behind one address, as in production: each
// with its own login at Vault and its own credentials for the bucket.
//
//	make service    # ten minutes under load, with tokens that live 10 seconds
package service_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/examples/service/internal/front"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
)

// programs is the directory of the three programs, built once for all tests.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if programs, err = os.MkdirTemp("", "recvault-service-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(programs)
		build := []string{"build", "-o", programs + "/"}
		if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
			build = append(build, "-race")
		}
		if printed, err := exec.Command("go", append(build, "./login", "./ingest", "./play")...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the service: %v\n%s", err, printed)
			return 1
		}
		return m.Run()
	}())
}

const (
	password    = "consultation"            // of every account in users.json
	amina       = "hospital-number-7340012" // whose account is amina
	thomas      = "hospital-number-7340145"
	recorderKey = "a-recorder-of-the-clinic"
	drain       = 2 * time.Second
)

// service is the three processes behind one address.
type service struct {
	*testdeployment.Deployment
	front               *httptest.Server
	accessKey           string   // the file that login and play share
	logins              []string // the paths at Vault where login and ingest log in
	login, ingest, play *process
}

// process is one of them.
type process struct {
	name          string
	addr, metrics string
	cmd           *exec.Cmd
	ended         chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// serve starts the three. Their tokens at Vault live as long as life says.
func serve(t *testing.T, life testserver.Lifetime, grantTTL time.Duration) *service {
	t.Helper()
	d := testdeployment.Servers(t)
	for _, patient := range []keys.Patient{amina, thomas} {
		_, err := d.Keyring(testdeployment.Enroller).Enrol(t.Context(), patient)
		require.NoError(t, err)
	}
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	key := func() string {
		random := make([]byte, 64)
		_, _ = rand.Read(random) // never fails
		return file(hex.EncodeToString(random) + "\n")
	}
	s := &service{Deployment: d, accessKey: key()}
	asRole := func(role string) []string {
		l := d.Vault.AppRole(t, role, life)
		s.logins = append(s.logins, "auth/"+l.Mount+"/login")
		return []string{"VAULT_APPROLE_MOUNT=" + l.Mount, "VAULT_ROLE_ID=" + l.Role, "VAULT_SECRET_ID_FILE=" + l.File}
	}
	s.login = s.start(t, "login", asRole("granter"), "-users", "users.json", "-session-key", key(), "-access-key", s.accessKey, "-grant-ttl", grantTTL.String())
	s.ingest = s.start(t, "ingest", append(asRole("writer"), s.bucketAs(t, "write")...), "-recorder-key", file(recorderKey+"\n"))
	s.play = s.start(t, "play", s.bucketAs(t, "read"), "-access-key", s.accessKey)
	proxy := front.Handler(s.login.addr, s.ingest.addr, s.play.addr)
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.front = httptest.NewTLSServer(proxy)
	t.Cleanup(s.front.Close)
	return s
}

// bucketAs returns credentials with a policy of docs/operations.md, for the bucket of the test.
func (s *service) bucketAs(t *testing.T, policy string) []string {
	t.Helper()
	manual, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?ms)^" + policy + ":\n\n```json\n(.*?)```").FindSubmatch(manual)
	require.NotNil(t, found, "docs/operations.md has no policy %s", policy)
	temporary, err := credentials.NewSTSAssumeRole("http://"+s.Place.Endpoint, credentials.STSAssumeRoleOptions{
		AccessKey: s.Place.AccessKey, SecretKey: s.Place.SecretKey, DurationSeconds: 3600,
		Policy: strings.ReplaceAll(string(found[1]), "consultations", s.Place.Bucket),
	})
	require.NoError(t, err)
	value, err := temporary.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
	require.NoError(t, err)
	return []string{
		"AWS_ACCESS_KEY_ID=" + value.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + value.SecretAccessKey,
		"AWS_SESSION_TOKEN=" + value.SessionToken, "AWS_ENDPOINT_URL=http://" + s.Place.Endpoint, "RECVAULT_BUCKET=" + s.Place.Bucket,
	}
}

// start starts a process, waits until it serves, and stops it when the test ends. Its environment has nothing but env.
func (s *service) start(t *testing.T, name string, env []string, flags ...string) *process {
	t.Helper()
	p := &process{name: name, ended: make(chan struct{})}
	flags = append(flags, "-drain", drain.String(), "-addr", "127.0.0.1:0", "-metrics-addr", "127.0.0.1:0", "-mount", s.Place.Mount, "-policies", s.Place.Prefix)
	p.cmd = exec.Command(filepath.Join(programs, name), flags...)
	p.cmd.Env = append(env, "VAULT_ADDR="+s.Place.Vault)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
			assert.Zero(t, p.cmd.ProcessState.ExitCode(), "%s ended with\n%s", name, p.printed())
		case <-time.After(30 * time.Second):
			t.Errorf("%s did not end:\n%s", name, p.printed())
			_ = p.cmd.Process.Kill()
		}
	})
	p.awaitLog(t, `"serving"`)
	line := regexp.MustCompile(`"serving".*"addr":"([^"]+)","metrics":"([^"]+)"`).FindStringSubmatch(p.printed())
	require.NotNil(t, line)
	p.addr, p.metrics = line[1], line[2]
	return p
}

func (p *process) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(line)
}

func (p *process) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) awaitLog(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(p.printed(), text) }, 30*time.Second, 10*time.Millisecond,
		"%s does not log %s", p.name, text)
}

// metric returns the page of metrics.
func (p *process) metric(t *testing.T) string {
	t.Helper()
	response, err := http.Get("http://" + p.metrics + "/metrics")
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(text)
}

// browser is a user's: it keeps cookies and follows redirects.
type browser struct {
	*http.Client
	base string
	jar  *cookiejar.Jar
}

func (s *service) browser() *browser {
	jar, _ := cookiejar.New(nil) // never fails without options
	client := *s.front.Client()
	client.Jar, client.Timeout = jar, time.Minute
	return &browser{Client: &client, base: s.front.URL, jar: jar}
}

// answer is a response that was read.
type answer struct {
	status int
	body   []byte
	header http.Header
	url    string
}

func (b *browser) do(r *http.Request) (answer, error) {
	response, err := b.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, body, response.Header, response.Request.URL.Path}, err
}

// get requests a path, with header fields in pairs.
func (b *browser) get(path string, fields ...string) (answer, error) {
	r, err := http.NewRequest(http.MethodGet, b.base+path, nil)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return b.do(r)
}

// post sends a form, whose fields are given in pairs.
func (b *browser) post(path string, fields ...string) (answer, error) {
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	r, err := http.NewRequest(http.MethodPost, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

func (b *browser) address(t *testing.T) *url.URL {
	t.Helper()
	address, err := url.Parse(b.base)
	require.NoError(t, err)
	return address
}

func (b *browser) cookie(t *testing.T, name string) *http.Cookie {
	t.Helper()
	for _, cookie := range b.jar.Cookies(b.address(t)) {
		if cookie.Name == name {
			return cookie
		}
	}
	require.FailNow(t, "there is no cookie "+name)
	return nil
}

func (b *browser) signIn(account string) (answer, error) {
	return b.post("/login", "account", account, "password", password)
}

type listed struct {
	ID    string `json:"id"`
	Title string `json:"title"`
}

func (b *browser) list() ([]listed, answer, error) {
	a, err := b.get("/recordings", "Accept", "application/json")
	if err != nil || a.status != http.StatusOK {
		return nil, a, err
	}
	var items []listed
	return items, a, json.Unmarshal(a.body, &items)
}

// upload sends a recording as a recorder does. The media comes last.
func (s *service) upload(key, patient, title string, media io.Reader) (answer, error) {
	body, form := io.Pipe()
	writer := multipart.NewWriter(form)
	go func() {
		err := func() error {
			for _, field := range [][2]string{{"patient", patient}, {"title", title}, {"recorded_at", "2026-11-26T09:00:00Z"}} {
				if err := writer.WriteField(field[0], field[1]); err != nil {
					return err
				}
			}
			part, err := writer.CreatePart(map[string][]string{
				"Content-Disposition": {`form-data; name="recording"; filename="consultation.webm"`}, "Content-Type": {sample.ContentType},
			})
			if err != nil {
				return err
			}
			if _, err := io.Copy(part, media); err != nil {
				return err
			}
			return writer.Close()
		}()
		form.CloseWithError(err)
	}()
	r, err := http.NewRequest(http.MethodPost, s.front.URL+"/recordings", body)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", writer.FormDataContentType())
	r.Header.Set("Authorization", "Bearer "+key)
	return s.browser().do(r)
}

func (s *service) mustUpload(t *testing.T, patient, title string) string {
	t.Helper()
	a, err := s.upload(recorderKey, patient, title, bytes.NewReader(sample.Video))
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, a.status, "%s", a.body)
	var stored listed
	require.NoError(t, json.Unmarshal(a.body, &stored))
	return stored.ID
}
