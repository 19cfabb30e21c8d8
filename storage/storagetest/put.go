package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

func testPut(t *testing.T, open func(*testing.T) storage.Store) {
	t.Run("stores all that the reader yields", func(t *testing.T) { testPutSizes(t, open(t)) })
	t.Run("accepts every kind of reader", func(t *testing.T) { testPutReaders(t, open(t)) })
	t.Run("replaces the previous object", func(t *testing.T) { testPutReplaces(t, open(t)) })
	t.Run("refuses data of another size", func(t *testing.T) { testPutWrongSize(t, open(t)) })
	t.Run("stores nothing when the reader fails", func(t *testing.T) { testPutReaderFails(t, open(t)) })
}

func testPutSizes(t *testing.T, store storage.Store) {
	for _, size := range []int{0, 1, 65_535, partSize - 1, partSize, partSize + 1, 2 * partSize, 2*partSize + 1, 6*partSize + 5} {
		for _, announced := range []int64{int64(size), -1} {
			t.Run(fmt.Sprintf("%d announced as %d", size, announced), func(t *testing.T) {
				const name = "some/object"
				before := time.Now()
				content := data(uint64(size), size)
				// The reader has only Read: the store can neither find out its size nor seek.
				info, err := store.Put(t.Context(), name, io.MultiReader(bytes.NewReader(content)), announced, storage.Condition{})
				require.NoError(t, err)
				assert.Equal(t, name, info.Name)
				assert.Equal(t, int64(size), info.Size)
				assert.NotEmpty(t, info.ETag)

				stat, err := store.Stat(t.Context(), name)
				require.NoError(t, err)
				assert.Equal(t, info.Name, stat.Name)
				assert.Equal(t, info.Size, stat.Size)
				assert.Equal(t, info.ETag, stat.ETag)
				assert.WithinRange(t, stat.Modified, before.Add(-2*time.Second), time.Now().Add(2*time.Second), "HTTP counts whole seconds")
				if !info.Modified.IsZero() {
					assert.True(t, info.Modified.Equal(stat.Modified), "%v and %v", info.Modified, stat.Modified)
				}

				got, opened := get(t, store, name)
				assertSame(t, content, got)
				assert.Equal(t, stat, opened)
			})
		}
	}
}

func testPutReaders(t *testing.T, store storage.Store) {
	content := data(1, 10_000)
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"one-byte":      iotest.OneByteReader,
		"half":          iotest.HalfReader,
		"eof-with-data": iotest.DataErrReader,
		"empty-reads":   func(r io.Reader) io.Reader { return &stutter{Reader: r} },
		"midway-seeker": midway,
		"only-reader":   func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
	} {
		for _, announced := range []int64{int64(len(content)), -1} {
			t.Run(fmt.Sprintf("%s of %d", name, announced), func(t *testing.T) {
				_, err := store.Put(t.Context(), name, reader(bytes.NewReader(content)), announced, storage.Condition{})
				require.NoError(t, err)
				got, _ := get(t, store, name)
				assertSame(t, content, got)
			})
		}
	}
}

// stutter returns no data from every other Read, as io.Reader permits.
type stutter struct {
	io.Reader
	stuttered bool
}

func (s *stutter) Read(p []byte) (int, error) {
	s.stuttered = !s.stuttered
	if s.stuttered {
		return 0, nil
	}
	return s.Reader.Read(p)
}

// midway returns a seekable reader that has already been read in part. Put must not rewind it.
func midway(r io.Reader) io.Reader {
	content, _ := io.ReadAll(r)
	seeker := bytes.NewReader(append([]byte("already read"), content...))
	seeker.Seek(int64(-len(content)), io.SeekEnd)
	return seeker
}

func testPutReplaces(t *testing.T, store storage.Store) {
	const name = "replaced"
	etags := map[string]bool{}
	for i, size := range []int{100, 1, partSize + 1, 0, 2*partSize + 1, 100, 100} {
		content := data(uint64(i), size)
		info := put(t, store, name, content, storage.Condition{})
		assert.False(t, etags[info.ETag], "the ETag of an earlier version")
		etags[info.ETag] = true
		assertUnchanged(t, store, info, content)
	}
	assert.Equal(t, []string{name}, names(t, store, ""))
}

func testPutWrongSize(t *testing.T, store storage.Store) {
	content := data(1, 1000)
	old := put(t, store, "old", content, storage.Condition{})
	for _, sizes := range [][2]int64{
		{0, 1},
		{1, 0},
		{1, 2},
		{1000, 999},
		{1000, 1001},
		{-2, 10},
		{partSize, partSize - 1},
		{partSize, partSize + 1},
		{partSize + 1, partSize},
		{2*partSize + 5, 2 * partSize},
		{2*partSize + 5, 2*partSize + 4},
		{2*partSize + 5, 2*partSize + 6},
		{2 * partSize, 2*partSize + 1},
		{5, 3 * partSize},
		{3 * partSize, 5},
	} {
		announced, actual := sizes[0], sizes[1]
		for _, name := range []string{"old", "new"} {
			t.Run(fmt.Sprintf("%s %d announced as %d", name, actual, announced), func(t *testing.T) {
				_, err := store.Put(t.Context(), name, bytes.NewReader(data(2, int(actual))), announced, storage.Condition{})
				assert.ErrorIs(t, err, storage.ErrSize)
			})
		}
	}
	assertUnchanged(t, store, old, content)
	assertAbsent(t, store, "new")
}

func testPutReaderFails(t *testing.T, store storage.Store) {
	content := data(1, 1000)
	old := put(t, store, "old", content, storage.Condition{})
	for _, failure := range []error{
		errors.New("the camera failed"),
		io.ErrUnexpectedEOF, // not a normal end of the data
		syscall.ENOSPC,      // the reader's error, not the store's
	} {
		for _, after := range []int{0, 1, 1000, partSize, partSize + 1, 3 * partSize} {
			for _, announced := range []int64{-1, int64(after), int64(after) + 1, 4 * partSize} {
				for _, name := range []string{"old", "new"} {
					reader := io.MultiReader(bytes.NewReader(data(2, after)), iotest.ErrReader(failure))
					_, err := store.Put(t.Context(), name, reader, announced, storage.Condition{})
					require.ErrorIs(t, err, failure, "%s after %d of %d bytes", name, after, announced)
					assert.NotErrorIs(t, err, storage.ErrFull)
					assert.NotErrorIs(t, err, storage.ErrUnavailable)
				}
			}
		}
	}
	assertUnchanged(t, store, old, content)
	assertAbsent(t, store, "new")
}
