package auditlog

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

const (
	// slack is how far lines may be out of order where files of several devices were mixed. What Vault logged in this time is in
	// memory: at most about 15,000 entries, because one Vault answers 2,500 requests in a second.
	slack = 3 * time.Second
	// maxLine is the greatest length of a line, in bytes. An answer with 25,000 aliases is that long.
	maxLine = 16 << 20
	// maxRuns is the number of times that a source may go back in time. Each has a reader of its own.
	maxRuns = 256
)

// GzipMagic is how a source begins that is compressed by gzip.
const GzipMagic = "\x1f\x8b"

// File is a source in the report.
type File struct {
	Name       string    `json:"name"`
	Lines      int       `json:"lines"`
	Unreadable int       `json:"unreadable"` // lines
	First      time.Time `json:"first,omitzero"`
	Last       time.Time `json:"last,omitzero"`
}

// input is all sources, to be read in the order of time.
type input struct {
	sources  []Source
	files    []File
	progress func(n int)
	runs     []*run
	waiting  entries // read, and not yet handed over
}

// run is a part of a source in which time does not go back.
type run struct {
	source int
	offset int64 // of its first line, in bytes
	line   int   // lines before it
	end    int64 // offset after its last line

	first   time.Time // the time of its first entry
	reached time.Time // the latest time that was read so far
	lines   *lines    // nil while it is not open
}

// lines reads lines of a source.
type lines struct {
	closer  io.Closer
	buffer  *bufio.Reader
	long    []byte
	number  int
	offset  int64 // after the line
	tooLong bool
}

func (in *input) open(source int) (*lines, error) {
	file, err := in.sources[source].Open()
	if err != nil {
		return nil, err
	}
	buffer := bufio.NewReaderSize(&counted{file, in.progress}, 64<<10)
	if magic, _ := buffer.Peek(len(GzipMagic)); string(magic) == GzipMagic {
		if unzipped, err := gzip.NewReader(buffer); err == nil {
			buffer = bufio.NewReaderSize(unzipped, 64<<10)
		} else {
			buffer = bufio.NewReader(failing{err}) // to be named as the first line
		}
	}
	return &lines{closer: file, buffer: buffer}, nil
}

type counted struct {
	r        io.Reader
	progress func(n int)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.progress != nil {
		c.progress(n)
	}
	return n, err
}

// failing is a reader with nothing but an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// next returns the next line, which is valid until the next call, without its line break. Of a line that is too long it returns the
// beginning. It returns io.EOF at the end, and another error if the source is cut or cannot be read.
func (l *lines) next() ([]byte, error) {
	l.long, l.tooLong = l.long[:0], false
	for {
		part, err := l.buffer.ReadSlice('\n')
		l.offset += int64(len(part))
		if err == nil && len(l.long) == 0 {
			l.number++
			return bytes.TrimRight(part, "\r\n"), nil
		}
		if len(l.long)+len(part) > maxLine {
			l.tooLong = true
		} else {
			l.long = append(l.long, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == io.EOF && len(l.long) == 0:
			return nil, io.EOF
		case err != nil && err != io.EOF:
			l.number++
			return nil, err
		}
		l.number++
		line := bytes.TrimRight(l.long, "\r\n")
		if cap(l.long) > 1<<20 {
			l.long = nil
		}
		return line, nil
	}
}

// index reads a source once and divides it into runs.
func (in *input) index(ctx context.Context, source int) error {
	l, err := in.open(source)
	if err != nil {
		return err
	}
	defer l.closer.Close()
	file := &in.files[source]
	current := &run{source: source}
	var latest time.Time // in the run
	begun := 0
	for {
		start := l.offset
		line, err := l.next()
		if err != nil { // the second reading names what is cut
			break
		}
		if l.number%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		t, ok := timeOf(line)
		if !ok {
			continue
		}
		if file.First.IsZero() || t.Before(file.First) {
			file.First = t
		}
		if t.After(file.Last) {
			file.Last = t
		}
		if begun == 0 || t.Before(latest.Add(-slack)) && begun < maxRuns {
			if begun > 0 {
				current.end = start
				current = &run{source: source, offset: start, line: l.number - 1}
			}
			current.first, latest = t, t
			in.runs = append(in.runs, current)
			begun++
		}
		if t.After(latest) {
			latest = t
		}
	}
	if begun == 0 {
		in.runs = append(in.runs, current)
	}
	current.end = math.MaxInt64
	return ctx.Err()
}

// handler receives what is read.
type handler interface {
	// add is called with all copies of an entry, in the order of time.
	add(copies []*entry)
	// unreadable is called with a line that cannot be read, and why.
	unreadable(at place, why string)
}

// endOfTime is after every time that an entry can have.
var endOfTime = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)

// merge reads all runs side by side, in the order of time.
func (in *input) merge(ctx context.Context, h handler) error {
	queue := make(runs, 0, len(in.runs))
	for _, r := range in.runs {
		r.reached = r.first
		queue = append(queue, r)
	}
	heap.Init(&queue)
	defer func() {
		for _, r := range in.runs {
			r.close()
		}
	}()
	for n := 0; len(queue) > 0; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		r := queue[0]
		more, err := in.step(r, h)
		if err != nil {
			return err
		}
		if more {
			heap.Fix(&queue, 0)
			in.release(queue[0].reached.Add(-slack), h)
		} else {
			r.close()
			heap.Pop(&queue)
		}
	}
	in.release(endOfTime, h)
	return nil
}

// step reads a line of a run, and reports whether there may be another.
func (in *input) step(r *run, h handler) (bool, error) {
	if r.lines == nil {
		l, err := in.open(r.source)
		if err != nil {
			return false, err
		}
		r.lines = l
		if _, err := io.CopyN(io.Discard, l.buffer, r.offset); err != nil {
			return false, fmt.Errorf("%s: it changed while it was read: %w", in.sources[r.source].Name, err)
		}
		l.offset, l.number = r.offset, r.line
	}
	if r.lines.offset >= r.end {
		return false, nil
	}
	file := &in.files[r.source]
	line, err := r.lines.next()
	if err == io.EOF {
		return false, nil
	}
	file.Lines++
	at := place{int32(r.source), int32(r.lines.number)}
	var why string
	var e *entry
	switch {
	case err != nil:
		why = err.Error()
	case r.lines.tooLong:
		why = fmt.Sprintf("it is longer than %d bytes", maxLine)
	case len(line) == 0:
		return true, nil
	default:
		var malformed error
		if e, malformed = parse(line); malformed != nil {
			why = malformed.Error()
		}
	}
	if why != "" {
		file.Unreadable++
		h.unreadable(at, why)
		return err == nil, nil
	}
	e.place = at
	heap.Push(&in.waiting, e)
	if e.Time.After(r.reached) {
		r.reached = e.Time
	}
	return true, nil
}

// release hands over the entries from before a time.
func (in *input) release(before time.Time, h handler) {
	for len(in.waiting) > 0 && in.waiting[0].Time.Before(before) {
		copies := []*entry{heap.Pop(&in.waiting).(*entry)}
		for len(in.waiting) > 0 && in.waiting[0].compare(copies[0]) == 0 {
			copies = append(copies, heap.Pop(&in.waiting).(*entry))
		}
		slices.SortFunc(copies, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.place.source, b.place.source), cmp.Compare(a.place.line, b.place.line))
		})
		h.add(copies)
	}
}

func (r *run) close() {
	if r.lines != nil {
		_ = r.lines.closer.Close() // it was only read
		r.lines = nil
	}
}

// runs is a heap of runs, the one that has come least far first.
type runs []*run

func (q runs) Len() int           { return len(q) }
func (q runs) Less(i, j int) bool { return q[i].reached.Before(q[j].reached) }
func (q runs) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *runs) Push(x any)        { *q = append(*q, x.(*run)) }
func (q *runs) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// entries is a heap of entries, the earliest first.
type entries []*entry

func (q entries) Len() int           { return len(q) }
func (q entries) Less(i, j int) bool { return q[i].compare(q[j]) < 0 }
func (q entries) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *entries) Push(x any)        { *q = append(*q, x.(*entry)) }
func (q *entries) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q = (*q)[:len(*q)-1]
	return last
}
