// Command vectors writes the test vectors of the recording format, docs/vectors, for readers in any language.
//
//	go run ./internal/vectors            writes them
//	go run ./internal/vectors -counts    prints how many there are
//
// Everything in them follows from fixed texts, so each run gives the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

const (
	folder   = "docs/vectors"
	fileName = "recording_v1_test.json"
)

func main() {
	countsOnly := flag.Bool("counts", false, "write nothing")
	flag.Parse()
	vectors := generate()
	if !*countsOnly {
		if err := os.WriteFile(filepath.Join(folder, fileName), vectors.encode(), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "vectors:", err)
			os.Exit(1)
		}
	}
	fmt.Println(vectors.counts())
}
