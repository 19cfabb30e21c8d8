// Package storecheck proves on the real server that a store keeps those promises of [storage.Store] on which no
// recording is lost, before the store is trusted with recordings: conditions hold under concurrent writers, what was
// written is read and listed at once, ranges and contents are right, and failed writes leave nothing.
//
// It is for a deployment's own servers, with all that stands between: proxies, gateways, clusters of several
// endpoints. [github.com/recvault/recvault/storage/storagetest] has the complete suite, for the tests of a store.
package storecheck

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// Status is the outcome of a check.
type Status string

const (
	OK      Status = "ok"
	Note    Status = "note"    // works; Detail has what an operator should know
	Failed  Status = "failed"  // the store must not be used as it is
	Skipped Status = "skipped" // not checked; Detail says why
)

// Result is one check with its outcome.
type Result struct {
	Name   string // such as "if-none-match"
	Status Status
	Detail string // one line
}

// Options set what [Run] does. Most callers leave them at zero.
type Options struct {
	// Prefix starts the names of all objects of the check, and ends in "/" unless it is empty.
	Prefix string

	// Others are further ways to the same objects, such as other endpoints of a cluster. Reads and concurrent writers
	// are spread over all.
	Others []storage.Store

	// Writers is the number of concurrent writers, at least 2. Default 8.
	Writers int

	// PartSize is a size in bytes below which the store may write in another way. Default 16 MiB, as in
	// storage/s3. The check writes one byte more to have the object sent in parts.
	PartSize int64

	// Quick leaves out what takes more than about a second on a near server: writes of more than PartSize, and a
	// listing of more than one page.
	Quick bool
}

// MaxClockDifference is the difference between the store's clock and this machine's with which the check fails.
const MaxClockDifference = time.Minute

// Folder is the folder below Options.Prefix that holds the objects of all checks.
const Folder = "recvault-doctor/"

// cleanupTimeout limits the removal of the check's objects after the context has ended.
const cleanupTimeout = 30 * time.Second

// Run checks the store and returns the results in order. It needs the rights to list, read, write and delete below
// Prefix. It writes to a folder of its own below Prefix and [Folder], and removes what it wrote at the end; in a bucket
// with versioning, about 50 MiB of noncurrent versions remain. Without Quick it moves about 450 MiB, and takes
// 40 MiB of memory for each writer. If the first check fails, the others are skipped.
//
// The error is the context's, or that of wrong options. Failures of the store are results.
func Run(ctx context.Context, store storage.Store, options Options) ([]Result, error) {
	if options.Writers == 0 {
		options.Writers = 8
	}
	if options.PartSize == 0 {
		options.PartSize = 16 << 20
	}
	unfinished := options.Prefix != "" && !strings.HasSuffix(options.Prefix, "/")
	if store == nil || options.Writers < 2 || options.PartSize < 0 || unfinished {
		return nil, errors.New(`storecheck: no store, fewer than 2 writers, a negative part size, or a prefix without a last "/"`)
	}
	r := &run{
		ctx: ctx, store: store, stores: append([]storage.Store{store}, options.Others...), options: options,
		folder: options.Prefix + Folder + strings.ToLower(rand.Text()) + "/",
	}
	if err := storage.ValidatePrefix(r.folder); err != nil {
		return nil, fmt.Errorf("storecheck: %w", err)
	}
	r.runAll()
	if err := ctx.Err(); err != nil {
		return r.results, fmt.Errorf("storecheck: %w", err)
	}
	return r.results, nil
}

// run is one call of Run.
type run struct {
	ctx     context.Context
	store   storage.Store
	stores  []storage.Store // store first
	options Options
	folder  string
	results []Result
}

func (r *run) runAll() {
	large := r.options.PartSize + 1
	checks := []struct {
		name  string
		slow  bool
		check func() (string, error)
	}{
		{"access", false, r.access},
		{"clock", false, r.clock},
		{"if-none-match", false, func() (string, error) { return r.ifNoneMatch(1000, 4) }},
		{"if-match", false, func() (string, error) { return r.ifMatch(1000, 4) }},
		{"if-none-match, in parts", true, func() (string, error) { return r.ifNoneMatch(large, 1) }},
		{"if-match, in parts", true, func() (string, error) { return r.ifMatch(large, 1) }},
		{"read after write", false, r.readAfterWrite},
		{"list after write", false, r.listAfterWrite},
		{"byte ranges", false, func() (string, error) { return r.ranges(100_000) }},
		{"byte ranges, in parts", true, func() (string, error) { return r.ranges(large) }},
		{"checksums", false, r.checksums},
		{"listing order", false, r.listing},
		{"long listing", true, r.longListing},
		{"failed writes", false, func() (string, error) { return r.failedWrites(1000) }},
		{"failed writes, in parts", true, func() (string, error) { return r.failedWrites(2 * large) }},
	}
	reached, silent := true, false
	for _, c := range checks {
		switch {
		case r.ctx.Err() != nil:
			return
		case !reached:
			r.add(c.name, "", errNotReached)
		case c.slow && r.options.Quick:
			r.add(c.name, "", errQuick)
		default:
			detail, err := c.check()
			r.add(c.name, detail, err)
			reached = reached && (c.name != "access" || err == nil)
			silent = silent || c.name == "access" && errors.Is(err, storage.ErrUnavailable)
		}
	}
	r.settings(reached)
	if silent {
		r.add("nothing left", "", errNotReached)
	} else {
		r.add("nothing left", "", r.cleanUp())
	}
}

// errSkipped: a check was not made.
var (
	errSkipped    = errors.New("not checked")
	errNotReached = fmt.Errorf("%w: the first check failed", errSkipped)
	errQuick      = fmt.Errorf("%w: it takes long", errSkipped)
)

func (r *run) add(name, detail string, err error) {
	result := Result{Name: name, Status: OK, Detail: detail}
	switch {
	case errors.Is(err, errSkipped):
		result.Status, result.Detail = Skipped, err.Error()
	case err != nil:
		result.Status, result.Detail = Failed, strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	r.results = append(r.results, result)
}

// through returns one of the store's endpoints, the next for each number.
func (r *run) through(i int) storage.Store { return r.stores[i%len(r.stores)] }

// content returns a stream of size bytes, the same for the same seed.
func content(seed int, size int64) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return io.LimitReader(mathrand.NewChaCha8(key), size)
}

// put stores an object through an endpoint.
func (r *run) put(store storage.Store, name string, seed int, size int64, condition storage.Condition) (storage.Info, error) {
	return store.Put(r.ctx, r.folder+name, content(seed, size), size, condition)
}

// compare checks that a range of an object has the content of a seed and a size.
func (r *run) compare(store storage.Store, name string, seed int, size, offset, length int64) error {
	object, err := store.Get(r.ctx, r.folder+name, offset, length)
	if err != nil {
		return err
	}
	defer object.Close()
	if object.Info.Size != size {
		return fmt.Errorf("an object of %d bytes has the size %d", size, object.Info.Size)
	}
	end := size
	if length >= 0 {
		end = min(size, offset+length)
	}
	want := content(seed, end)
	if _, err := io.CopyN(io.Discard, want, min(offset, end)); err != nil {
		return err
	}
	expected, got := make([]byte, 32<<10), make([]byte, 32<<10)
	for read := min(offset, end); ; {
		n, err := io.ReadFull(object, got)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		m, _ := io.ReadFull(want, expected)
		if n != m || !bytes.Equal(got[:n], expected[:m]) {
			return fmt.Errorf("the bytes from %d on are not those that were written", read)
		}
		if n < len(got) {
			return nil
		}
		read += int64(n)
	}
}

// require returns an error unless err is the wanted one.
func require(what string, err, want error) error {
	switch {
	case errors.Is(err, want):
		return nil
	case err == nil:
		return fmt.Errorf("%s succeeded", what)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// access writes, reads, lists and deletes one object.
func (r *run) access() (string, error) {
	begun := time.Now()
	if _, err := r.put(r.store, "access", 1, 1000, storage.Condition{}); err != nil {
		return "", err
	}
	took := time.Since(begun)
	for _, store := range r.stores {
		if err := r.compare(store, "access", 1, 1000, 0, -1); err != nil {
			return "", err
		}
	}
	if names, err := r.list(r.store, "access"); err != nil {
		return "", err
	} else if !slices.Equal(names, []string{"access"}) {
		return "", errors.New("the first object is not listed")
	}
	if err := r.store.Delete(r.ctx, r.folder+"access"); err != nil {
		return "", err
	}
	return fmt.Sprintf("a write took %v", took.Round(100*time.Microsecond)), nil
}

// clock compares the store's clock with this machine's.
func (r *run) clock() (string, error) {
	before := time.Now()
	if _, err := r.put(r.store, "clock", 1, 1, storage.Condition{}); err != nil {
		return "", err
	}
	info, err := r.store.Stat(r.ctx, r.folder+"clock")
	if err != nil {
		return "", err
	}
	middle := before.Add(time.Since(before) / 2)
	difference := info.Modified.Sub(middle)
	detail := fmt.Sprintf("differs by %v", difference.Round(time.Second))
	if difference.Abs() > MaxClockDifference {
		return "", fmt.Errorf("the store's clock %s, more than %v", detail, MaxClockDifference)
	}
	return detail, nil
}

// ifNoneMatch checks that IfAbsent never replaces an object, and that one of many concurrent writers wins.
func (r *run) ifNoneMatch(size int64, rounds int) (string, error) {
	for round := range rounds {
		name := fmt.Sprintf("if-none-match-%d-%d", size, round)
		winner, err := r.race(name, size, storage.IfAbsent(), storage.ErrExists)
		if err != nil {
			return "", err
		}
		_, err = r.put(r.through(round+1), name, r.options.Writers, size, storage.IfAbsent())
		if err := require("a write with If-None-Match to an existing object", err, storage.ErrExists); err != nil {
			return "", err
		}
		if err := r.compare(r.through(round), name, winner, size, 0, -1); err != nil {
			return "", fmt.Errorf("after a write that was refused: %w", err)
		}
	}
	return fmt.Sprintf("%d writers, one winner", r.options.Writers), nil
}

// ifMatch checks that IfMatch replaces only the one version, and that one of many concurrent writers wins.
func (r *run) ifMatch(size int64, rounds int) (string, error) {
	for round := range rounds {
		name := fmt.Sprintf("if-match-%d-%d", size, round)
		first, err := r.put(r.store, name, r.options.Writers, 10, storage.IfAbsent())
		if err != nil {
			return "", err
		}
		winner, err := r.race(name, size, storage.IfMatch(first.ETag), storage.ErrChanged)
		if err != nil {
			return "", err
		}
		_, err = r.put(r.through(round+1), name, r.options.Writers, size, storage.IfMatch(first.ETag))
		if err := require("a write with If-Match of an older version", err, storage.ErrChanged); err != nil {
			return "", err
		}
		if err := r.compare(r.through(round), name, winner, size, 0, -1); err != nil {
			return "", fmt.Errorf("after a write that was refused: %w", err)
		}
		if err := r.store.Delete(r.ctx, r.folder+name); err != nil {
			return "", err
		}
		_, err = r.put(r.store, name, r.options.Writers, size, storage.IfMatch(first.ETag))
		if err := require("a write with If-Match to a deleted object", err, storage.ErrChanged); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d writers, one winner", r.options.Writers), nil
}

// race has the writers put one object at the same time, each with a content of its own, and returns the only winner.
func (r *run) race(name string, size int64, condition storage.Condition, lost error) (winner int, err error) {
	start := make(chan struct{})
	errs := make([]error, r.options.Writers)
	done := make(chan struct{})
	for i := range errs {
		go func() {
			defer func() { done <- struct{}{} }()
			<-start
			_, errs[i] = r.put(r.through(i), name, i, size, condition)
		}()
	}
	close(start)
	for range errs {
		<-done
	}
	var winners []int
	for i, err := range errs {
		if err == nil {
			winners = append(winners, i)
		} else if !errors.Is(err, lost) {
			return 0, err
		}
	}
	if len(winners) != 1 {
		return 0, fmt.Errorf("%d of %d concurrent writers with a condition succeeded, instead of one", len(winners), len(errs))
	}
	if err := r.compare(r.store, name, winners[0], size, 0, -1); err != nil {
		return 0, fmt.Errorf("the object is not that of the only writer who succeeded: %w", err)
	}
	return winners[0], nil
}

// rounds is how often the checks of reads after writes repeat.
const rounds = 20

// readAfterWrite checks that each endpoint returns what was written or deleted last.
func (r *run) readAfterWrite() (string, error) {
	for i := range rounds {
		name := fmt.Sprintf("read-%d", i/2) // each is written twice
		size := int64(100 + i)
		info, err := r.put(r.through(i), name, i, size, storage.Condition{})
		if err != nil {
			return "", err
		}
		for _, store := range r.stores {
			if err := r.compare(store, name, i, size, 0, -1); err != nil {
				return "", fmt.Errorf("read after write: %w", err)
			}
			if stat, err := store.Stat(r.ctx, r.folder+name); err != nil {
				return "", fmt.Errorf("read after write: %w", err)
			} else if stat.ETag != info.ETag || stat.Size != size {
				return "", errors.New("read after write: an older version is described")
			}
		}
	}
	for i := range rounds / 2 {
		name := fmt.Sprintf("%sread-%d", r.folder, i)
		if err := r.through(i).Delete(r.ctx, name); err != nil {
			return "", err
		}
		for _, store := range r.stores {
			_, err := store.Stat(r.ctx, name)
			if err := require("reading a deleted object", err, storage.ErrNotFound); err != nil {
				return "", err
			}
		}
	}
	return "", nil
}

// listAfterWrite checks that each endpoint lists what was written, and not what was deleted.
func (r *run) listAfterWrite() (string, error) {
	for i := range rounds {
		name := fmt.Sprintf("listed/%d", i)
		if _, err := r.put(r.through(i), name, i, 10, storage.Condition{}); err != nil {
			return "", err
		}
		for _, listed := range []bool{true, false} {
			for _, store := range r.stores {
				names, err := r.list(store, "listed/")
				if err != nil {
					return "", err
				}
				if slices.Contains(names, name) != listed {
					return "", fmt.Errorf("just after an object was written or deleted: listed is %v, instead of %v", !listed, listed)
				}
			}
			if err := r.through(i+1).Delete(r.ctx, r.folder+name); err != nil {
				return "", err
			}
		}
	}
	return "", nil
}

// ranges checks ranges at the start, in the middle, across the boundary of parts, at the end and past it.
func (r *run) ranges(size int64) (string, error) {
	name := fmt.Sprintf("ranges-%d", size)
	if _, err := r.put(r.store, name, 7, size, storage.Condition{}); err != nil {
		return "", err
	}
	for _, at := range [][2]int64{
		{0, 1},
		{0, 100},
		{1, 1},
		{size / 2, 1000},
		{size - 1, 1},
		{size - 10, 1000},
		{size - 10, -1},
		{size, 1},
		{size + 5, -1},
		{5, 0},
		{0, -1},
	} {
		if err := r.compare(r.store, name, 7, size, at[0], at[1]); err != nil {
			return "", fmt.Errorf("range of %d bytes at %d: %w", at[1], at[0], err)
		}
	}
	return "", nil
}

// checksummer is a store that can try whether its server refuses damaged data.
type checksummer interface {
	CheckChecksums(ctx context.Context, name string) error
}

var _ checksummer = (*s3.Store)(nil)

func (r *run) checksums() (string, error) {
	store, ok := r.store.(checksummer)
	if !ok {
		return "", fmt.Errorf("%w: the store has none", errSkipped)
	}
	if err := store.CheckChecksums(r.ctx, r.folder+"damaged"); err != nil {
		return "", err
	}
	_, err := r.store.Stat(r.ctx, r.folder+"damaged")
	return "damaged data is refused", require("reading an object whose data was refused", err, storage.ErrNotFound)
}

// list returns the names that a store lists for a prefix below the folder, without the folder.
func (r *run) list(store storage.Store, prefix string) ([]string, error) {
	var names []string
	for info, err := range store.List(r.ctx, r.folder+prefix) {
		if err != nil {
			return nil, err
		}
		names = append(names, strings.TrimPrefix(info.Name, r.folder))
	}
	return names, nil
}

// listing checks that names are listed in byte order, and by prefix.
func (r *run) listing() (string, error) {
	all := []string{
		"l/B", "l/a-b", "l/a.b", "l/a/b", "l/a/b-c", "l/a0", "l/a_b", "l/aa/" + strings.Repeat("x", 200),
		"l/b/c/d", "l/b/c/d0", "l/b/c-d", "l/Z",
	}
	for i, name := range all {
		if _, err := r.put(r.store, name, i, 10, storage.Condition{}); err != nil {
			return "", err
		}
	}
	slices.Sort(all)
	for _, prefix := range []string{"l/", "l/a", "l/a/", "l/a/b", "l/b/c", "l/b/c/", "l/B", "l/c"} {
		want := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !strings.HasPrefix(name, prefix) })
		for _, store := range r.stores {
			names, err := r.list(store, prefix)
			if err != nil {
				return "", err
			}
			if !slices.Equal(names, want) {
				return "", fmt.Errorf("prefix %q: %d names are listed, not the %d in byte order", prefix, len(names), len(want))
			}
		}
	}
	return "", nil
}

// longListing checks a listing of more than one page of 1,000 names.
func (r *run) longListing() (string, error) {
	const total = 1100
	jobs, errs := make(chan int), make(chan error, r.options.Writers)
	for range r.options.Writers {
		go func() {
			var failure error
			for i := range jobs {
				if failure == nil {
					_, failure = r.put(r.store, fmt.Sprintf("long/%04d", i), i, 1, storage.Condition{})
				}
			}
			errs <- failure
		}()
	}
	for i := range total {
		jobs <- i
	}
	close(jobs)
	var failures []error
	for range r.options.Writers {
		failures = append(failures, <-errs)
	}
	if err := errors.Join(failures...); err != nil {
		return "", err
	}
	names, err := r.list(r.store, "long/")
	if err != nil {
		return "", err
	}
	for i := range total {
		if len(names) != total || names[i] != fmt.Sprintf("long/%04d", i) {
			return "", fmt.Errorf("%d of %d objects are listed, or not in order", len(names), total)
		}
	}
	return fmt.Sprintf("%d objects", total), nil
}

// failedWrites checks that writes which fail leave no object and no incomplete upload, and keep an older object.
func (r *run) failedWrites(size int64) (string, error) {
	name := fmt.Sprintf("failed-%d", size)
	failure := errors.New("the source failed")
	source := func() io.Reader { return io.MultiReader(content(1, size), failing{failure}) }
	_, err := r.store.Put(r.ctx, r.folder+name, source(), -1, storage.Condition{})
	if err := require("a write whose source fails", err, failure); err != nil {
		return "", err
	}
	_, err = r.store.Stat(r.ctx, r.folder+name)
	if err := require("reading an object whose write failed", err, storage.ErrNotFound); err != nil {
		return "", err
	}
	if _, err := r.put(r.store, name, 2, 100, storage.Condition{}); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	cancelling := io.MultiReader(content(1, size), calling(cancel), content(2, size))
	_, err = r.store.Put(ctx, r.folder+name, cancelling, -1, storage.Condition{})
	if err := require("a write whose context has ended", err, context.Canceled); err != nil {
		return "", err
	}
	if err := r.compare(r.store, name, 2, 100, 0, -1); err != nil {
		return "", fmt.Errorf("after a write that failed: %w", err)
	}
	left, err := r.uploads(r.ctx, false)
	switch {
	case errors.Is(err, storage.ErrDenied):
		return "", fmt.Errorf("%w: the credentials may not list incomplete uploads", errSkipped)
	case err != nil:
		return "", err
	case left > 0:
		return "", fmt.Errorf("writes that failed left %d incomplete uploads", left)
	}
	return "", nil
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// calling is an empty reader that calls a function.
type calling func()

func (c calling) Read([]byte) (int, error) {
	c()
	return 0, io.EOF
}

// uploads counts the incomplete uploads of the check, and aborts them if asked to.
func (r *run) uploads(ctx context.Context, abort bool) (int, error) {
	lister, ok := r.store.(storage.UploadLister)
	if !ok {
		return 0, nil
	}
	count := 0
	for upload, err := range lister.Uploads(ctx, r.folder) {
		if err != nil {
			return count, err
		}
		if !strings.HasPrefix(upload.Name, r.folder) { // a store without names for uploads
			continue
		}
		count++
		if abort {
			if err := lister.AbortUpload(ctx, upload); err != nil {
				return count, err
			}
		}
	}
	return count, nil
}

// settings reports the settings of a bucket.
func (r *run) settings(reached bool) {
	bucket, ok := r.store.(interface {
		Settings(ctx context.Context) s3.Settings
	})
	if !ok || !reached {
		return
	}
	settings := bucket.Settings(r.ctx)
	for _, setting := range []struct{ name, value string }{
		{"versioning", settings.Versioning}, {"lifecycle", settings.Lifecycle}, {"object lock", settings.ObjectLock},
	} {
		status := Note
		if strings.HasPrefix(setting.value, "unknown") {
			status = Skipped
		}
		r.results = append(r.results, Result{setting.name, status, setting.value})
	}
}

// cleanUp removes everything that the check wrote, and checks that nothing is left, even if the context has ended.
func (r *run) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), cleanupTimeout)
	defer cancel()
	if _, err := r.uploads(ctx, true); err != nil && !errors.Is(err, storage.ErrDenied) {
		return err
	}
	for info, err := range r.store.List(ctx, r.folder) {
		if err != nil {
			return err
		}
		if err := r.store.Delete(ctx, info.Name); err != nil {
			return err
		}
	}
	for info, err := range r.store.List(ctx, r.folder) {
		if err != nil {
			return err
		}
		return fmt.Errorf("%s and perhaps others could not be removed", info.Name)
	}
	left, err := r.uploads(ctx, false)
	if left > 0 {
		return fmt.Errorf("%d incomplete uploads could not be removed", left)
	}
	if errors.Is(err, storage.ErrDenied) {
		return nil
	}
	return err
}
