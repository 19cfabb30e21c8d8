// Package auditor tests the independent reader in this directory: on the test vectors, and on what recvault writes. It
// needs node. If that is missing, its tests are skipped, or fail if the environment has RECVAULT_SERVERS=require.
package auditor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// node returns a command that runs a script of this directory, without the user's settings.
func node(t *testing.T, arguments ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		end := t.Skipf
		if os.Getenv("RECVAULT_SERVERS") == "require" {
			end = t.Fatalf
		}
		end("node is missing: install it, for example with apt-get install nodejs")
	}
	cmd := exec.CommandContext(t.Context(), path, arguments...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return cmd
}

func TestReaderPassesItsOwnTests(t *testing.T) {
	output, err := node(t, "--test").CombinedOutput()
	require.NoError(t, err, "%s", output)
}

func TestReaderPassesTheVectors(t *testing.T) {
	output, err := node(t, "vectors.mjs").CombinedOutput()
	require.NoError(t, err, "%s", output)
	t.Logf("%s", output)
}

// job is a line of input of batch.mjs, and answer a line of its output.
type job struct {
	ID       vault.ID `json:"id"`
	Envelope string   `json:"envelope"`
	Media    string   `json:"media"`
	Key      []byte   `json:"key"`
	Offset   int      `json:"offset"`
	Length   int      `json:"length"`
}

type answer struct {
	Class, Reason string
	Metadata      fields
	Size          int
	Whole, Range  string
}

// fields are the metadata of a recording as the reader prints it.
type fields struct {
	ContentType string            `json:"content_type"`
	Title       string            `json:"title"`
	RecordedAt  time.Time         `json:"recorded_at"`
	DurationMS  int64             `json:"duration_ms"`
	Attributes  map[string]string `json:"attributes"`
	Truncated   bool              `json:"truncated"`
}

func fieldsOf(m vault.Metadata) fields {
	return fields{m.ContentType, m.Title, m.RecordedAt, m.Duration.Milliseconds(), m.Attributes, m.Truncated}
}

// Both readers must give back what was put.
func TestReaderOpens1000RandomRecordings(t *testing.T) {
	const recordings = 1000
	d := testdeployment.Embedded(t)
	v := newVault(t, d)
	patient, _ := d.Enrol(t)
	grant := d.Grant(t, patient)
	random := rand.New(rand.NewPCG(1, 12))

	var input bytes.Buffer
	var expected []answer
	for range recordings {
		plaintext := randomBytes(random, randomSize(random))
		described := randomMetadata(random)
		id, err := v.Put(t.Context(), patient, bytes.NewReader(plaintext), described)
		require.NoError(t, err)

		objects := objectsOf(d, id)
		j := job{
			ID: id, Envelope: filepath.Join(objects, "envelope"), Media: filepath.Join(objects, "media"),
			Key:    unwrap(t, d, grant, id),
			Offset: random.IntN(len(plaintext) + 2), Length: random.IntN(150_000),
		}
		require.NoError(t, json.NewEncoder(&input).Encode(j))
		from := min(j.Offset, len(plaintext))
		expected = append(expected, answer{
			Class: "ok", Metadata: fieldsOf(described), Size: len(plaintext),
			Whole: digest(plaintext), Range: digest(plaintext[from:min(from+j.Length, len(plaintext))]),
		})

		recording, err := v.Open(t.Context(), grant, id)
		require.NoError(t, err)
		var opened bytes.Buffer
		_, err = recording.WriteTo(&opened)
		require.NoError(t, err)
		assert.Equal(t, fieldsOf(described), fieldsOf(recording.Info().Metadata))
		require.NoError(t, recording.Close())
		require.True(t, bytes.Equal(plaintext, opened.Bytes()))
	}

	cmd := node(t, "batch.mjs")
	cmd.Stdin, cmd.Stderr = &input, os.Stderr
	output, err := cmd.Output()
	require.NoError(t, err)
	answers := json.NewDecoder(bytes.NewReader(output))
	for i, want := range expected {
		var got answer
		require.NoError(t, answers.Decode(&got))
		require.Equal(t, want, got, "recording %d", i)
	}
}

// The size of a recording has no part in the memory that the reader needs.
func TestReaderStreams(t *testing.T) {
	const size, bound = 400 << 20, 200 << 20
	d := testdeployment.Embedded(t)
	v := newVault(t, d)
	patient, _ := d.Enrol(t)
	id, err := v.Put(t.Context(), patient, io.LimitReader(zeros{}, size), vault.Metadata{}, vault.WithSize(size))
	require.NoError(t, err)
	objects := objectsOf(d, id)
	key := write(t, "key", []byte(hex.EncodeToString(unwrap(t, d, d.Grant(t, patient), id))))

	cmd := node(t, "--import", "data:text/javascript,process.on('exit',()=>console.error(process.resourceUsage().maxRSS))",
		"cli.mjs", "open", "--id", id.String(), "--recording-key", key, "--out", filepath.Join(t.TempDir(), "out"),
		"--envelope", filepath.Join(objects, "envelope"), "--media", filepath.Join(objects, "media"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Run(), "%s", &stderr)
	peak, err := strconv.Atoi(strings.TrimSpace(stderr.String())) // in KiB
	require.NoError(t, err)
	assert.Less(t, peak<<10, bound)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// objectsOf returns the directory of a recording's objects on the embedded default.
func objectsOf(d *testdeployment.Deployment, id vault.ID) string {
	return filepath.Join(d.Place.Dir, "objects", "objects", "recordings", id.KeyID().String(), id.Rec())
}

func newVault(t *testing.T, d *testdeployment.Deployment) *vault.Vault {
	t.Helper()
	v, err := vault.New(d.Keyring(testdeployment.Admin), d.Store)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

// unwrap returns RK of a recording, by the wrapped key in its envelope.
func unwrap(t *testing.T, d *testdeployment.Deployment, grant keys.Grant, id vault.ID) []byte {
	t.Helper()
	var parsed struct {
		WrappedKey keys.WrappedKey `json:"wrapped_key"`
	}
	require.NoError(t, json.Unmarshal(teststore.Read(t, d.Store, name(id, "envelope")), &parsed))
	key, err := d.Keyring(testdeployment.Server).Unwrap(t.Context(), grant, id.Binding(), parsed.WrappedKey)
	require.NoError(t, err)
	return key.Bytes()
}

// boundaries are sizes of plaintext at which a segment ends.
var boundaries = []int{0, 65_480, 131_000, 196_520}

// randomSize returns a size of up to four segments. One in four is at most a byte from a boundary.
func randomSize(random *rand.Rand) int {
	if random.IntN(4) == 0 {
		return max(0, boundaries[random.IntN(len(boundaries))]+random.IntN(3)-1)
	}
	return random.IntN(200_000)
}

func randomBytes(random *rand.Rand, size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}

// randomMetadata returns metadata in which each field may be missing.
func randomMetadata(random *rand.Rand) vault.Metadata {
	var m vault.Metadata
	if random.IntN(2) == 0 {
		m.ContentType = []string{"video/webm", "audio/ogg; codecs=\"opus\"", "video/mp4"}[random.IntN(3)]
	}
	if random.IntN(2) == 0 {
		m.Title = randomText(random, 1+random.IntN(250))
	}
	if random.IntN(2) == 0 {
		m.RecordedAt = time.Unix(random.Int64N(4e9), random.Int64N(1e9)).UTC()
	}
	if random.IntN(2) == 0 {
		m.Duration = time.Duration(1+random.Int64N(1e8)) * time.Millisecond
	}
	if count := random.IntN(6); count > 0 {
		m.Attributes = map[string]string{}
		for range count {
			m.Attributes[randomText(random, 1+random.IntN(20))] = randomText(random, random.IntN(500))
		}
	}
	m.Truncated = random.IntN(2) == 0
	return m
}

// randomText returns text with what JSON escapes and other characters of one to four bytes.
func randomText(random *rand.Rand, length int) string {
	alphabet := []rune("aZ09 \"\\/<>&\x00\b\t\n\x1f\x7fäéß\u2028\ufeff回診\uffff\U0001fa7a\U0010ffff")
	var text strings.Builder
	for range length {
		text.WriteRune(alphabet[random.IntN(len(alphabet))])
	}
	return text.String()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// stored is a recording on real servers, and where the reader finds it.
type stored struct {
	id        vault.ID
	plaintext []byte
	metadata  vault.Metadata
	objects   []string // arguments of the reader that name the objects
}

// store puts a recording and downloads its objects.
func store(t *testing.T, d *testdeployment.Deployment, v *vault.Vault, patient keys.Patient, size int) stored {
	t.Helper()
	random := rand.New(rand.NewPCG(2, uint64(size)))
	s := stored{plaintext: randomBytes(random, size), metadata: randomMetadata(random)}
	var err error
	s.id, err = v.Put(t.Context(), patient, bytes.NewReader(s.plaintext), s.metadata)
	require.NoError(t, err)
	for _, object := range []string{"envelope", "media"} {
		data := teststore.Read(t, d.Store, name(s.id, object))
		s.objects = append(s.objects, "--"+object, write(t, object, data))
	}
	return s
}

// name returns the name of an object of a recording.
func name(id vault.ID, object string) string {
	return "recordings/" + id.KeyID().String() + "/" + id.Rec() + "/" + object
}

// write writes a file of the test's own.
func write(t *testing.T, name string, data []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// shown are the arguments of the reader that show a grant.
func shown(t *testing.T, d *testdeployment.Deployment, grant string) []string {
	t.Helper()
	file := write(t, "grant", []byte(grant+"\n"))
	return []string{"--grant", file, "--vault", d.Vault.Address(), "--mount", d.Vault.Mount()}
}

// read runs the reader. outcome is "ok" or what standard error begins with.
func read(t *testing.T, command string, id vault.ID, arguments ...[]string) (output []byte, outcome string) {
	t.Helper()
	cmd := node(t, append([]string{"cli.mjs", command, "--id", id.String()}, slices.Concat(arguments...)...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err == nil {
		return output, "ok"
	}
	outcome, _, _ = strings.Cut(stderr.String(), ":")
	assert.NotContains(t, stderr.String(), "hvs.")
	return output, outcome
}

func TestReaderOpensFromRealServersWithAGrant(t *testing.T) {
	d := testdeployment.Servers(t)
	v := newVault(t, d)
	patient, _ := d.Enrol(t)
	grant := shown(t, d, d.Grant(t, patient).Reveal())
	for _, size := range []int{0, 1, 65_479, 65_480, 65_481, 131_000, 131_001, 300_000} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			s := store(t, d, v, patient, size)

			output, outcome := read(t, "describe", s.id, s.objects[:2], grant)
			require.Equal(t, "ok", outcome)
			var described struct {
				Metadata fields
				Length   int
			}
			require.NoError(t, json.Unmarshal(output, &described))
			assert.Equal(t, fieldsOf(s.metadata), described.Metadata)
			assert.Equal(t, size, described.Length)

			path := filepath.Join(t.TempDir(), "out")
			_, outcome = read(t, "open", s.id, s.objects, grant, []string{"--out", path})
			require.Equal(t, "ok", outcome)
			output, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(s.plaintext, output))

			for _, r := range [][2]int{{0, 1}, {size / 2, 70_000}, {max(size-1, 0), 10}, {size, 1}} {
				output, outcome = read(t, "range", s.id, s.objects, grant, cut(r))
				require.Equal(t, "ok", outcome)
				assert.True(t, bytes.Equal(s.plaintext[r[0]:min(r[0]+r[1], size)], output), "range %v", r)
			}
		})
	}
}

func cut(r [2]int) []string {
	return []string{"--offset", strconv.Itoa(r[0]), "--length", strconv.Itoa(r[1]), "--out", "-"}
}

func TestReaderReadsFromPresignedURLs(t *testing.T) {
	d := testdeployment.Servers(t)
	v := newVault(t, d)
	patient, _ := d.Enrol(t)
	grant := shown(t, d, d.Grant(t, patient).Reveal())
	s := store(t, d, v, patient, 300_000)
	var urls []string
	for _, object := range []string{"envelope", "media"} {
		client, bucket := d.MinIO.Client(), d.MinIO.Bucket()
		presigned, err := client.PresignedGetObject(t.Context(), bucket, name(s.id, object), time.Hour, nil)
		require.NoError(t, err)
		urls = append(urls, "--"+object+"-url", write(t, object, []byte(presigned.String())))
	}

	output, outcome := read(t, "open", s.id, urls, grant, []string{"--out", "-"})
	require.Equal(t, "ok", outcome)
	assert.True(t, bytes.Equal(s.plaintext, output))
	output, outcome = read(t, "range", s.id, urls, grant, cut([2]int{100_000, 100_000}))
	require.Equal(t, "ok", outcome)
	assert.True(t, bytes.Equal(s.plaintext[100_000:200_000], output))

	media := teststore.Read(t, d.Store, name(s.id, "media"))
	for _, altered := range [][]byte{nil, media[:70_000], append(media, 0)} {
		teststore.Write(t, d.Store, name(s.id, "media"), altered)
		_, outcome = read(t, "range", s.id, urls, grant, cut([2]int{200_000, 1}))
		assert.Equal(t, "damaged", outcome, "media of %d bytes", len(altered))
	}
	require.NoError(t, d.Store.Delete(t.Context(), name(s.id, "media")))
	_, outcome = read(t, "open", s.id, urls, grant, []string{"--out", "-"})
	assert.Equal(t, "damaged", outcome)
	require.NoError(t, d.Store.Delete(t.Context(), name(s.id, "envelope")))
	_, outcome = read(t, "open", s.id, urls, grant, []string{"--out", "-"})
	assert.Equal(t, "not-found", outcome)
}

func TestReaderIsRefusedByARealVault(t *testing.T) {
	d := testdeployment.Servers(t)
	v := newVault(t, d)
	patient, keyID := d.Enrol(t)
	stranger, _ := d.Enrol(t)
	s := store(t, d, v, patient, 70_000)
	out := filepath.Join(t.TempDir(), "out")
	requireOutcome := func(want, command string, access ...[]string) {
		t.Helper()
		arguments := append([][]string{s.objects, {"--out", out}}, access...)
		output, outcome := read(t, command, s.id, arguments...)
		require.Equal(t, want, outcome)
		if command == "open" {
			require.Empty(t, output)
			if want == "ok" {
				require.NoError(t, os.Remove(out))
			}
			require.NoFileExists(t, out)
			require.NoFileExists(t, out+".partial")
		}
	}

	grant := d.Grant(t, patient)
	own := shown(t, d, grant.Reveal())
	requireOutcome("ok", "open", own)

	foreign := shown(t, d, d.Grant(t, stranger).Reveal())
	requireOutcome("wrong-patient", "open", foreign)
	requireOutcome("wrong-patient", "describe", foreign)

	describing, err := d.Keyring(testdeployment.Granter).Issue(t.Context(), patient, keys.GrantOptions{
		TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, DescribeOnly: true,
	})
	require.NoError(t, err)
	requireOutcome("ok", "describe", shown(t, d, describing.Reveal()))
	requireOutcome("denied", "open", shown(t, d, describing.Reveal()))

	ended := d.Grant(t, patient)
	require.NoError(t, v.EndGrant(t.Context(), ended))
	requireOutcome("invalid-grant", "open", shown(t, d, ended.Reveal()))
	requireOutcome("invalid-grant", "describe", shown(t, d, ended.Reveal()))

	unknown := keys.NewGrant(grant.Details(), "hvs.unknown")
	requireOutcome("invalid-grant", "open", shown(t, d, unknown.Reveal()))

	swapped := teststore.Read(t, d.Store, name(s.id, "envelope"))
	wraps := regexp.MustCompile(`"wrapped_key":"(.*)","wrapped_metadata_key":"(.*)","commitment"`)
	swapped = wraps.ReplaceAll(swapped, []byte(`"wrapped_key":"$2","wrapped_metadata_key":"$1","commitment"`))
	exchanged := []string{"--envelope", write(t, "envelope", swapped)}
	requireOutcome("damaged", "open", own, exchanged)
	requireOutcome("damaged", "describe", own, exchanged)

	requireOutcome("unavailable", "open", own, []string{"--vault", "http://127.0.0.1:1"})

	require.NoError(t, d.Keyring(testdeployment.Rotator).Rotate(t.Context(), keyID))
	requireOutcome("ok", "open", own)
	require.NoError(t, d.Keyring(testdeployment.Retirer).Retire(t.Context(), keyID, 2))
	requireOutcome("retired", "open", own)

	require.NoError(t, d.Keyring(testdeployment.Eraser).Erase(t.Context(), keyID))
	requireOutcome("erased", "open", own)
	requireOutcome("erased", "describe", own)

	mark := d.Vault.Mount() + "/keys/erased-" + keyID.String() + "-kek"
	admin := d.Vault.Client(d.Vault.RootToken()).Logical()
	_, err = admin.WriteWithContext(t.Context(), mark+"/config", map[string]any{"deletion_allowed": true})
	require.NoError(t, err)
	_, err = admin.DeleteWithContext(t.Context(), mark)
	require.NoError(t, err)
	requireOutcome("not-enrolled", "open", own)
}
