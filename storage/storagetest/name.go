package storagetest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/recvault/recvault/storage"
)

func testName(t *testing.T, open func(*testing.T) storage.Store) {
	t.Run("that is valid works, long or unusual", func(t *testing.T) {
		store := open(t)
		segment := strings.Repeat("s", 255)
		for i, name := range []string{
			"a", "0", "-", "_", "-rf", ".hidden", "...", "a..b", "A/b.C-d_e", segment, segment + "/" + segment,
			"l/" + strings.Repeat(segment+"/", 3) + strings.Repeat("t", 254),
		} {
			t.Run(abbreviated(name), func(t *testing.T) {
				content := data(uint64(i), 10)
				info := put(t, store, name, content, storage.IfAbsent())
				assertUnchanged(t, store, info, content)
				assert.Equal(t, []string{name}, names(t, store, ""))
				assert.NoError(t, store.Delete(t.Context(), name))
				assertAbsent(t, store, name)
			})
		}
	})
	t.Run("that is not valid is refused everywhere", func(t *testing.T) {
		store := open(t)
		for _, name := range []string{
			"", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/..", "a/../b", "a/./b", "a/../../../etc/passwd",
			"a\\b", "..\\a", "c:a", "a b", "a\x00b", "a\nb", "ä", "a%2fb", "a*", "a?", "~", "a\xff",
			strings.Repeat("a", 256), strings.Repeat("a/", 512) + "a",
		} {
			t.Run(abbreviated(name), func(t *testing.T) {
				read := false
				_, err := store.Put(t.Context(), name, readerFunc(func([]byte) (int, error) {
					read = true
					return 0, bytes.ErrTooLarge
				}), -1, storage.Condition{})
				assert.ErrorIs(t, err, storage.ErrInvalidName, "Put")
				assert.False(t, read, "Put read the data")
				_, err = store.Get(t.Context(), name, 0, -1)
				assert.ErrorIs(t, err, storage.ErrInvalidName, "Get")
				_, err = store.Stat(t.Context(), name)
				assert.ErrorIs(t, err, storage.ErrInvalidName, "Stat")
				assert.ErrorIs(t, store.Delete(t.Context(), name), storage.ErrInvalidName, "Delete")
			})
		}
		assert.Empty(t, names(t, store, ""))
	})
}

// abbreviated returns a test name for an object's name.
func abbreviated(name string) string { return fmt.Sprintf("%.20q of %d bytes", name, len(name)) }
