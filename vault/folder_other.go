//go:build !windows

package vault

import (
	"errors"
	"os"
)

// syncFolder puts the names in a folder on the disk.
func syncFolder(root *os.Root, folder string) error {
	f, err := root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
