package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// maxSwaps is how often lockFolder begins again because its file was replaced.
const maxSwaps = 10

// lockFolder makes this process the folder's only user until unlock or its end,
// or fails at once with an error that wraps [ErrInUse] and names the process
// that has the folder, if that is known.
func lockFolder(root *os.Root) (unlock func(), err error) {
	for range maxSwaps {
		f, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("vault: lock: %w", err)
		}
		if err := lockFile(f); err != nil {
			if errors.Is(err, ErrInUse) {
				err = usedBy(f)
			}
			return nil, errors.Join(fmt.Errorf("%w: %s", err, filepath.Join(root.Name(), lockName)), f.Close())
		}
		if named, err := root.Stat(lockName); err == nil {
			if open, err := f.Stat(); err == nil && os.SameFile(open, named) {
				mark(f)
				return sync.OnceFunc(func() {
					_ = f.Truncate(0)
					_ = f.Close() // which unlocks it: nothing else has it open
				}), nil
			}
		}
		_ = f.Close() // somebody removed it between open and lock
	}
	return nil, fmt.Errorf("vault: lock: %s is replaced again and again", filepath.Join(root.Name(), lockName))
}

// usedBy is an ErrInUse that names the holder, if it has written itself down.
func usedBy(f *os.File) error {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 20))
	if err != nil {
		return ErrInUse
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || pid <= 0 {
		return ErrInUse
	}
	return fmt.Errorf("%w by process %d", ErrInUse, pid)
}

// mark writes our process id into the lock's file. It is a help for people: the
// lock holds without it.
func mark(f *os.File) {
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
}
