//go:build !unix

package local

import "os"

// checkPrivate checks nothing: access is not a matter of modes here.
func checkPrivate(*os.Root) error { return nil }

// syncDir does nothing but close: folders cannot be synced here, or need not be.
func syncDir(folder *os.File, err error) error {
	if err != nil {
		return err
	}
	return folder.Close()
}
