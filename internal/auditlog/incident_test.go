package auditlog_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/auditlog"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

const (
	patients = 60
	hostile  = `=HYPERLINK("https://example.org")<script>alert(1)</script>`
)

// act is a use of a patient's key, or an attempt, as the test knows it.
type act struct {
	kind, subject, purpose, reason, request, recording string
}

// story is a scripted incident, and what the report must say of it.
type story struct {
	*testdeployment.Deployment
	t      *testing.T
	root   *api.Client
	vault  *vault.Vault // that serves: it has no right without a grant
	stream *events.Stream
	// devices are the files of the audit devices: the first lasts, the second breaks half-way, and the third replaces it.
	devices [3]string

	patients   []keys.Patient
	keyIDs     []keys.KeyID
	recordings [][]vault.ID // of each patient
	canaries   []string     // what no report may contain

	truth  map[act]int
	grants int
	events []string // what the serving process and the login report, as lines of JSON
	half   int      // how many of them came before the second audit device failed
}

// play plays the incident on a real Vault and MinIO.
func play(t *testing.T) *story {
	t.Helper()
	s := &story{Deployment: testdeployment.Servers(t, testserver.Dedicated()), t: t, truth: map[act]int{}}
	s.root = s.Vault.Client(s.Vault.RootToken())
	s.devices = [3]string{s.Vault.AuditFile(), filepath.Join(t.TempDir(), "second.log"), filepath.Join(t.TempDir(), "third.log")}
	pipe, breakPipe := s.pipe()
	s.enable("second", pipe)
	var err error
	var written bytes.Buffer
	s.stream = events.New(events.JSON(&written))
	s.vault, err = vault.New(s.Keyring(testdeployment.Server), s.Store, vault.WithKeyCache(0, 1), vault.WithEvents(s.stream))
	require.NoError(t, err)
	writer, err := vault.New(s.Keyring(testdeployment.Writer), s.Store)
	require.NoError(t, err)
	for range patients {
		patient, keyID := s.Enrol(t)
		s.patients, s.keyIDs = append(s.patients, patient), append(s.keyIDs, keyID)
		s.canaries = append(s.canaries, string(patient))
		var ids []vault.ID
		for range 2 {
			id, err := writer.Put(t.Context(), patient, bytes.NewReader(make([]byte, 1000)), vault.Metadata{Title: "canary-title"})
			require.NoError(t, err)
			ids = append(ids, id)
		}
		s.recordings = append(s.recordings, ids)
	}
	s.canaries = append(s.canaries, "canary-title", s.Vault.RootToken())

	for i := range patients { // everybody looks at the own recordings, and plays one
		own := s.issue(i, keys.GrantOptions{Subject: fmt.Sprintf("account-%02d", i), Purpose: keys.PatientRequest})
		s.list(own, i)
		s.opens(own, s.recordings[i][0])
	}
	for i := range 30 { // five clinicians treat six patients each
		grant := s.issue(i, keys.GrantOptions{Subject: fmt.Sprintf("dr-%d", i%5), Purpose: keys.Treatment, RequestID: fmt.Sprintf("visit-%d", i)})
		s.opens(grant, s.recordings[i][0])
		s.opens(grant, s.recordings[i][0])
	}
	for i := range 20 { // a listing leaks: each of twenty accounts is shown three recordings of others, and tries them
		grant := s.issue(i, keys.GrantOptions{Subject: fmt.Sprintf("account-%02d", i), Purpose: keys.PatientRequest, RequestID: "leak"})
		for n := 1; n <= 3; n++ {
			s.refused(grant, s.recordings[i+n][0], auditlog.WrongPatient, keys.ErrDenied)
		}
	}

	stolen := s.issue(7, keys.GrantOptions{Subject: "dr-1", Purpose: keys.Treatment, RequestID: "stolen"})
	s.opens(stolen, s.recordings[7][1])
	require.NoError(t, s.stream.Revoker(s.Keyring(testdeployment.Revoker)).Revoke(t.Context(), stolen.Accessor()))
	for range 2 {
		s.refused(stolen, s.recordings[7][1], auditlog.Revoked, keys.ErrInvalidGrant)
	}

	for i := range 10 { // a rotation
		require.NoError(t, s.Keyring(testdeployment.Rotator).Rotate(t.Context(), s.keyIDs[i]))
	}
	breakPipe()
	require.NoError(t, s.stream.Flush(t.Context()))
	s.half = strings.Count(written.String(), "\n")
	for range 2 { // the thief goes on
		s.refused(stolen, s.recordings[7][1], auditlog.Revoked, keys.ErrInvalidGrant)
	}

	for i := range 40 { // somebody is curious
		grant := s.issue(i, keys.GrantOptions{Subject: "dr-curious", Purpose: keys.Treatment})
		s.list(grant, i)
		if i < 15 {
			s.opens(grant, s.recordings[i][1])
		}
	}

	emergency := s.issue(3, keys.GrantOptions{
		Subject: "dr-2", Purpose: keys.BreakTheGlass, Reason: "unconscious, no next of kin", RequestID: "er-1",
	})
	s.opens(emergency, s.recordings[3][0])

	describer := s.issue(5, keys.GrantOptions{Subject: "clerk", Purpose: keys.CareManagement, DescribeOnly: true})
	s.list(describer, 5)
	s.refused(describer, s.recordings[5][0], auditlog.Refused, keys.ErrDenied)

	limited := s.issue(6, keys.GrantOptions{Subject: "dr-3", Purpose: keys.Treatment, MaxUses: 2})
	s.opens(limited, s.recordings[6][0])
	s.opens(limited, s.recordings[6][1])
	s.refused(limited, s.recordings[6][1], auditlog.UsedUp, keys.ErrInvalidGrant)

	short := s.issue(8, keys.GrantOptions{Subject: "dr-4", Purpose: keys.Treatment, TTL: time.Second})
	s.opens(short, s.recordings[8][0])
	require.Eventually(t, func() bool {
		_, err := s.root.Auth().Token().LookupAccessor(short.Accessor())
		return err != nil
	}, 10*time.Second, 50*time.Millisecond)
	s.refused(short, s.recordings[8][0], auditlog.Expired, keys.ErrInvalidGrant)

	unused := s.issue(9, keys.GrantOptions{Subject: "dr-4", Purpose: keys.Treatment, RequestID: "unused"})
	require.NoError(t, s.stream.Revoker(s.Keyring(testdeployment.Revoker)).Revoke(t.Context(), unused.Accessor()))

	s.opens(s.issue(14, keys.GrantOptions{Subject: hostile, Purpose: keys.CareManagement}), s.recordings[14][0])

	invented := keys.NewGrant(keys.GrantDetails{KeyID: s.keyIDs[9], Accessor: "none", Expires: time.Now().Add(time.Hour)}, "hvs.invented")
	s.refused(invented, s.recordings[9][0], auditlog.UnknownToken, keys.ErrInvalidGrant)

	s.decryptsItself(10)
	s.wrapsAnswer(11)

	require.NoError(t, s.root.Sys().DisableAudit("second")) // somebody notices
	s.enable("third", s.devices[2])
	require.NoError(t, s.root.Sys().PutPolicy("wide", `path "*" { capabilities = ["read"] }`))
	erased := s.issue(12, keys.GrantOptions{Subject: "dr-0", Purpose: keys.Treatment, RequestID: "erased"})
	require.NoError(t, s.Keyring(testdeployment.Eraser).Erase(t.Context(), s.keyIDs[12]))
	s.refused(erased, s.recordings[12][0], auditlog.Failed, keys.ErrErased)

	require.NoError(t, s.vault.Close()) // delivers what is pending
	s.events = strings.Split(strings.TrimSpace(written.String()), "\n")
	return s
}

// enable enables an audit device.
func (s *story) enable(device, file string) {
	s.t.Helper()
	require.NoError(s.t, s.root.Sys().EnableAuditWithOptions(device, &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": file},
	}))
}

// pipe makes the second file from what an audit device writes to a pipe. broken breaks the device, without a word to Vault.
func (s *story) pipe() (path string, broken func()) {
	t := s.t
	t.Helper()
	path = filepath.Join(t.TempDir(), "pipe")
	pipe := openPipe(t, path)
	file, err := os.Create(s.devices[1])
	require.NoError(t, err)
	var copying sync.WaitGroup
	copying.Go(func() { _, _ = io.Copy(file, pipe) }) // ends when the pipe is closed
	t.Cleanup(func() {
		pipe.Close()
		copying.Wait()
		file.Close()
	})
	return path, func() {
		last := func(file string) any {
			var entry struct {
				Time, Type string
				Request    struct{ ID string }
			}
			all := lines(t, file)
			require.NoError(t, json.Unmarshal(all[len(all)-1], &entry))
			return entry
		}
		require.Eventually(t, func() bool { return last(s.devices[0]) == last(s.devices[1]) }, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700)) // so that Vault cannot make a file there
		require.NoError(t, pipe.Close())
		copying.Wait()
	}
}

func (s *story) issue(patient int, options keys.GrantOptions) keys.Grant {
	s.t.Helper()
	if options.TTL == 0 {
		options.TTL = 30 * time.Minute
	}
	grant, err := s.stream.Issuer(s.Keyring(testdeployment.Granter)).Issue(s.t.Context(), s.patients[patient], options)
	require.NoError(s.t, err)
	s.canaries = append(s.canaries, grant.Token(), grant.Accessor())
	s.grants++
	return grant
}

// happened adds to the truth.
func (s *story) happened(kind auditlog.Kind, grant keys.Grant, id vault.ID) {
	d := grant.Details()
	s.truth[act{kind.String(), d.Subject, string(d.Purpose), d.Reason, d.RequestID, id.String()}]++
}

func (s *story) opens(grant keys.Grant, id vault.ID) {
	s.t.Helper()
	recording, err := s.vault.Open(s.t.Context(), grant, id)
	require.NoError(s.t, err)
	_, err = io.Copy(io.Discard, recording)
	require.NoError(s.t, err)
	require.NoError(s.t, recording.Close())
	s.happened(auditlog.Opened, grant, id)
}

func (s *story) list(grant keys.Grant, patient int) {
	s.t.Helper()
	listed, err := s.vault.ListInfo(s.t.Context(), grant)
	require.NoError(s.t, err)
	require.Len(s.t, listed, 2)
	for _, id := range s.recordings[patient] {
		s.happened(auditlog.Described, grant, id)
	}
}

func (s *story) refused(grant keys.Grant, id vault.ID, kind auditlog.Kind, want error) {
	s.t.Helper()
	_, err := s.vault.Open(s.t.Context(), grant, id)
	require.ErrorIs(s.t, err, want)
	s.happened(kind, grant, id)
}

// decryptsItself uses a patient's key with the root token, as nobody should.
func (s *story) decryptsItself(patient int) {
	s.t.Helper()
	context := base64.StdEncoding.EncodeToString(s.recordings[patient][0].Binding().Bytes())
	wrapped, err := s.root.Logical().Write(s.Place.Mount+"/encrypt/"+s.keyIDs[patient].String()+"-kek", map[string]any{
		"plaintext": base64.StdEncoding.EncodeToString(make([]byte, 32)), "context": context,
	})
	require.NoError(s.t, err)
	_, err = s.root.Logical().Write(s.Place.Mount+"/decrypt/"+s.keyIDs[patient].String()+"-kek", map[string]any{
		// Vault ignores line breaks in base64, and so must the report.
		"batch_input": []any{map[string]any{"ciphertext": wrapped.Data["ciphertext"], "context": context[:8] + "\n" + context[8:]}},
	})
	require.NoError(s.t, err)
	s.truth[act{kind: "opened", subject: "root [root]", recording: s.recordings[patient][0].String()}]++
}

// wrapsAnswer has Vault keep an unwrapped key under a token of its own.
func (s *story) wrapsAnswer(patient int) {
	s.t.Helper()
	id := s.recordings[patient][0]
	grant := s.issue(patient, keys.GrantOptions{Subject: "dr-0", Purpose: keys.Treatment, RequestID: "wrapped"})
	wrapped, err := s.Keyring(testdeployment.Writer).Wrap(s.t.Context(), id.Binding(), keys.NewKey())
	require.NoError(s.t, err)
	client := s.Vault.Client(grant.Token())
	client.SetWrappingLookupFunc(func(string, string) string { return "1h" })
	_, err = client.Logical().Write(s.Place.Mount+"/decrypt/"+s.keyIDs[patient].String()+"-kek", map[string]any{
		"ciphertext": string(wrapped), "context": base64.StdEncoding.EncodeToString(id.Binding().Bytes()),
	})
	require.NoError(s.t, err)
	s.happened(auditlog.Opened, grant, id)
}

// read makes a report from files.
func (s *story) read(files ...string) reported {
	s.t.Helper()
	return s.readWith(auditlog.Options{}, files...)
}

func (s *story) readWith(options auditlog.Options, files ...string) reported {
	s.t.Helper()
	options.Mount, options.Prefix = s.Place.Mount, s.Place.Prefix
	sources := []auditlog.Source{}
	for _, file := range files {
		sources = append(sources, auditlog.Source{Name: filepath.Base(file), Open: func() (io.ReadCloser, error) { return os.Open(file) }})
	}
	report, err := auditlog.Read(s.t.Context(), sources, options)
	require.NoError(s.t, err)
	var text bytes.Buffer
	require.NoError(s.t, report.WriteJSON(&text))
	r := reported{text: text.String()}
	require.NoError(s.t, json.Unmarshal(text.Bytes(), &r))
	return r
}

// reported is a report as its JSON shows it.
type reported struct {
	auditlog.Report
	Patients        []auditlog.Patient
	Outside         []auditlog.Use
	AfterRevocation []auditlog.AfterRevocation `json:"after_revocation"`
	Incidents       []auditlog.Incident
	Unusual         []auditlog.Subject
	BreakGlass      []auditlog.Grant `json:"break_glass"`
	Granters        []auditlog.Granter
	Accesses        []auditlog.Use
	Grants          []auditlog.Grant
	Changes         []auditlog.Change
	Gaps            []auditlog.Gap
	Deliveries      []auditlog.Delivery

	text string
}

// acts counts the accesses as the truth does.
func (r *reported) acts() map[act]int {
	acts := map[act]int{}
	for _, u := range r.Accesses {
		who := u.Subject
		if who == "" && u.By != "unknown token" {
			who = u.By
		}
		acts[act{u.Kind.String(), who, u.Purpose, u.Reason, u.RequestID, u.Recording}] += u.Count
	}
	return acts
}

func lines(t *testing.T, file string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return slices.Collect(bytes.Lines(text))
}

func save(t *testing.T, file string, lines [][]byte) string {
	t.Helper()
	text := bytes.Join(lines, nil)
	if filepath.Ext(file) == ".gz" {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err := w.Write(text)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		text = zipped.Bytes()
	}
	require.NoError(t, os.WriteFile(file, text, 0o600))
	return file
}

func TestIncident(t *testing.T) {
	s := play(t)
	t.Run("is reported exactly", s.in(testExact))
	t.Run("from any form of the log", s.in(testForms))
	t.Run("with gaps that are named", s.in(testGaps))
	t.Run("through filters", s.in(testFilters))
	t.Run("as text, CSV and HTML", s.in(testRenderings))
	t.Run("as FHIR", s.in(testFHIR))
	t.Run("as its patients see it", s.in(testPatientView))
	t.Run("beside the events", s.in(testEvents))
	t.Run("from the events alone", s.in(testAlone))
	t.Run("of any size", s.in(testSize))
	t.Logf("%d patients, %d grants, %d uses and attempts of %d sorts: each is in the report, and nothing else", patients, s.grants, s.uses(), len(s.truth))
}

// uses counts the uses of patients' keys, and the attempts.
func (s *story) uses() (n int) {
	for _, times := range s.truth {
		n += times
	}
	return n
}

// in returns a test of the story.
func (s *story) in(test func(*testing.T, *story)) func(*testing.T) {
	return func(t *testing.T) {
		copied := *s
		copied.t = t
		test(t, &copied)
	}
}

func testExact(t *testing.T, s *story) {
	r := s.read(s.devices[:]...)
	s.check(&r)
	require.Len(t, r.Gaps, 2)
	assert.True(t, r.Gaps[0].Explained, "there was one device until the second was enabled")
	assert.False(t, r.Gaps[1].Explained, "the second broke")
	assert.Equal(t, auditlog.Devices, r.Gaps[1].Kind)
	assert.Equal(t, []string{filepath.Base(s.devices[0])}, r.Gaps[1].Where)
	assert.Equal(t, 1, r.Totals.Unexplained)
	for _, canary := range s.canaries {
		require.NotContains(t, r.text, canary)
	}
	turned := s.read(s.devices[2], s.devices[1], s.devices[0]) // so that most grants are first known by the HMACs of the device that ends
	s.check(&turned)
	assert.Len(t, turned.Gaps, 2)
	one := s.read(s.devices[0])
	s.check(&one)
	assert.Empty(t, one.Gaps)
}

// testForms reads the same log cut into pieces, compressed, mixed and given twice.
func testForms(t *testing.T, s *story) {
	r := s.read(s.devices[:]...)
	folder := t.TempDir()
	first, second, third := lines(t, s.devices[0]), lines(t, s.devices[1]), lines(t, s.devices[2])
	n := len(first) / 3
	pieces := []string{
		save(t, filepath.Join(folder, "first.log.2.gz"), first[:n]), save(t, filepath.Join(folder, "first.log"), first[2*n:]),
		save(t, filepath.Join(folder, "first.log.1.gz"), first[n:2*n]), save(t, filepath.Join(folder, "second.log"), second),
		save(t, filepath.Join(folder, "third.log"), third),
	}
	mixed := [][]byte{}
	for one, two := first, slices.Concat(second, third); len(one)+len(two) > 0; {
		if len(two) == 0 || len(one) > 0 && rand.IntN(2) == 0 {
			mixed, one = append(mixed, one[0]), one[1:]
		} else {
			mixed, two = append(mixed, two[0]), two[1:]
		}
	}
	for name, files := range map[string][]string{
		"rotated, compressed and out of order": pieces,
		"mixed":                                {save(t, filepath.Join(folder, "mixed.gz"), mixed)},
		"given twice":                          append(slices.Clone(pieces), pieces[0], pieces[3], s.devices[0]),
		"one after the other in one file":      {save(t, filepath.Join(folder, "joined"), slices.Concat(third, second, first[n:], first[:n], second))},
	} {
		t.Run(name, s.in(func(t *testing.T, s *story) {
			other := s.read(files...)
			s.check(&other)
			assert.Equal(t, r.Accesses, other.Accesses)
			assert.Equal(t, r.Patients, other.Patients)
			assert.Equal(t, r.Grants, other.Grants)
			assert.Equal(t, r.Incidents, other.Incidents)
			assert.Equal(t, r.Changes, other.Changes)
			assert.Equal(t, r.Totals, other.Totals)
		}))
	}
}

// testGaps cuts, alters and removes lines, each of which the report must name.
func testGaps(t *testing.T, s *story) {
	first, second := lines(t, s.devices[0]), lines(t, s.devices[1])
	find := func(lines [][]byte, parts ...string) int {
		t.Helper()
		i := slices.IndexFunc(lines, func(line []byte) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !bytes.Contains(line, []byte(part)) })
		})
		require.GreaterOrEqual(t, i, 0, parts)
		return i
	}
	const request, response = `"type":"request"`, `"type":"response"`
	openedByStolen := []string{"/decrypt/", `"request_id":"stolen"`}
	asked, answered := find(first, append(openedByStolen, request)...), find(first, append(openedByStolen, response)...)
	copied := find(second, append(openedByStolen, response)...)
	issued := find(first, response, "token/create", `"request_id":"erased"`)
	limited := find(first, "/decrypt/", `"remaining_uses":2`)
	name := func(i int) string { return fmt.Sprintf("first:%d", i+1) }
	type expected struct {
		kind  auditlog.GapKind
		where []string
	}
	for _, test := range []struct {
		name   string
		change func(lines [][]byte)
		alone  []expected // with one device
		differ int        // uses that are reported otherwise, with one device
	}{
		{"a line is cut", func(l [][]byte) { l[answered] = append(slices.Clone(l[answered][:400]), '\n') }, []expected{
			{auditlog.Unreadable, []string{name(answered)}}, {auditlog.NoAnswer, []string{name(asked)}},
		}, 2},
		{"a line is no JSON", func(l [][]byte) { l[asked] = []byte("{]\n") }, []expected{
			{auditlog.Unreadable, []string{name(asked)}}, {auditlog.NoRequest, []string{name(answered)}},
		}, 0},
		{"an answer is missing", func(l [][]byte) { l[answered] = nil }, []expected{{auditlog.NoAnswer, []string{name(asked)}}}, 2},
		{"a request is missing", func(l [][]byte) { l[asked] = nil }, []expected{{auditlog.NoRequest, []string{name(answered - 1)}}}, 0},
		{"a subject is altered", func(l [][]byte) { l[answered] = bytes.Replace(l[answered], []byte("dr-1"), []byte("dr-9"), 1) }, []expected{
			{auditlog.Altered, []string{name(asked), name(answered)}},
		}, 0},
		{"an answer is made a refusal", func(l [][]byte) {
			l[answered] = bytes.Replace(l[answered], []byte(`{"auth"`), []byte(`{"error":"permission denied","auth"`), 1)
		}, []expected{{auditlog.Altered, []string{name(asked), name(answered)}}}, 2},
		{"a use is missing", func(l [][]byte) { l[limited], l[limited+1] = nil, nil }, []expected{{auditlog.Uses, nil}}, 1},
		{"the issue of a grant is missing", func(l [][]byte) { l[issued-1], l[issued] = nil, nil }, []expected{{auditlog.NoIssue, nil}}, 0},
	} {
		t.Run(test.name, s.in(func(t *testing.T, s *story) {
			changed := slices.Clone(first)
			test.change(changed)
			file := save(t, filepath.Join(t.TempDir(), "first"), changed)
			r := s.read(file)
			found := []expected{}
			for _, gap := range r.Gaps {
				found = append(found, expected{gap.Kind, gap.Where})
			}
			assert.ElementsMatch(t, test.alone, found)
			assert.Equal(t, len(test.alone), r.Totals.Unexplained)
			assert.Len(t, s.differences(&r), test.differ)
			if test.name == "an answer is missing" {
				assert.Equal(t, 1, r.acts()[act{"unanswered", "dr-1", "TREAT", "", "stolen", s.recordings[7][1].String()}])
			}

			r = s.read(file, s.devices[1]) // what one device lacks or alters, the other shows
			assert.NotZero(t, r.Totals.Unexplained)
			if test.name != "an answer is made a refusal" && test.name != "a use is missing" { // which is from when there was one device
				assert.Empty(t, s.differences(&r))
			}
		}))
	}

	t.Run("a device lacks an entry", s.in(func(t *testing.T, s *story) {
		r := s.read(s.devices[0], save(t, filepath.Join(t.TempDir(), "second"), slices.Delete(slices.Clone(second), copied, copied+1)))
		s.check(&r)
		i := slices.IndexFunc(r.Gaps, func(gap auditlog.Gap) bool { return !gap.Explained })
		require.GreaterOrEqual(t, i, 0)
		assert.Equal(t, auditlog.Devices, r.Gaps[i].Kind)
		assert.Equal(t, 1, r.Gaps[i].Count)
		assert.Equal(t, []string{filepath.Base(s.devices[0])}, r.Gaps[i].Where)
	}))
	t.Run("the beginning of a device is lost", s.in(func(t *testing.T, s *story) {
		r := s.read(save(t, filepath.Join(t.TempDir(), "first"), first[len(first)/3:]), s.devices[1])
		s.check(&r)
		assert.NotZero(t, r.Totals.Unexplained)
	}))
	t.Run("a file was copied earlier", s.in(func(t *testing.T, s *story) {
		folder := t.TempDir()
		r := s.read(save(t, filepath.Join(folder, "first"), first[:asked]), save(t, filepath.Join(folder, "second"), second[:copied-5]))
		require.NotEmpty(t, r.Gaps)
		assert.Contains(t, r.Gaps[len(r.Gaps)-1].What, "one file was copied later than another")
		assert.Zero(t, r.Totals.Unexplained)
	}))
	t.Run("a compressed file is cut", s.in(func(t *testing.T, s *story) {
		file := save(t, filepath.Join(t.TempDir(), "second.gz"), second)
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(file, info.Size()/2))
		r := s.read(file, s.devices[0])
		s.check(&r)
		assert.Equal(t, 1, r.Totals.Gaps[auditlog.Unreadable])
		assert.Contains(t, r.text, "second.gz:")
		assert.Contains(t, r.text, "unexpected EOF")
	}))
	t.Run("a silence", s.in(func(t *testing.T, s *story) {
		r := s.readWith(auditlog.Options{Silence: 300 * time.Millisecond}, s.devices[0]) // MinIO was started
		assert.NotZero(t, r.Totals.Gaps[auditlog.Silence])
		assert.Zero(t, r.Totals.Unexplained)
	}))
	t.Run("no log", func(t *testing.T) {
		file := save(t, filepath.Join(t.TempDir(), "x"), [][]byte{[]byte("hello\n")})
		_, err := auditlog.Read(t.Context(), []auditlog.Source{{Name: "x", Open: func() (io.ReadCloser, error) { return os.Open(file) }}}, auditlog.Options{})
		assert.ErrorIs(t, err, auditlog.ErrNoEntries)
	})
}

func testFilters(t *testing.T, s *story) {
	whole := s.read(s.devices[0])
	middle := whole.Accesses[len(whole.Accesses)/2].First
	for _, test := range []struct {
		name    string
		options auditlog.Options
		fits    func(auditlog.Use) bool
	}{
		{"a subject", auditlog.Options{Subjects: []string{"dr-curious"}}, func(u auditlog.Use) bool { return u.Subject == "dr-curious" }},
		{"two purposes", auditlog.Options{Purposes: []string{"BTG", "CAREMGT"}}, func(u auditlog.Use) bool { return u.Purpose == "BTG" || u.Purpose == "CAREMGT" }},
		{"a patient", auditlog.Options{KeyIDs: s.keyIDs[9:10]}, func(u auditlog.Use) bool { return u.KeyID == s.keyIDs[9].String() }},
		{"a recording", auditlog.Options{Recordings: s.recordings[7][1:]}, func(u auditlog.Use) bool { return u.Recording == s.recordings[7][1].String() }},
		{"from a time", auditlog.Options{Since: middle}, func(u auditlog.Use) bool { return !u.First.Before(middle) }},
		{"until a time", auditlog.Options{Until: middle}, func(u auditlog.Use) bool { return u.Last.Before(middle) }},
		{"all of it", auditlog.Options{Subjects: []string{"dr-curious"}, KeyIDs: s.keyIDs[:3], Since: middle, Until: time.Now()}, func(u auditlog.Use) bool {
			return u.Subject == "dr-curious" && slices.Contains(s.keyIDs[:3], keyID(u.KeyID)) && !u.First.Before(middle)
		}},
	} {
		t.Run(test.name, s.in(func(t *testing.T, s *story) {
			r := s.readWith(test.options, s.devices[0])
			require.NotEmpty(t, r.Accesses)
			assert.Equal(t, slices.DeleteFunc(slices.Clone(whole.Accesses), func(u auditlog.Use) bool { return !test.fits(u) }), r.Accesses)
			for _, g := range r.Grants {
				if len(test.options.Subjects) > 0 {
					assert.Contains(t, test.options.Subjects, g.Subject)
				}
			}
		}))
	}
}

func keyID(text string) keys.KeyID {
	id, _ := keys.ParseKeyID(text)
	return id
}

func testRenderings(t *testing.T, s *story) {
	report, err := auditlog.Read(t.Context(), []auditlog.Source{
		{Name: "audit.log", Open: func() (io.ReadCloser, error) { return os.Open(s.devices[0]) }},
	}, auditlog.Options{Mount: s.Place.Mount, Prefix: s.Place.Prefix})
	require.NoError(t, err)
	var text, page bytes.Buffer
	require.NoError(t, report.WriteText(&text))
	require.NoError(t, report.WriteHTML(&page))
	for _, out := range []string{text.String(), page.String()} {
		for _, part := range []string{"dr-curious", "unconscious, no next of kin", s.keyIDs[0].String(), s.recordings[7][1].String(), "sys/audit/second"} {
			assert.Contains(t, out, part)
		}
		for _, canary := range s.canaries {
			require.NotContains(t, out, canary)
		}
	}
	assert.NotContains(t, page.String(), "<script")
	assert.Contains(t, page.String(), "&lt;script&gt;alert(1)")
	assert.NotRegexp(t, `(src|href)=`, page.String())
	for _, section := range report.Sections() {
		var table bytes.Buffer
		require.NoError(t, section.WriteCSV(&table))
		rows, err := csv.NewReader(&table).ReadAll()
		require.NoError(t, err)
		assert.Len(t, rows, section.Len+1, section.Name)
		for _, row := range rows {
			for _, cell := range row {
				assert.NotRegexp(t, `^[=+@-]`, cell)
			}
		}
	}
}

// testPatientView compares what each patient is shown with what happened to that patient.
func testPatientView(t *testing.T, s *story) {
	words := map[string]string{"opened": "played", "described": "title and time"}
	internal := slices.Concat(s.canaries, []string{s.Place.Prefix, "unconscious", "stolen", "leak", "visit-", "er-1", "127.0.0.1", "[root]"})
	for _, id := range s.keyIDs {
		internal = append(internal, id.String())
	}
	for i, id := range s.keyIDs {
		t.Run(fmt.Sprint("patient ", i), s.in(func(t *testing.T, s *story) {
			report, err := auditlog.Read(t.Context(), []auditlog.Source{
				{Name: "audit.log", Open: func() (io.ReadCloser, error) { return os.Open(s.devices[0]) }},
			}, auditlog.Options{Mount: s.Place.Mount, Prefix: s.Place.Prefix, KeyIDs: []keys.KeyID{id}})
			require.NoError(t, err)
			view := report.PatientView(id, auditlog.Names{
				People: map[string]string{"dr-curious": "Dr. Curious"}, Recordings: map[keys.RecordingID]string{s.recordings[i][0]: "the first"},
			})
			type access struct{ who, what string }
			want, got, attempts := map[access]int{}, map[access]int{}, 0
			for a, n := range s.truth {
				who := a.subject
				switch {
				case a.recording != s.recordings[i][0].String() && a.recording != s.recordings[i][1].String():
					continue
				case a.kind == auditlog.Failed.String(): // which is no refusal
					continue
				case words[a.kind] == "":
					attempts += n
					continue
				case a.purpose == "":
					who = "a technical account, outside the usual way"
				case a.purpose == string(keys.PatientRequest):
					who = "your own account"
				case who == "dr-curious":
					who = "Dr. Curious"
				}
				want[access{who, words[a.kind]}] += n
			}
			for _, a := range view.Accesses {
				got[access{a.Who, a.What}] += a.Times
				assert.Contains(t, []string{"the first", "recording 1", "recording 2"}, a.Recording)
			}
			assert.Equal(t, want, got)
			assert.Equal(t, attempts, view.Attempts)

			var out bytes.Buffer
			require.NoError(t, view.WriteJSON(&out))
			require.NoError(t, view.WriteText(&out))
			require.NoError(t, view.WriteHTML(&out))
			for _, name := range internal {
				require.NotContains(t, out.String(), name)
			}
			assert.NotContains(t, out.String(), "account-", "another patient")
		}))
	}
}

// auditEvent has what a reader of an AuditEvent looks for.
type auditEvent struct {
	ResourceType, ID, Action, Outcome, Recorded string

	Type    struct{ Code string }
	Subtype []struct{ System, Code string }
	Period  struct{ Start, End time.Time }
	Agent   []struct {
		Type         struct{ Coding []struct{ Code string } }
		Who          reference
		Network      struct{ Address string }
		Requestor    bool
		PurposeOfUse []struct {
			Coding []struct{ System, Code string }
			Text   string
		}
	}
	Entity []struct {
		What   reference
		Type   struct{ Code string }
		Name   string
		Detail []struct{ Type, ValueString string }
	}
}

type reference struct {
	Identifier struct{ System, Value string }
}

// testFHIR finds each use, grant and change of the incident in the AuditEvents.
func testFHIR(t *testing.T, s *story) {
	site := fhir.Site{
		Patients: "urn:test:patients", Recordings: "urn:test:recordings", Users: "urn:test:users", Grants: "urn:test:grants",
		Purposes: "urn:test:purposes", Application: fhir.Party{Name: "report", Address: "report.test"},
		Server: fhir.Party{Name: "vault", Address: "vault.test"},
	}
	encoder, err := fhir.New(site)
	require.NoError(t, err)
	bundle := func(file string, options auditlog.Options) (resources []auditEvent, r reported) {
		options.Mount, options.Prefix = s.Place.Mount, s.Place.Prefix
		report, err := auditlog.Read(t.Context(), []auditlog.Source{
			{Name: "audit.log", Open: func() (io.ReadCloser, error) { return os.Open(file) }},
		}, options)
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, report.WriteFHIR(&out, encoder))
		for _, canary := range s.canaries {
			require.NotContains(t, out.String(), canary)
		}
		var b struct {
			ResourceType, Type string
			Entry              []struct {
				FullURL  string
				Resource auditEvent
			}
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &b))
		require.Equal(t, "Bundle collection", b.ResourceType+" "+b.Type)
		ids := map[string]bool{}
		for _, entry := range b.Entry {
			require.Equal(t, "AuditEvent", entry.Resource.ResourceType)
			require.Equal(t, "urn:uuid:"+entry.Resource.ID, entry.FullURL)
			require.False(t, ids[entry.FullURL], "twice: %+v", entry.Resource)
			ids[entry.FullURL] = true
			resources = append(resources, entry.Resource)
		}
		return resources, s.readWith(options, file)
	}

	resources, r := bundle(s.devices[0], auditlog.Options{})
	uses, rows, lives, changes, outside := map[act]int{}, 0, map[string]int{}, 0, []string{}
	for _, e := range resources {
		kind, count, patient, by := "", 1, "", ""
		var a act
		restricted := false
		for _, subtype := range e.Subtype {
			if subtype.System == fhir.Kinds {
				kind = subtype.Code
			}
			restricted = restricted || subtype.Code == "110132" && e.Type.Code == "rest"
		}
		for _, agent := range e.Agent {
			switch {
			case agent.Who.Identifier.System != site.Users:
			case agent.Type.Coding[0].Code == "AUT":
				by = agent.Who.Identifier.Value
				assert.True(t, agent.Requestor)
			default:
				a.subject = agent.Who.Identifier.Value
				assert.NotEqual(t, strings.HasPrefix(kind, "grant-"), agent.Requestor)
				for _, purpose := range agent.PurposeOfUse {
					a.purpose, a.reason = purpose.Coding[0].Code, purpose.Text
				}
			}
		}
		for _, entity := range e.Entity {
			switch id := entity.What.Identifier; {
			case entity.Type.Code == "XrequestId":
				a.request = id.Value
			case id.System == site.Patients && entity.Type.Code == "1":
				patient = id.Value
			case id.System == site.Recordings:
				a.recording = id.Value
			}
			for _, detail := range entity.Detail {
				if detail.Type == "count" {
					_, err := fmt.Sscan(detail.ValueString, &count)
					require.NoError(t, err)
				}
			}
		}
		switch kind {
		case "":
			changes++
		case string(events.GrantIssued), string(events.GrantRevoked):
			lives[kind+" by "+by]++
			assert.NotEmpty(t, patient)
			assert.NotEmpty(t, a.subject)
		default:
			rows++
			assert.Equal(t, strings.SplitN(a.recording, ".", 2)[0], patient)
			assert.False(t, e.Period.Start.IsZero() || e.Period.End.Before(e.Period.Start))
			assert.Equal(t, kind == "opened" || kind == "described", e.Outcome == "0", kind)
			assert.Equal(t, "127.0.0.1", e.Agent[0].Network.Address)
			a.kind = kind
			uses[a] += count
			if restricted {
				outside = append(outside, fmt.Sprint(a.subject, " ", a.recording, " ", strings.Contains(fmt.Sprint(e.Entity), "{wrapped true}")))
			}
		}
	}
	want := map[act]int{}
	for a, n := range s.truth {
		a.kind = map[string]string{
			"opened": "opened", "described": "described", "wrong_patient": "wrong-patient", "refused": "refused", "revoked": "refused",
			"used_up": "exhausted", "expired": "refused", "unknown_token": "refused", "failed": "failed",
		}[a.kind]
		want[a] += n
	}
	assert.Equal(t, want, uses)
	assert.Len(t, r.Accesses, rows)
	assert.ElementsMatch(t, []string{
		fmt.Sprint("root [root] ", s.recordings[10][0], " false"), fmt.Sprint("dr-0 ", s.recordings[11][0], " true"),
	}, outside)
	holder := func(right string) string { return fmt.Sprintf("token [%s-%s]", s.Place.Prefix, right) }
	assert.Equal(t, map[string]int{
		"grant-issued by " + holder("granter"): s.grants, "grant-revoked by " + holder("revoker"): 2,
	}, lives)
	assert.Len(t, r.Changes, changes)

	resources, r = bundle(s.devices[0], auditlog.Options{Subjects: []string{"dr-2"}, Purposes: []string{string(keys.BreakTheGlass)}})
	assert.Len(t, resources, 2+len(r.Changes), "the opening and the issue of the grant")
	none, _ := bundle(s.devices[0], auditlog.Options{Until: time.Now().Add(-24 * time.Hour)})
	assert.Empty(t, none)

	log := slices.DeleteFunc(lines(t, s.devices[0]), func(line []byte) bool { // an opening without its answer, and a grant without its issue
		text := string(line)
		return strings.Contains(text, `"request_id":"er-1"`) && strings.Contains(text, "/decrypt/") && strings.Contains(text, `"type":"response"`) ||
			strings.Contains(text, `"request_id":"er-1"`) && strings.Contains(text, "token/create")
	})
	resources, _ = bundle(save(t, filepath.Join(t.TempDir(), "cut.log"), log), auditlog.Options{Purposes: []string{string(keys.BreakTheGlass)}})
	opened := slices.DeleteFunc(resources, func(e auditEvent) bool { return !strings.Contains(fmt.Sprint(e.Subtype), fhir.Kinds) })
	require.Len(t, opened, 1)
	assert.Contains(t, fmt.Sprint(opened[0].Subtype), "opened")
	assert.Equal(t, "8", opened[0].Outcome)
}

// testEvents reads the event stream of the serving process beside the log.
func testEvents(t *testing.T, s *story) {
	first := lines(t, s.devices[0])
	compare := func(t *testing.T, log [][]byte, events []string) reported {
		t.Helper()
		folder := t.TempDir()
		stream := save(t, filepath.Join(folder, "events.gz"), [][]byte{[]byte(strings.Join(events, "\n") + "\n")})
		return s.readWith(auditlog.Options{
			Events: []auditlog.Source{{Name: "events.gz", Open: func() (io.ReadCloser, error) { return os.Open(stream) }}},
		}, save(t, filepath.Join(folder, "audit.log"), log))
	}
	unequal := func(r reported) (found []string) {
		for _, d := range r.Deliveries {
			if d.Verdict != "equal" {
				found = append(found, fmt.Sprintf("%s %s %s %d %d", d.Verdict, d.Who, d.Recording, d.InLog, d.InEvents))
			}
		}
		return found
	}
	always := []string{ // what was done with Vault itself, past the serving process
		fmt.Sprintf("only_in_log root [root] %s 1 0", s.recordings[10][0]), fmt.Sprintf("only_in_log dr-0 %s 1 0", s.recordings[11][0]),
	}

	r := compare(t, first, s.events)
	assert.ElementsMatch(t, always, unequal(r))
	assert.Equal(t, 2, r.Totals.OnlyInLog)
	assert.Zero(t, r.Totals.OnlyInEvents)
	played, bytes := 0, int64(0)
	for _, d := range r.Deliveries {
		played += d.Played
		bytes += d.Bytes
		if d.Who == "" {
			assert.True(t, d.NamedAfter, "the token that the log cannot name")
		}
	}
	assert.Equal(t, s.read(s.devices[0]).Totals.Uses[auditlog.Opened]-2, played)
	assert.EqualValues(t, 1000*played, bytes)

	i := slices.IndexFunc(s.events, func(line string) bool {
		return strings.Contains(line, `"kind":"opened"`) && strings.Contains(line, `"request_id":"er-1"`)
	})
	require.GreaterOrEqual(t, i, 0)
	id := s.recordings[3][0]
	t.Run("an opening that no process reports", func(t *testing.T) {
		r := compare(t, first, slices.Delete(slices.Clone(s.events), i, i+1))
		assert.ElementsMatch(t, append(always, fmt.Sprintf("only_in_log dr-2 %s 1 0", id)), unequal(r))
	})
	t.Run("an opening that the log lacks", func(t *testing.T) {
		log := slices.DeleteFunc(slices.Clone(first), func(line []byte) bool {
			return strings.Contains(string(line), "/decrypt/") && strings.Contains(string(line), `"request_id":"er-1"`)
		})
		require.Len(t, log, len(first)-2)
		r := compare(t, log, s.events)
		assert.ElementsMatch(t, append(always, fmt.Sprintf("only_in_events dr-2 %s 0 1", id)), unequal(r))
	})
	t.Run("an opening from the cache", func(t *testing.T) {
		event := strings.NewReplacer(`"unwraps":1`, `"unwraps":0`, `"start":0,"end":1000`, `"start":1000,"end":1500`).Replace(s.events[i])
		r := compare(t, first, append(slices.Clone(s.events), `{"level":"INFO","event":`+event+`}`))
		assert.ElementsMatch(t, always, unequal(r))
		at := slices.IndexFunc(r.Deliveries, func(d auditlog.Delivery) bool { return d.RequestID == "er-1" })
		require.GreaterOrEqual(t, at, 0)
		assert.Equal(t, 1, r.Deliveries[at].Cached)
		assert.Equal(t, 2, r.Deliveries[at].Played)
		assert.Equal(t, []events.Range{{Start: 0, End: 1500}}, r.Deliveries[at].Ranges)
	})
	t.Run("a line that is cut", func(t *testing.T) {
		cut := slices.Clone(s.events)
		cut[i] = cut[i][:100]
		r := compare(t, first, cut)
		assert.ElementsMatch(t, append(always, fmt.Sprintf("only_in_log dr-2 %s 1 0", id)), unequal(r))
		assert.Contains(t, r.text, fmt.Sprintf("events.gz:%d", i+1))
	})
	t.Run("events of a part of the time", func(t *testing.T) {
		for _, part := range [][]string{s.events[:s.half], s.events[s.half:]} {
			r := compare(t, first, part)
			assert.Zero(t, r.Totals.OnlyInEvents)
			assert.LessOrEqual(t, r.Totals.OnlyInLog, 2)
		}
	})
}

// differences compares the accesses in a report with the truth, entry by entry.
func (s *story) differences(r *reported) (differences []string) {
	acts := r.acts()
	for a, n := range s.truth {
		if acts[a] != n {
			differences = append(differences, fmt.Sprintf("%+v: happened %d times, reported %d times", a, n, acts[a]))
		}
	}
	for a, n := range acts {
		if s.truth[a] == 0 {
			differences = append(differences, fmt.Sprintf("%+v: never happened, reported %d times", a, n))
		}
	}
	return differences
}

// check compares a report with the truth.
func (s *story) check(r *reported) {
	t := s.t
	t.Helper()
	assert.Empty(t, s.differences(r))

	require.NotEmpty(t, r.Incidents)
	leak := r.Incidents[0]
	assert.Equal(t, "wrong_patient", leak.Kind)
	assert.Equal(t, 60, leak.Attempts)
	assert.Len(t, leak.Subjects, 20)
	assert.Len(t, leak.KeyIDs, 22)
	assert.Len(t, leak.Recordings, 22)
	kinds := map[auditlog.Kind]int{}
	for _, i := range r.Incidents {
		for kind, n := range i.Kinds {
			kinds[kind] += n
		}
	}
	assert.Equal(t, map[auditlog.Kind]int{
		auditlog.WrongPatient: 60, auditlog.Revoked: 4, auditlog.Refused: 1, auditlog.UsedUp: 1, auditlog.Expired: 1, auditlog.UnknownToken: 1,
	}, kinds)

	require.Len(t, r.AfterRevocation, 4)
	for _, a := range r.AfterRevocation {
		assert.False(t, a.Allowed)
		assert.Equal(t, "dr-1", a.Subject)
		assert.Equal(t, s.recordings[7][1].String(), a.Recording)
		assert.Contains(t, a.RevokedBy, "-revoker]")
	}
	unusual := []string{}
	for _, subject := range r.Unusual {
		if subject.Unusual {
			unusual = append(unusual, fmt.Sprint(subject.Subject, " ", subject.Patients, " ", subject.Opened, " ", subject.Described))
		}
	}
	assert.Equal(t, []string{"dr-curious 40 15 65"}, unusual)

	require.Len(t, r.BreakGlass, 1)
	assert.Equal(t, "unconscious, no next of kin", r.BreakGlass[0].Reason)
	assert.Equal(t, 1, r.BreakGlass[0].Opened)

	require.Len(t, r.Outside, 2)
	assert.Equal(t, "root [root]", r.Outside[0].By)
	assert.True(t, r.Outside[1].Wrapped)

	require.Len(t, r.Granters, 1)
	assert.Equal(t, s.grants, r.Granters[0].Issued)
	assert.Equal(t, 1, r.Granters[0].Unused)
	assert.Equal(t, 1, r.Granters[0].OverUsed)
	assert.Len(t, r.Grants, s.grants)
	for _, g := range r.Grants {
		assert.Equal(t, g.RequestID == "unused", g.Unused, g)
		assert.Equal(t, g.MaxUses == 2, g.OverUsed, g)
	}

	paths := []string{}
	for _, change := range r.Changes {
		paths = append(paths, fmt.Sprintf("%d %s %s", change.Count, change.Operation, change.Path))
	}
	for _, path := range []string{
		"1 update sys/audit/second", "1 delete sys/audit/second", "1 update sys/audit/third", "1 update sys/policies/acl/wide",
		"10 update " + s.Place.Mount + "/keys/<KeyID>-kek/rotate", "1 delete " + s.Place.Mount + "/keys/" + s.keyIDs[12].String() + "-kek",
	} {
		assert.Contains(t, paths, path)
	}

	assert.Equal(t, patients, r.Totals.Patients)
}
