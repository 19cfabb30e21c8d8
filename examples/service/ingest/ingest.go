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
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

const maxField = 4 << 10 // bytes

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
	patient, metadata, file, err := re.parse(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, err := re.vault.Put(r.Context(), patient, file, metadata)
	var uncertain *vault.UncertainError
	switch {
	case err == nil:
		re.stored.Inc()
		re.log.Info("stored", "recording", id)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"id": id})
	case errors.Is(file.err, errTrailing):
		http.Error(w, file.err.Error(), http.StatusBadRequest)
	case errors.Is(file.err, os.ErrDeadlineExceeded):
		re.log.Warn("an upload stood still", "error", file.err)
		http.Error(w, "Nothing arrived for too long, and nothing was stored.", http.StatusRequestTimeout)
	case file.err != nil:
		re.log.Warn("an upload broke off", "error", file.err)
		http.Error(w, "The recording broke off, and was not stored.", http.StatusBadRequest)
	case errors.Is(err, vault.ErrInvalidMetadata), errors.Is(err, keys.ErrInvalidPatient):
		http.Error(w, err.Error(), http.StatusBadRequest) // names the field, and not what it holds
	case errors.Is(err, keys.ErrNotEnrolled), errors.Is(err, keys.ErrErased):
		http.Error(w, "The patient is not registered, or was erased.", http.StatusConflict)
	case errors.As(err, &uncertain):
		re.log.Error("it is not known whether the recording was stored", "recording", uncertain.ID, "error", err)
		http.Error(w, "It is not known whether the recording was stored. Please send it again.", http.StatusServiceUnavailable)
	case errors.Is(err, storage.ErrFull):
		re.log.Error("not stored", "error", err)
		http.Error(w, "The recording was not stored: there is no space.", http.StatusInsufficientStorage)
	default: // what an operator must mend, or what passes: a recorder keeps the recording, and sends it again
		re.log.Error("not stored", "error", err)
		w.Header().Set("Retry-After", "60")
		http.Error(w, "The recording was not stored. Please send it again.", http.StatusServiceUnavailable)
	}
}

func (re *recorder) known(r *http.Request) bool {
	sent, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	is, want := sha256.Sum256([]byte(sent)), sha256.Sum256(re.key)
	return isBearer && subtle.ConstantTimeCompare(is[:], want[:]) == 1
}

// parse reads the form up to the file.
func (re *recorder) parse(r *http.Request) (patient keys.Patient, metadata vault.Metadata, recording *file, err error) {
	form, err := r.MultipartReader()
	if err != nil {
		return "", metadata, nil, errors.New("the body is not a multipart form")
	}
	seen := map[string]bool{}
	for {
		part, err := form.NextPart()
		if err != nil {
			return "", metadata, nil, errors.New("the form has no recording, or breaks off before it")
		}
		name := part.FormName()
		if seen[name] {
			return "", metadata, nil, errors.New("the form has a field twice")
		}
		seen[name] = true
		if name == "recording" {
			metadata.ContentType = part.Header.Get("Content-Type")
			return patient, metadata, &file{form: form, part: part, bytes: re.bytes}, nil
		}
		text, err := io.ReadAll(io.LimitReader(part, maxField+1))
		if err != nil || len(text) > maxField {
			return "", metadata, nil, fmt.Errorf("a field is longer than %d bytes, or breaks off", maxField)
		}
		switch name {
		case "patient":
			patient = keys.Patient(text)
		case "title":
			metadata.Title = string(text)
		case "recorded_at":
			if metadata.RecordedAt, err = time.Parse(time.RFC3339, string(text)); err != nil {
				return "", metadata, nil, errors.New("recorded_at is not a time of RFC 3339")
			}
		default:
			return "", metadata, nil, errors.New("the form has an unknown field")
		}
	}
}

var errTrailing = errors.New("the form has something behind the recording")

// file is the recording in a form, with which the form must end. It remembers why it could not be read, which is not the
// store's fault.
type file struct {
	form  *multipart.Reader
	part  *multipart.Part
	bytes prometheus.Counter
	err   error
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.part.Read(p)
	f.bytes.Add(float64(n))
	if errors.Is(err, io.EOF) {
		if _, next := f.form.NextPart(); next == nil {
			err = errTrailing
		} else if !errors.Is(next, io.EOF) {
			err = next
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
