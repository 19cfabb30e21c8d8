// Command quickstart tells what recvault is for, on one screen: two patients, two recordings, a listing
// that leaks an ID, and what the leak is worth.
//
//	go run ./examples/quickstart
//
// It needs nothing but Go, and works in a temporary directory that it removes. With VAULT_ADDR and
// VAULT_TOKEN (an administrator's) in the environment it keeps its keys in that Vault, and with
// AWS_ENDPOINT_URL, and credentials where AWS's and MinIO's tools look for them, its objects on that S3
// server. Package examples/internal/deployment says what it makes there.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	s := &story{Deployment: d, out: out}
	s.say("recvault quickstart: keys in %s, recordings in %s\n", d.KeysAt, d.ObjectsAt)
	return s.tell(ctx)
}

// story is told against the parts of a deployment, each of which could be another process.
type story struct {
	*deployment.Deployment
	out io.Writer
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *story) tell(ctx context.Context) error {
	writer, err := vault.New(s.Writer, s.Store, vault.WithPrefix(s.Prefix))
	if err != nil {
		return err
	}
	server, err := vault.New(s.Server, s.Store, vault.WithPrefix(s.Prefix))
	if err != nil {
		return err
	}

	s.say("1. Two patients, two consultations. Each is encrypted under a key of its own.")
	alice, err := s.record(ctx, writer, "Alice")
	if err != nil {
		return err
	}
	bob, err := s.record(ctx, writer, "Bob")
	if err != nil {
		return err
	}

	s.say("\n2. Bob logs in, and gets a grant for his own recordings. It plays his.")
	bobsGrant, err := s.grant(ctx, "Bob")
	if err != nil {
		return err
	}
	if err := s.play(ctx, server, bobsGrant, bob); err != nil {
		return err
	}

	s.say("\n3. The bug of 2020: a listing hands Bob the ID of Alice's recording, and the server looks it up for him.")
	_, err = server.Open(ctx, bobsGrant, alice)
	if !errors.Is(err, keys.ErrDenied) {
		return fmt.Errorf("want %w, got %w", keys.ErrDenied, err)
	}
	s.say("   REFUSED   %v", shorten(err))
	if err := s.showNoise(ctx, alice); err != nil {
		return err
	}

	s.say("\n4. Alice's own grant plays it, from any position.")
	alicesGrant, err := s.grant(ctx, "Alice")
	if err != nil {
		return err
	}
	if err := s.play(ctx, server, alicesGrant, alice); err != nil {
		return err
	}

	s.say("\n5. Somebody who can write to the storage flips one bit of %s.", size(len(sample.Video)))
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
	s.say("             %s before it came out intact, and nothing after.", size(int(played)))

	s.say("\nAn ID is not a key. What opens a recording is a grant for its patient, and whether it does")
	s.say("is decided by %s, not by the application.", s.Decides)
	return nil
}

// record puts the sample as a patient's consultation.
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

// grant is what a login does, in the one process that decides who may see what.
func (s *story) grant(ctx context.Context, patient string) (keys.Grant, error) {
	return s.Granter.Issue(ctx, s.Patient(patient), keys.GrantOptions{
		TTL:     15 * time.Minute,
		Subject: strings.ToLower(patient) + "@portal",
		Purpose: keys.PatientRequest,
	})
}

// play reads a recording to its end, after a seek, and compares it with the original.
func (s *story) play(ctx context.Context, v *vault.Vault, grant keys.Grant, id vault.ID) error {
	recording, err := v.Open(ctx, grant, id)
	if err != nil {
		return err
	}
	defer recording.Close()
	middle := recording.Size() / 2
	frame := make([]byte, 1000)
	if _, err := recording.ReadAt(frame, middle); err != nil {
		return err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, recording); err != nil {
		return err
	}
	want := sha256.Sum256(sample.Video)
	if !bytes.Equal(frame, sample.Video[middle:][:len(frame)]) || !bytes.Equal(hash.Sum(nil), want[:]) {
		return errors.New("what came out is not what was put in")
	}
	info := recording.Info()
	s.say("   PLAYED    %q, %s, %v, %s, SHA-256 %s as the original", info.Title, info.ContentType, info.Duration,
		size(int(info.Size)), hex.EncodeToString(want[:4]))
	return nil
}

// showNoise prints what the leaked ID gives to whoever can read the storage.
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
	s.say("   What the leaked ID is worth, even with the object itself in hand: % x ...", noise)
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

// mediaName is the name of a recording's ciphertext in the store, as package vault documents it.
func (s *story) mediaName(id vault.ID) string {
	return s.Prefix + "r1/" + id.KeyID().String() + "/" + id.Rec() + "/media"
}

// shorten cuts the IDs in an error, for the screen's sake.
func shorten(err error) string {
	words := strings.Fields(err.Error())
	for i, word := range words {
		if id, parseErr := vault.ParseID(strings.TrimSuffix(word, ":")); parseErr == nil {
			words[i] = id.KeyID().String()[:6] + "..." + id.Rec()[:6] + "...:"
		}
	}
	return strings.Join(words, " ")
}

// size writes a number of bytes with separators.
func size(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits + " bytes"
}
