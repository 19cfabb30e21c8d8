// Package process runs servers that do not outlive the process that started them, even if that panics or is killed.
// Tests start their servers with it, and so does the command recvault dev.
package process

import (
	"os"
	"time"
)

// Command says how a server is started.
type Command struct {
	Args   []string // the path of the program, and its arguments
	Env    []string // its whole environment
	Dir    string   // the directory that it starts in
	Remove bool     // remove Dir if the process that started the server ends before the server does
	Log    *os.File // gets what the server prints
}

const pollInterval = 5 * time.Millisecond
