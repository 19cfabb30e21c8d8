package dir_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
)

func Example() {
	ctx := context.Background()
	parent, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)

	store, err := dir.Open(filepath.Join(parent, "store"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	if _, err := store.Put(ctx, "letters/1", strings.NewReader("Dear reader"), -1, storage.IfAbsent()); err != nil {
		log.Fatal(err)
	}
	_, err = store.Put(ctx, "letters/1", strings.NewReader("Dear Sir or Madam"), -1, storage.IfAbsent())
	fmt.Println("put again:", errors.Is(err, storage.ErrExists))

	object, err := store.Get(ctx, "letters/1", 5, -1)
	if err != nil {
		log.Fatal(err)
	}
	defer object.Close()
	text, err := io.ReadAll(object)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, of %d bytes\n", text, object.Info.Size)

	for info, err := range store.List(ctx, "letters/") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.Name, info.Size)
	}
	// Output:
	// put again: true
	// reader, of 11 bytes
	// letters/1 11
}
