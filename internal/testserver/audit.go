package testserver

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"
)

// AuditEntry is a line of Vault's audit file. Of each request there are two: one written before it is
// carried out and one before it is answered. Values are HMACs unless the mount is tuned otherwise.
// (https://developer.hashicorp.com/vault/docs/audit/schema)
type AuditEntry struct {
	Type    string       `json:"type"` // "request" or "response"
	Time    time.Time    `json:"time"`
	Error   string       `json:"error"` // why Vault refused or failed, or ""
	Request AuditRequest `json:"request"`
	Auth    AuditAuth    `json:"auth"`

	Raw json.RawMessage `json:"-"` // the whole line
}

// AuditRequest is what was asked of Vault.
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

// AuditAuth is who asked.
type AuditAuth struct {
	Accessor    string            `json:"accessor"` // an HMAC
	DisplayName string            `json:"display_name"`
	Policies    []string          `json:"policies"`
	EntityID    string            `json:"entity_id"`
	Metadata    map[string]string `json:"metadata"`
	TokenType   string            `json:"token_type"`
}

// Audit returns what was written to the audit file since the test asked for the server. On a shared
// server that includes the requests of tests that run in parallel: look for your own mount.
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
			break // it is being written, so its request has not been answered
		}
		entry := AuditEntry{Raw: bytes.TrimSuffix(line, []byte("\n"))}
		check(t, json.Unmarshal(line, &entry))
		entries = append(entries, entry)
	}
	return entries
}

// AuditFile returns the path of the audit file.
func (s *VaultServer) AuditFile() string { return s.vault.auditFile() }
