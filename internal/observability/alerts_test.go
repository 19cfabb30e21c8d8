package observability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// command builds the command.
func command(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "recvault")
	build := exec.Command("go", "build", "-o", binary, "./cmd/recvault")
	build.Dir = "../.."
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	return binary
}

// job runs a job for all patients, or an audit, of the command as this role, and has Prometheus scrape its metrics. It returns
// the exit code.
func (s *site) job(t *testing.T, p *prometheus, binary, role, verb string, arguments ...string) int {
	t.Helper()
	place, file := s.d.Place, filepath.Join(p.jobs, strings.ReplaceAll(verb, " ", "_")+".prom")
	if !strings.HasPrefix(verb, "audit ") {
		arguments = append(arguments, "--all")
	}
	run := exec.CommandContext(t.Context(), binary, append(append(strings.Fields(verb), "--metrics-file", file), arguments...)...)
	run.Env = []string{
		"HOME=" + t.TempDir(), "VAULT_ADDR=" + place.Vault, "VAULT_TOKEN=" + place.Tokens[role], "RECVAULT_MOUNT=" + place.Mount,
		"RECVAULT_POLICY_PREFIX=" + place.Prefix, "AWS_ENDPOINT_URL=http://" + place.Endpoint, "RECVAULT_BUCKET=" + place.Bucket,
		"AWS_ACCESS_KEY_ID=" + place.AccessKey, "AWS_SECRET_ACCESS_KEY=" + place.SecretKey,
	}
	output, _ := run.CombinedOutput()
	require.FileExists(t, file, string(output))
	t.Logf("%s: exit code %d\n%s", verb, run.ProcessState.ExitCode(), output)
	return run.ProcessState.ExitCode()
}

// play answers a request for a recording, and returns the status.
func (s *site) play(t *testing.T, grant keys.Grant, id vault.ID) int {
	t.Helper()
	answer := httptest.NewRecorder()
	s.vault.ServeRecording(answer, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(t.Context()), grant, id)
	require.NoError(t, s.stream.Flush(t.Context()))
	return answer.Code
}

// issue issues a grant for this purpose as a login does.
func (s *site) issue(t *testing.T, patient keys.Patient, purpose keys.Purpose) {
	t.Helper()
	_, err := s.stream.Issuer(s.keyring).Issue(t.Context(), patient, keys.GrantOptions{TTL: time.Minute, Subject: "s", Purpose: purpose, Reason: "r"})
	require.NoError(t, err)
	require.NoError(t, s.stream.Flush(t.Context()))
}

// damage overwrites a recording's media.
func (s *site) damage(t *testing.T, id vault.ID) {
	t.Helper()
	name := "recordings/" + id.KeyID().String() + "/" + id.Rec() + "/media"
	info, err := s.store.Stat(t.Context(), name)
	require.NoError(t, err)
	_, err = s.store.Put(t.Context(), name, bytes.NewReader(make([]byte, info.Size)), info.Size, storage.IfMatch(info.ETag))
	require.NoError(t, err)
}

func TestAlertsFireInTheirCaseAndNoOther(t *testing.T) {
	binary := command(t)
	for name, test := range map[string]struct {
		do    func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID)
		after time.Duration // scraped afterwards
		want  []string
	}{
		"health": {
			func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID) {
				alice, _ := s.d.Enrol(t)
				for range 10 {
					s.issue(t, alice, keys.Treatment)
					s.issue(t, alice, "X-QUALITY-CIRCLE")
					require.Equal(t, http.StatusOK, s.play(t, grant, id))
					require.Empty(t, p.pass(t, 3*time.Minute))
				}
			}, 2 * time.Hour, nil,
		},
		"a grant of another patient": {
			func(t *testing.T, _ *prometheus, s *site, _ keys.Grant, id vault.ID) {
				bob, _ := s.d.Enrol(t)
				require.Equal(t, http.StatusForbidden, s.play(t, s.d.Grant(t, bob), id))
			}, 5 * time.Minute, []string{"RecvaultWrongPatient"},
		},
		"damage": {
			func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID) {
				s.damage(t, id)
				require.Equal(t, http.StatusBadGateway, s.play(t, grant, id))
				require.NotZero(t, s.job(t, p, binary, testdeployment.Rotator, "verify"))
			}, 5 * time.Minute, []string{"RecvaultDamaged", "RecvaultVerifyFound"},
		},
		"a revoked grant is tried again and again": {
			func(t *testing.T, _ *prometheus, s *site, grant keys.Grant, id vault.ID) {
				require.NoError(t, s.vault.EndGrant(t.Context(), grant))
				for range 40 {
					require.Equal(t, http.StatusUnauthorized, s.play(t, grant, id))
				}
			}, 5 * time.Minute, []string{"RecvaultRefusals"},
		},
		"a granter in other hands": {
			func(t *testing.T, _ *prometheus, s *site, _ keys.Grant, _ vault.ID) {
				alice, _ := s.d.Enrol(t)
				for range 80 {
					s.issue(t, alice, keys.Research)
				}
			}, 5 * time.Minute, []string{"RecvaultManyGrants"},
		},
		"a busy hour of each week": {
			func(t *testing.T, p *prometheus, s *site, _ keys.Grant, _ vault.ID) {
				alice, _ := s.d.Enrol(t)
				for range 60 {
					s.issue(t, alice, keys.Treatment)
				}
				require.Equal(t, []string{"RecvaultManyGrants"}, p.pass(t, 10*time.Minute), "the first time")
				p.now, p.jobs = p.now.Add(7*24*time.Hour-10*time.Minute), t.TempDir() // a week later, without what jobs left
				p.pass(t, 5*time.Minute)
				for range 80 {
					s.issue(t, alice, keys.Treatment)
				}
			}, 10 * time.Minute, nil,
		},
		"a broken glass": {
			func(t *testing.T, _ *prometheus, s *site, _ keys.Grant, _ vault.ID) {
				alice, _ := s.d.Enrol(t)
				s.issue(t, alice, keys.BreakTheGlass)
			}, 5 * time.Minute, []string{"RecvaultBreakGlass"},
		},
		"emergency treatment": {
			func(t *testing.T, _ *prometheus, s *site, _ keys.Grant, _ vault.ID) {
				alice, _ := s.d.Enrol(t)
				s.issue(t, alice, keys.EmergencyAccess)
			}, 5 * time.Minute, []string{"RecvaultBreakGlass"},
		},
		"a flood of openings": {
			func(t *testing.T, _ *prometheus, s *site, grant keys.Grant, id vault.ID) {
				for i := range 10_100 {
					details := grant.Details()
					details.RequestID = strconv.Itoa(i)
					s.stream.Emit(events.Event{Kind: events.Opened, Recording: id, Grant: details})
				}
				require.NoError(t, s.stream.Flush(t.Context()))
			}, 5 * time.Minute, []string{"RecvaultEventsOverflow"},
		},
		"a sealed Vault": {
			func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID) {
				bob, _ := s.d.Enrol(t)
				other, cold := s.put(t, bob, 100), s.d.Grant(t, bob)
				s.d.Vault.Seal(t)
				for range 4 {
					require.Equal(t, http.StatusServiceUnavailable, s.play(t, cold, other))
					p.pass(t, time.Minute)
				}
			}, 3 * time.Minute, []string{"RecvaultPlaybackFails", "RecvaultVaultUnavailable"},
		},
		"a store that is away": {
			func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID) {
				s.d.MinIO.Stop(t)
				for range 4 {
					require.Equal(t, http.StatusServiceUnavailable, s.play(t, grant, id))
					p.pass(t, time.Minute)
				}
			}, 3 * time.Minute, []string{"RecvaultPlaybackFails", "RecvaultStoreUnavailable"},
		},
		"a job that fails": {
			func(t *testing.T, p *prometheus, s *site, _ keys.Grant, _ vault.ID) {
				require.NotZero(t, s.job(t, p, binary, testdeployment.Granter, "rotate"))
			}, 65 * time.Minute, []string{"RecvaultJobFailed", "RecvaultJobOverdue"}, // it has never succeeded
		},
		"a retirement that does not complete": {
			func(t *testing.T, p *prometheus, s *site, _ keys.Grant, id vault.ID) {
				require.NoError(t, s.keyring.Rotate(t.Context(), id.KeyID()))
				require.NotZero(t, s.job(t, p, binary, testdeployment.Retirer, "retire"))
				p.registry = client.NewRegistry() // two days of the services' metrics take long
			}, 48*time.Hour + 5*time.Minute, []string{"RecvaultJobFailed", "RecvaultJobOverdue", "RecvaultPatientsLeft"},
		},
		"a key that is used outside a grant": {
			func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID) {
				require.Zero(t, s.job(t, p, binary, testdeployment.Admin, "audit report", s.d.Vault.AuditFile()))
				require.Empty(t, p.pass(t, 5*time.Minute), "before")
				admin := s.d.Vault.Client(s.d.Vault.RootToken())
				key := s.d.Place.Mount + "/%s/" + id.KeyID().String() + "-kek"
				made, err := admin.Logical().Write(fmt.Sprintf(key, "encrypt"), map[string]any{"plaintext": "", "context": "YQ=="})
				require.NoError(t, err)
				_, err = admin.Logical().Write(fmt.Sprintf(key, "decrypt"), map[string]any{"ciphertext": made.Data["ciphertext"], "context": "YQ=="})
				require.NoError(t, err)
				require.NotZero(t, s.job(t, p, binary, testdeployment.Admin, "audit report", s.d.Vault.AuditFile()))
			}, 5 * time.Minute, []string{"RecvaultAuditFound"},
		},
		"a Vault that somebody changed": {
			func(t *testing.T, p *prometheus, s *site, grant keys.Grant, id vault.ID) {
				require.Zero(t, s.job(t, p, binary, testdeployment.Admin, "audit setup"))
				require.Empty(t, p.pass(t, 5*time.Minute), "before")
				admin := s.d.Vault.Client(s.d.Vault.RootToken())
				require.NoError(t, admin.Sys().PutPolicy("other", `path "`+s.d.Place.Mount+`/decrypt/*" { capabilities = ["update"] }`))
				require.NotZero(t, s.job(t, p, binary, testdeployment.Admin, "audit setup"))
			}, 5 * time.Minute, []string{"RecvaultSetupChanged"},
		},
		"jobs that run no more": {
			func(t *testing.T, p *prometheus, _ *site, _ keys.Grant, _ vault.ID) {
				p.now = p.now.Add(46 * 24 * time.Hour)
			}, 2 * time.Minute, []string{"RecvaultJobOverdue", "RecvaultKeyTooOld"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := watched(t, testdeployment.Servers(t, testserver.Dedicated()))
			alice, _ := s.d.Enrol(t)
			id, grant := s.put(t, alice, 1000), s.d.Grant(t, alice)
			require.Zero(t, s.job(t, p, binary, testdeployment.Rotator, "rewrap"))
			require.Zero(t, s.job(t, p, binary, testdeployment.Rotator, "plan"))
			require.Zero(t, s.job(t, p, binary, testdeployment.Rotator, "verify"))
			require.Empty(t, p.pass(t, 20*time.Minute), "in health")
			test.do(t, p, s, grant, id)
			assert.Equal(t, test.want, p.pass(t, test.after))
		})
	}
}

// TestDashboardShowsARun: each expression of the dashboard has a value after a run.
func TestDashboardShowsARun(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile("../../docs/grafana/dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &dashboard))
	p, s := watched(t, testdeployment.Servers(t))
	alice, aliceID := s.d.Enrol(t)
	bob, _ := s.d.Enrol(t)
	p.pass(t, 5*time.Minute)
	id, grant := s.put(t, alice, 1000), s.d.Grant(t, alice)
	s.issue(t, alice, keys.BreakTheGlass)
	for range 3 {
		require.Equal(t, http.StatusOK, s.play(t, grant, id))
		p.pass(t, time.Minute)
	}
	_, err = s.vault.Stat(t.Context(), grant, id)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, s.play(t, s.d.Grant(t, bob), id))
	rotated, err := rotation.New(s.keyring, s.store, rotation.Options{})
	require.NoError(t, err)
	require.NoError(t, s.keyring.Rotate(t.Context(), aliceID))
	report, err := rotated.Rewrap(t.Context(), scope.Of(aliceID))
	require.NoError(t, err)
	s.telemetry.AddRotation(report)
	require.Zero(t, s.job(t, p, command(t), testdeployment.Rotator, "plan"))
	p.pass(t, 3*time.Minute)
	expressions := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expressions++
			expression := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(target.Expr)
			if panel.Title == "Retries" { // there were none
				continue
			}
			assert.NotEmpty(t, p.query(t, expression), "%s: %s", panel.Title, expression)
		}
	}
	require.Greater(t, expressions, 20)
	value := func(expression string) float64 {
		vector := p.query(t, expression)
		require.Len(t, vector, 1, expression)
		return vector[0].F
	}
	assert.InDelta(t, 1, value(`sum(recvault_events_total{recvault_event_kind="wrong-patient"})`), 0)
	assert.InDelta(t, 1, value(`sum(recvault_events_total{recvault_grant_purpose="BTG"})`), 0)
	assert.InDelta(t, 3000, value(`sum(recvault_delivered_bytes_total)`), 0)
}
