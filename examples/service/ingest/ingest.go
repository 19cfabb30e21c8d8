package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

const (
	idle     = time.Minute // for how long a recorder may send nothing
	maxField = 4 << 10     // bytes
)

type recorder struct {
	vault         *vault.Vault
	key           []byte
	log           *slog.Logger
	stored, bytes prometheus.Counter
}

func (re *recorder) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /recordings", re.store)
	return mux
}

// store stores the recording of a multipart form while it arrives. The fields stand before the file: patient, title, and
// recorded_at in RFC 3339, of which the last two are optional. The patient's number is in the body, because addresses and
// headers appear in logs.
func (re *recorder) store(w http.ResponseWriter, r *http.Request) {
	if !re.known(r) {
		http.Error(w, "The recorder's key is missing or wrong.", http.StatusUnauthorized)
		return
	}
	r.Body = &steady{ReadCloser: r.Body, extend: http.NewResponseController(w).SetReadDeadline, bytes: re.bytes}
	patient, metadata, part, err := parse(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	file := &remembering{Reader: part}
	id, err := re.vault.Put(r.Context(), patient, file, metadata)
	var uncertain *vault.UncertainError
	switch {
	case err == nil:
		re.stored.Inc()
		re.log.Info("stored", "recording", id)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"id": id})
	case file.err != nil:
		re.log.Warn("an upload broke off", "error", file.err)
		http.Error(w, "The recording broke off, and was not stored.", http.StatusBadRequest)
	case errors.Is(err, vault.ErrInvalidMetadata), errors.Is(err, keys.ErrInvalidPatient):
		http.Error(w, err.Error(), http.StatusBadRequest) // names the field, and not what it holds
	case errors.Is(err, keys.ErrNotEnrolled):
		http.Error(w, "The patient is not registered.", http.StatusConflict)
	case errors.As(err, &uncertain):
		re.log.Error("it is not known whether the recording was stored", "recording", uncertain.ID, "error", err)
		http.Error(w, "It is not known whether the recording was stored. Please send it again.", http.StatusServiceUnavailable)
	default:
		re.log.Error("not stored", "error", err)
		status, text := vault.HTTPStatus(err)
		http.Error(w, text, status)
	}
}

func (re *recorder) known(r *http.Request) bool {
	sent, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	is, want := sha256.Sum256([]byte(sent)), sha256.Sum256(re.key)
	return isBearer && subtle.ConstantTimeCompare(is[:], want[:]) == 1
}

// parse reads the form up to the file.
func parse(r *http.Request) (patient keys.Patient, metadata vault.Metadata, file io.Reader, err error) {
	form, err := r.MultipartReader()
	if err != nil {
		return "", metadata, nil, errors.New("the body is not a multipart form")
	}
	for {
		part, err := form.NextPart()
		if err != nil {
			return "", metadata, nil, errors.New("the form has no recording, or breaks off before it")
		}
		switch part.FormName() {
		case "recording":
			metadata.ContentType = part.Header.Get("Content-Type")
			return patient, metadata, part, nil
		case "patient", "title", "recorded_at":
		default:
			return "", metadata, nil, errors.New("the form has an unknown field")
		}
		text, err := field(part)
		if err != nil {
			return "", metadata, nil, err
		}
		switch part.FormName() {
		case "patient":
			patient = keys.Patient(text)
		case "title":
			metadata.Title = text
		case "recorded_at":
			if metadata.RecordedAt, err = time.Parse(time.RFC3339, text); err != nil {
				return "", metadata, nil, errors.New("recorded_at is not a time of RFC 3339")
			}
		}
	}
}

func field(part *multipart.Part) (string, error) {
	text, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil || len(text) > maxField {
		return "", fmt.Errorf("%s is longer than %d bytes, or breaks off", part.FormName(), maxField)
	}
	return string(text), nil
}

// steady is a body of any size that must not stand still.
type steady struct {
	io.ReadCloser
	extend func(time.Time) error
	bytes  prometheus.Counter
}

func (s *steady) Read(p []byte) (int, error) {
	if err := s.extend(time.Now().Add(idle)); err != nil {
		return 0, err
	}
	n, err := s.ReadCloser.Read(p)
	s.bytes.Add(float64(n))
	if err != nil {
		_ = s.extend(time.Time{}) // or the deadline ends the commit that follows
	}
	return n, err
}

// remembering remembers that the recorder, and not the store, is why a recording was not stored.
type remembering struct {
	io.Reader
	err error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
