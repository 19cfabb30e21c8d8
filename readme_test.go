package recvault_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

// snippets returns the Go files in README.md: the package of the first page and the service of the second.
func snippets(t *testing.T) (library, service string) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	require.Len(t, found, 2)
	return string(found[0][1]), string(found[1][1])
}

// build builds a file as a developer would who saved it in a clone, and returns the program's path.
func build(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	file, program := filepath.Join(dir, "snippet.go"), filepath.Join(dir, "snippet")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	printed, err := exec.Command("go", "build", "-o", program, file).CombinedOutput()
	require.NoError(t, err, "%s", printed)
	printed, err = exec.Command("go", "vet", file).CombinedOutput()
	require.NoError(t, err, "%s", printed)
	return program
}

func TestReadmeSnippetsBuildAsPrinted(t *testing.T) {
	library, service := snippets(t)
	build(t, library)
	build(t, service)
}

// dependencies returns the modules in README.md's table, each with why it is needed.
func dependencies(t *testing.T) map[string]string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	why := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`.+) \\| (.+) \\|$").FindAllStringSubmatch(string(readme), -1) {
		folder := ""
		for _, module := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			path := strings.Replace(module[1], "...", folder, 1)
			why[path], folder = row[2], path[:strings.LastIndex(path, "/")]
		}
	}
	return why
}

func TestReadmeListsEveryDependency(t *testing.T) {
	listed := dependencies(t)
	printed, err := exec.Command("go", "mod", "edit", "-json").Output()
	require.NoError(t, err)
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	require.NoError(t, json.Unmarshal(printed, &mod))
	var direct []string
	for _, required := range mod.Require {
		if !required.Indirect {
			direct = append(direct, required.Path)
		}
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(listed)), direct)

	// What is for the command or the tests alone is not built into programs that import the library.
	built, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}",
		"./vault/...", "./keys", "./keys/local", "./keys/transit/...", "./storage", "./storage/s3", "./storage/dir").Output()
	require.NoError(t, err)
	for module, why := range listed {
		others := strings.Contains(why, "do not build them") || strings.Contains(why, "likewise") || strings.Contains(why, "tests only")
		assert.Equal(t, !others, slices.Contains(strings.Fields(string(built)), module), module)
	}
}

func TestReadmeServicePlaysARecording(t *testing.T) {
	vaultServer, minioServer := testserver.Vault(t), testserver.MinIO(t)
	store, err := s3.New(minioServer.Client(), minioServer.Bucket())
	require.NoError(t, err)
	storeID, err := vault.StoreID(t.Context(), store, "")
	require.NoError(t, err)
	admin := vaultServer.Client(vaultServer.RootToken())
	_, err = transit.Setup(t.Context(), admin, transit.SetupOptions{Store: storeID}) // the defaults, as in the README
	require.NoError(t, err)
	keyring, err := transit.New(admin, transit.Options{})
	require.NoError(t, err)
	v, err := vault.New(keyring, store)
	require.NoError(t, err)
	ids := map[keys.Patient]vault.ID{}
	for _, patient := range []keys.Patient{"patient 1", "patient 2"} {
		_, err = keyring.Enrol(t.Context(), patient)
		require.NoError(t, err)
		ids[patient], err = v.Put(t.Context(), patient, bytes.NewReader(sample.Video), vault.Metadata{ContentType: sample.ContentType})
		require.NoError(t, err)
	}
	grant, err := keyring.Issue(t.Context(), "patient 1", keys.GrantOptions{TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
	require.NoError(t, err)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	_, service := snippets(t)
	require.Contains(t, service, `"127.0.0.1:8080"`)
	command := exec.Command(build(t, strings.Replace(service, "127.0.0.1:8080", address, 1)))
	command.Env = []string{
		"VAULT_ADDR=" + vaultServer.Address(), "AWS_ENDPOINT_URL=http://" + minioServer.Endpoint(), "RECVAULT_BUCKET=" + minioServer.Bucket(),
		"AWS_REGION=" + minioServer.Region(), "AWS_ACCESS_KEY_ID=" + minioServer.AccessKey(), "AWS_SECRET_ACCESS_KEY=" + minioServer.SecretKey(),
		"GRANT=" + grant.Reveal(),
	}
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	require.Eventually(t, func() bool {
		connection, err := net.Dial("tcp", address)
		return err == nil && connection.Close() == nil
	}, time.Minute, 10*time.Millisecond)

	get := func(id, rangeHeader string) (int, []byte) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/"+id, nil)
		require.NoError(t, err)
		request.Header.Set("Range", rangeHeader)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, body
	}
	status, body := get(ids["patient 1"].String(), "")
	assert.Equal(t, http.StatusOK, status)
	assert.True(t, bytes.Equal(sample.Video, body))
	status, body = get(ids["patient 1"].String(), "bytes=100000-100009")
	assert.Equal(t, http.StatusPartialContent, status)
	assert.Equal(t, sample.Video[100000:100010], body)
	status, _ = get(ids["patient 2"].String(), "")
	assert.Equal(t, http.StatusForbidden, status)
	status, _ = get("nonsense", "")
	assert.Equal(t, http.StatusNotFound, status)
}
