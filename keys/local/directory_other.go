//go:build !unix

package local

import "os"

// checkPrivate checks nothing, because a file's mode does not control access here.
func checkPrivate(*os.Root) error { return nil }

// syncDir closes the folder. Here folders cannot be synced, or need not be. It takes the results of
// os.Open.
func syncDir(folder *os.File, err error) error {
	if err != nil {
		return err
	}
	return folder.Close()
}
