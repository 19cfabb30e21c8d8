package testserver

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// AuditEntry is a line of Vault's audit file. Each request has two: Vault writes one before it executes the
// request and one before it answers. Values are HMACs unless the mount is tuned otherwise.
// (https://developer.hashicorp.com/vault/docs/audit/schema)
type AuditEntry struct {
	Type    string       `json:"type"` // "request" or "response"
	Time    time.Time    `json:"time"`
	Error   string       `json:"error"` // the reason if Vault refused or failed, or ""
	Request AuditRequest `json:"request"`
	Auth    AuditAuth    `json:"auth"`

	Raw json.RawMessage `json:"-"` // the whole line
}

// AuditRequest is the request in an audit entry.
type AuditRequest struct {
	ID         string         `json:"id"`
	Operation  string         `json:"operation"` // "create", "read", "update", "delete", "list", ...
	Path       string         `json:"path"`
	MountPoint string         `json:"mount_point"` // ends in a slash
	Namespace  AuditNamespace `json:"namespace"`
	Data       map[string]any `json:"data"`
}

// AuditNamespace is the Vault Enterprise namespace of a request; other editions have "root".
type AuditNamespace struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

// AuditAuth identifies the token of a request.
type AuditAuth struct {
	Accessor    string            `json:"accessor"` // an HMAC
	DisplayName string            `json:"display_name"`
	Policies    []string          `json:"policies"`
	EntityID    string            `json:"entity_id"`
	Metadata    map[string]string `json:"metadata"`
	TokenType   string            `json:"token_type"`
}

// Audit returns the entries that were written to the audit file since the test requested the server. On a
// shared server they include the requests of parallel tests: select those of your own mount.
func (s *VaultServer) Audit(t testing.TB) []AuditEntry {
	t.Helper()
	file, err := os.Open(s.AuditFile())
	check(t, err)
	defer file.Close()
	written, err := io.ReadAll(io.NewSectionReader(file, s.auditFrom, fileSize(file.Name())))
	check(t, err)
	var entries []AuditEntry
	for line := range bytes.Lines(written) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // the line is incomplete, so Vault has not yet answered its request
		}
		entry := AuditEntry{Raw: bytes.TrimSuffix(line, []byte("\n"))}
		check(t, json.Unmarshal(line, &entry))
		entries = append(entries, entry)
	}
	return entries
}

// Unwrapped returns the contexts of all decrypts with a Transit key, allowed or refused, in order. The context shows whether
// a recording was opened or described.
func (s *VaultServer) Unwrapped(t testing.TB, key string) (contexts []string) {
	t.Helper()
	for _, entry := range s.Audit(t) {
		if entry.Type != "response" || !strings.HasSuffix(entry.Request.Path, "/decrypt/"+key) {
			continue
		}
		encoded, _ := entry.Request.Data["context"].(string)
		text, err := base64.StdEncoding.DecodeString(encoded)
		check(t, err)
		contexts = append(contexts, string(text))
	}
	return contexts
}

// AuditFile returns the path of the audit file.
func (s *VaultServer) AuditFile() string { return s.vault.auditFile() }
