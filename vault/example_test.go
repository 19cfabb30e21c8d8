package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

const (
	alice = keys.Patient("943 476 5919")
	bob   = keys.Patient("943 476 5870")
)

// example is the embedded default in a temporary directory, with Alice and Bob enrolled.
type example struct {
	keyring *local.Keyring
	vault   *vault.Vault
	path    string
}

func newExample(options ...vault.Option) *example {
	path, err := os.MkdirTemp("", "recvault-example-")
	if err != nil {
		log.Fatal(err)
	}
	keyring, err := local.Open(filepath.Join(path, "keys"), local.Options{})
	if err != nil {
		log.Fatal(err)
	}
	store, err := dir.Open(filepath.Join(path, "objects"))
	if err != nil {
		log.Fatal(err)
	}
	v, err := vault.New(keyring, store, options...)
	if err != nil {
		log.Fatal(err)
	}
	for _, patient := range []keys.Patient{alice, bob} {
		if _, err := keyring.Enrol(context.Background(), patient); err != nil {
			log.Fatal(err)
		}
	}
	return &example{keyring, v, path}
}

func (e *example) remove() { _ = os.RemoveAll(e.path) }

func (e *example) put(patient keys.Patient, text string) vault.ID {
	id, err := e.vault.Put(context.Background(), patient, strings.NewReader(text), vault.Metadata{Title: "Follow-up"})
	if err != nil {
		log.Fatal(err)
	}
	return id
}

func (e *example) grant(patient keys.Patient) keys.Grant {
	grant, err := e.keyring.Issue(context.Background(), patient, keys.GrantOptions{
		TTL: 15 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment,
	})
	if err != nil {
		log.Fatal(err)
	}
	return grant
}

func ExampleWithEvents() {
	e := newExample(vault.WithEvents(events.New(
		events.JSON(io.Discard), // in production, a file that is shipped to where audit logs are kept
		func(e events.Event) error {
			fmt.Println(e.Kind, e.Grant.Subject, e.Bytes)
			return nil
		},
	)))
	defer e.remove()
	id := e.put(alice, "Alice's consultation")
	recording, err := e.vault.Open(context.Background(), e.grant(alice), id)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := recording.ReadAt(make([]byte, 5), 0); err != nil {
		log.Fatal(err)
	}
	if err := recording.Close(); err != nil {
		log.Fatal(err)
	}
	_, err = e.vault.Open(context.Background(), e.grant(bob), id) // the bug of 2020
	fmt.Println(errors.Is(err, keys.ErrDenied))
	if err := e.vault.Close(); err != nil { // delivers the events
		log.Fatal(err)
	}
	// Unordered output:
	// stored  0
	// opened dr-lee 5
	// true
	// wrong-patient dr-lee 0
}

func ExampleNew() {
	path, err := os.MkdirTemp("", "recvault-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(path)

	keyring, err := local.Open(filepath.Join(path, "keys"), local.Options{}) // or transit.New
	if err != nil {
		log.Fatal(err)
	}
	store, err := dir.Open(filepath.Join(path, "objects")) // or s3.New
	if err != nil {
		log.Fatal(err)
	}
	v, err := vault.New(keyring, store, vault.WithPrefix("consultations/"))
	fmt.Println(v != nil, err)
	// Output: true <nil>
}

func ExampleVault_Put() {
	e := newExample()
	defer e.remove()
	ctx := context.Background()

	video := strings.NewReader("the bytes of a video") // any io.Reader
	id, err := e.vault.Put(ctx, alice, video, vault.Metadata{
		ContentType: "video/webm",
		Title:       "Follow-up",
		RecordedAt:  time.Date(2026, 3, 4, 10, 30, 0, 0, time.UTC),
		Duration:    20 * time.Minute,
		Attributes:  map[string]string{"clinic": "north"},
	})
	fmt.Println(len(id.String()), err)

	_, err = e.vault.Put(ctx, "a stranger", video, vault.Metadata{})
	fmt.Println(errors.Is(err, keys.ErrNotEnrolled))
	// Output:
	// 59 <nil>
	// true
}

func ExampleVault_Create() {
	e := newExample()
	defer e.remove()

	w, err := e.vault.Create(context.Background(), alice, vault.Metadata{ContentType: "video/webm"})
	if err != nil {
		log.Fatal(err)
	}
	for _, frame := range []string{"frame 1, ", "frame 2, ", "frame 3"} {
		if _, err := io.WriteString(w, frame); err != nil {
			w.Abort()
			log.Fatal(err)
		}
	}
	if err := w.SetMetadata(vault.Metadata{ContentType: "video/webm", Duration: 3 * time.Second}); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil { // now the recording exists
		log.Fatal(err)
	}

	info, err := e.vault.Stat(context.Background(), e.grant(alice), w.ID())
	fmt.Println(info.Size, info.Duration, err)
	// Output: 25 3s <nil>
}

func ExampleVault_Open() {
	e := newExample()
	defer e.remove()
	ctx := context.Background()
	id := e.put(alice, "Alice's consultation")

	recording, err := e.vault.Open(ctx, e.grant(alice), id)
	if err != nil {
		log.Fatal(err)
	}
	defer recording.Close()
	text, err := io.ReadAll(recording) // over HTTP, see ServeRecording
	fmt.Printf("%s %v\n", text, err)

	// An ID that leaked to Bob opens nothing.
	_, err = e.vault.Open(ctx, e.grant(bob), id)
	fmt.Println(errors.Is(err, keys.ErrDenied))
	// Output:
	// Alice's consultation <nil>
	// true
}

func ExampleVault_ServeRecording() {
	e := newExample()
	defer e.remove()
	id := e.put(alice, "Alice's consultation")

	// The grant comes from the application's session. The ID may come from anywhere.
	session := e.grant(alice)
	site := http.NewServeMux()
	site.HandleFunc("GET /recordings/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := vault.ParseID(r.PathValue("id"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		e.vault.ServeRecording(w, r, session, id)
	})

	request := httptest.NewRequest(http.MethodGet, "/recordings/"+id.String(), nil)
	request.Header.Set("Range", "bytes=8-")
	response := httptest.NewRecorder()
	site.ServeHTTP(response, request)
	fmt.Println(response.Code, response.Body)

	session = e.grant(bob)
	response = httptest.NewRecorder()
	site.ServeHTTP(response, request)
	fmt.Print(response.Code, " ", response.Body)
	// Output:
	// 206 consultation
	// 403 The grant does not open this recording.
}

func ExampleVault_Stat() {
	e := newExample()
	defer e.remove()
	id := e.put(alice, "Alice's consultation")

	info, err := e.vault.Stat(context.Background(), e.grant(alice), id)
	fmt.Println(info.Title, info.Size, err)
	// Output: Follow-up 20 <nil>
}

func ExampleVault_List() {
	e := newExample()
	defer e.remove()
	id := e.put(alice, "Alice's consultation")
	e.put(bob, "Bob's consultation")

	for entry, err := range e.vault.List(context.Background(), alice) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(entry.ID == id, entry.Size)
	}
	// Output: true 20
}

func ExampleVault_ListByKeyID() {
	e := newExample()
	defer e.remove()
	e.put(alice, "Alice's consultation")

	// The process that serves recordings knows no patient identifiers. It lists with the grant's KeyID.
	grant := e.grant(alice)
	for entry, err := range e.vault.ListByKeyID(context.Background(), grant.KeyID()) {
		if err != nil {
			log.Fatal(err)
		}
		info, err := e.vault.Stat(context.Background(), grant, entry.ID)
		fmt.Println(info.Title, err)
	}
	// Output: Follow-up <nil>
}

func ExampleVault_Delete() {
	e := newExample()
	defer e.remove()
	ctx := context.Background()
	id := e.put(alice, "Alice's consultation")

	fmt.Println(errors.Is(e.vault.Delete(ctx, bob, id), vault.ErrNotFound)) // not Bob's to delete
	fmt.Println(e.vault.Delete(ctx, alice, id))
	_, err := e.vault.Open(ctx, e.grant(alice), id)
	fmt.Println(errors.Is(err, vault.ErrNotFound))
	// Output:
	// true
	// <nil>
	// true
}
