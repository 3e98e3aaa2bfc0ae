// Package durable keeps files of ours whole: through a crash of the program, a
// kill -9 and a loss of power a file has its old content or its new one, and
// what was reported as written stays. One process at a time writes, which a
// lock makes sure of.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
)

// WriteFile makes data the content of the file name in dir, or leaves the file
// as it was. It writes a temporary file beside it, syncs it, renames it to name
// and syncs the folder: when WriteFile returns nil, the file is on the disk. A
// reader sees the old content or the new one, never a part; a link called name is
// replaced, not followed. perm is that of the new file, less the umask, whatever
// an old one had.
//
// An error leaves the old content, except one of the last step, the sync of the
// folder: then the new content is in place and may be lost with power. A sync
// that failed is never tried again, because the system may have dropped the data
// that it could not write. The temporary file is removed; one that a crash left
// behind is called ".tmp-" and 26 letters, disturbs nothing and may be deleted
// while nobody writes.
//
// Two calls for the same name at once are safe: one of them wins. On Windows
// the folder is not synced: NTFS has a journal of its own.
func WriteFile(dir *os.Root, name string, data []byte, perm iofs.FileMode) error {
	folder := path.Dir(name)
	temp := path.Join(folder, ".tmp-"+rand.Text())
	if err := writeTemp(dir, temp, data, perm); err != nil {
		return fmt.Errorf("durable: write %q: %w", name, discard(dir, temp, err))
	}
	if err := dir.Rename(temp, name); err != nil {
		return fmt.Errorf("durable: write %q: %w", name, discard(dir, temp, err))
	}
	if err := syncFolder(dir, folder); err != nil {
		return fmt.Errorf("durable: write %q: sync its folder: %w", name, err)
	}
	return nil
}

// writeTemp makes a new file with data that is on the disk when it returns.
func writeTemp(dir *os.Root, temp string, data []byte, perm iofs.FileMode) error {
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// discard removes a temporary file that is of no use after err.
func discard(dir *os.Root, temp string, err error) error {
	if gone := dir.Remove(temp); gone != nil && !errors.Is(gone, iofs.ErrNotExist) {
		return errors.Join(err, gone)
	}
	return err
}
