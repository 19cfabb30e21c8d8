// Package peer is the work of a process that encrypts and decrypts with one Tink, on behalf of a test.
//
// Each Tink needs a process of its own: both register the same protobuf messages, and a program with two panics.
package peer

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// Primitive is the tink.StreamingAEAD of every Tink.
type Primitive interface {
	NewEncryptingWriter(w io.Writer, associatedData []byte) (io.WriteCloser, error)
	NewDecryptingReader(r io.Reader, associatedData []byte) (io.Reader, error)
}

// Job is one stream to encrypt or to decrypt.
type Job struct {
	Keyset         []byte // Tink's JSON, in clear
	AssociatedData []byte
	Data           []byte // plaintext to encrypt, or ciphertext
	Encrypt        bool
	Seed           uint64 // of the sizes of reads and writes
}

// Result is the outcome of one Job.
type Result struct {
	Data  []byte // what came out, also before an error
	Error string // "" if there was none
}

// Serve does the jobs that arrive on the standard input, one by one, and writes a [Result] for each to the
// standard output. It returns at the end of the input. Jobs and results are in gob encoding.
func Serve(open func(keyset []byte) (Primitive, error)) error {
	jobs, results := gob.NewDecoder(os.Stdin), gob.NewEncoder(os.Stdout)
	for {
		var job Job
		if err := jobs.Decode(&job); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a job: %w", err)
		}
		data, err := job.do(open)
		result := Result{Data: data}
		if err != nil {
			result.Error = err.Error()
		}
		if err := results.Encode(result); err != nil {
			return fmt.Errorf("write a result: %w", err)
		}
	}
}

func (j *Job) do(open func(keyset []byte) (Primitive, error)) ([]byte, error) {
	primitive, err := open(j.Keyset)
	if err != nil {
		return nil, err
	}
	sizes := rand.New(rand.NewPCG(j.Seed, 0))
	if j.Encrypt {
		var out bytes.Buffer
		w, err := primitive.NewEncryptingWriter(&out, j.AssociatedData)
		if err != nil {
			return nil, err
		}
		if err := WriteChunks(w, j.Data, sizes); err != nil {
			return nil, err
		}
		err = w.Close()
		return out.Bytes(), err
	}
	r, err := primitive.NewDecryptingReader(Chunks(bytes.NewReader(j.Data), sizes), j.AssociatedData)
	if err != nil {
		return nil, err
	}
	return ReadChunks(r, sizes)
}

// chunk draws the size of one read or write: some bytes, around a segment, or up to three segments.
func chunk(sizes *rand.Rand) int {
	switch sizes.IntN(4) {
	case 0:
		return 1 + sizes.IntN(100)
	case 1:
		return 64<<10 - 60 + sizes.IntN(64)
	default:
		return 1 + sizes.IntN(3*64<<10)
	}
}

// WriteChunks writes data in pieces of random sizes.
func WriteChunks(w io.Writer, data []byte, sizes *rand.Rand) error {
	for len(data) > 0 {
		n := min(chunk(sizes), len(data))
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// ReadChunks reads r to its end in pieces of random sizes. It returns what it read before an error, too.
func ReadChunks(r io.Reader, sizes *rand.Rand) (data []byte, err error) {
	for err == nil {
		n := chunk(sizes)
		data = slices.Grow(data, n)
		n, err = r.Read(data[len(data) : len(data)+n])
		data = data[:len(data)+n]
	}
	if err == io.EOF {
		err = nil
	}
	return data, err
}

// Chunks returns a reader that reads r in pieces of random sizes.
func Chunks(r io.Reader, sizes *rand.Rand) io.Reader { return &chunks{r, sizes} }

type chunks struct {
	r     io.Reader
	sizes *rand.Rand
}

func (c *chunks) Read(p []byte) (int, error) {
	return c.r.Read(p[:min(chunk(c.sizes), len(p))])
}
