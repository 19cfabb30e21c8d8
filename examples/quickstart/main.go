// Command quickstart shows what recvault is for, on one screen: two patients, two recordings, and a
// listing that leaks an ID, with which nothing can be opened.
//
//	go run ./examples/quickstart
//
// It needs nothing but Go. It works in a temporary directory and removes it at the end. With VAULT_ADDR
// and VAULT_TOKEN (an administrator's) in the environment, it keeps its keys in that Vault. With
// AWS_ENDPOINT_URL, and credentials where the tools of AWS and MinIO look for them, it keeps its objects
// on that S3 server. Package examples/internal/deployment says what it makes there.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/recvault/recvault/examples/internal/deployment"
	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	d, err := deployment.New(ctx, "quickstart", 10*time.Minute)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Remove()) }()
	s := &story{Deployment: d, out: out, alerts: make(chan events.Event, 2)}
	s.say("recvault quickstart: keys in %s, recordings in %s", d.KeysAt, d.ObjectsAt)
	return s.play(ctx)
}

// story is the demonstration. Each part of its deployment could be a process of its own.
type story struct {
	*deployment.Deployment
	out    io.Writer
	alerts chan events.Event // from the process that serves
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// play runs the five scenes in order.
func (s *story) play(ctx context.Context) (err error) {
	writer, err := vault.New(s.Writer, s.Store, vault.WithPrefix(s.Prefix))
	if err != nil {
		return err
	}
	server, err := vault.New(s.Server, s.Store, vault.WithPrefix(s.Prefix),
		vault.WithEvents(events.New(func(event events.Event) error {
			if event.Level() >= slog.LevelWarn {
				s.alerts <- event // in production, to who is on call
			}
			return nil
		})))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	s.say("\n1. Two patients, two consultations. Each is encrypted under a key of its own, and has an ID.")
	alice, err := s.record(ctx, writer, "Alice")
	if err != nil {
		return err
	}
	bob, err := s.record(ctx, writer, "Bob")
	if err != nil {
		return err
	}

	s.say("\n2. Bob logs in and gets a grant for his own recordings. With it, his recording plays.")
	bobsGrant, err := s.grant(ctx, "Bob")
	if err != nil {
		return err
	}
	if err := s.watch(ctx, server, bobsGrant, bob); err != nil {
		return err
	}

	s.say("\n3. The bug of 2020: a listing gives Bob the ID of Alice's recording, and the server tries to open it with his grant.")
	_, err = server.Open(ctx, bobsGrant, alice)
	if !errors.Is(err, keys.ErrDenied) {
		return fmt.Errorf("want %w, got %w", keys.ErrDenied, err)
	}
	s.say("   REFUSED   %v", shorten(err))
	if err := s.alert(ctx); err != nil {
		return err
	}
	if err := s.showNoise(ctx, alice); err != nil {
		return err
	}

	s.say("\n4. With Alice's own grant it plays, from any position.")
	alicesGrant, err := s.grant(ctx, "Alice")
	if err != nil {
		return err
	}
	if err := s.watch(ctx, server, alicesGrant, alice); err != nil {
		return err
	}

	s.say("\n5. Somebody with write access to the storage flips one bit of Alice's recording (%s).", size(len(sample.Video)))
	if err := s.flipBit(ctx, alice); err != nil {
		return err
	}
	recording, err := server.Open(ctx, alicesGrant, alice)
	if err != nil {
		return err
	}
	defer recording.Close()
	played, err := io.Copy(io.Discard, recording)
	if !errors.Is(err, vault.ErrDamaged) {
		return fmt.Errorf("want %w, got %w", vault.ErrDamaged, err)
	}
	s.say("   CAUGHT    %v", err)
	s.say("             The %s before it were delivered intact, and nothing after it.", size(int(played)))
	if err := s.alert(ctx); err != nil {
		return err
	}

	s.say("\nAn ID is not a key. Whether a grant fits is decided by %s, not by the application.", s.Decides)
	s.say("Next: go run ./examples/portal (the bug in a patient portal), and make dev (a real Vault and MinIO, to build on).")
	return nil
}

// record enrols a patient and puts the sample as their consultation.
func (s *story) record(ctx context.Context, v *vault.Vault, patient string) (vault.ID, error) {
	if err := s.Enrol(ctx, s.Patient(patient)); err != nil {
		return vault.ID{}, err
	}
	id, err := v.Put(ctx, s.Patient(patient), bytes.NewReader(sample.Video), vault.Metadata{
		ContentType: sample.ContentType,
		Title:       patient + "'s consultation",
		RecordedAt:  time.Now(),
		Duration:    sample.Duration,
	})
	if err != nil {
		return vault.ID{}, err
	}
	s.Recorded(s.Patient(patient), id)
	s.say("   %-6s    %s", patient, id)
	return id, nil
}

// grant issues a grant to a patient, as a login does. In production only the process that decides who
// may see what holds the granter.
func (s *story) grant(ctx context.Context, patient string) (keys.Grant, error) {
	return s.Granter.Issue(ctx, s.Patient(patient), keys.GrantOptions{
		TTL:     15 * time.Minute,
		Subject: strings.ToLower(patient) + "@portal",
		Purpose: keys.PatientRequest,
	})
}

// watch opens a recording, reads a part in the middle, then all of it, and compares both with the original.
func (s *story) watch(ctx context.Context, v *vault.Vault, grant keys.Grant, id vault.ID) error {
	recording, err := v.Open(ctx, grant, id)
	if err != nil {
		return err
	}
	defer recording.Close()
	middle := recording.Size() / 2
	part := make([]byte, 1000)
	if _, err := recording.ReadAt(part, middle); err != nil {
		return err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, recording); err != nil {
		return err
	}
	want := sha256.Sum256(sample.Video)
	if !bytes.Equal(part, sample.Video[middle:][:len(part)]) || !bytes.Equal(hash.Sum(nil), want[:]) {
		return errors.New("what came out is not what was put in")
	}
	info := recording.Info()
	s.say("   PLAYED    %q, %s, %v, %s, SHA-256 %s..., equal to the original", info.Title, info.ContentType, info.Duration,
		size(int(info.Size)), hex.EncodeToString(want[:4]))
	return nil
}

// alert prints the security event that an attempt has raised.
func (s *story) alert(ctx context.Context) error {
	select {
	case event := <-s.alerts:
		s.say("   ALERT     %s: %s, with a grant for %.6s..., asked for %s", event.Kind, event.Grant.Subject, event.Grant.KeyID, short(event.Recording))
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// showNoise prints a few bytes of a recording's media, as a reader of the storage sees them.
func (s *story) showNoise(ctx context.Context, id vault.ID) error {
	object, err := s.Store.Get(ctx, s.mediaName(id), 64<<10, 24)
	if err != nil {
		return err
	}
	defer object.Close()
	noise, err := io.ReadAll(object)
	if err != nil {
		return err
	}
	s.say("   Even the object itself, which the ID names, is only ciphertext: % x ...", noise)
	return nil
}

// flipBit alters one bit in the middle of a recording's media.
func (s *story) flipBit(ctx context.Context, id vault.ID) error {
	object, err := s.Store.Get(ctx, s.mediaName(id), 0, -1)
	if err != nil {
		return err
	}
	defer object.Close()
	media, err := io.ReadAll(object)
	if err != nil {
		return err
	}
	media[len(media)/2] ^= 1
	_, err = s.Store.Put(ctx, s.mediaName(id), bytes.NewReader(media), int64(len(media)), storage.Condition{})
	return err
}

// mediaName returns the name of a recording's media in the store, as package vault documents it.
func (s *story) mediaName(id vault.ID) string {
	return s.Prefix + "recordings/" + id.KeyID().String() + "/" + id.Rec() + "/media"
}

// shorten cuts the IDs in an error, so that it fits on a line.
func shorten(err error) string {
	words := strings.Fields(err.Error())
	for i, word := range words {
		if id, parseErr := vault.ParseID(strings.TrimSuffix(word, ":")); parseErr == nil {
			words[i] = short(id) + ":"
		}
	}
	return strings.Join(words, " ")
}

// short returns the beginnings of both halves of an ID.
func short(id vault.ID) string {
	return id.KeyID().String()[:6] + "..." + id.Rec()[:6] + "..."
}

// size formats a number of bytes with thousands separators.
func size(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits + " bytes"
}
