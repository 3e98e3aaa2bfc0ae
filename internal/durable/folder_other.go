//go:build !windows

package durable

import (
	"errors"
	"os"
)

// syncFolder puts the names in a folder on the disk.
func syncFolder(dir *os.Root, folder string) error {
	f, err := dir.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
