package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
)

// ErrLocked is wrapped by the error of [Lock] while somebody else has the lock.
var ErrLocked = errors.New("locked")

// maxSwaps is how often Lock begins again because its file was replaced.
const maxSwaps = 10

// Lock takes the lock that the file name in dir stands for, or fails at once with
// an error that wraps [ErrLocked] and names the process that has it, if that is
// known. unlock gives it back; the end of the process, of whatever kind, does
// too. A second unlock does nothing. The lock holds between processes and within
// one, on this machine; a program that does not ask for it is not kept out.
//
// The file has the holder's process id in it and stays after unlock: removing
// it would let two processes lock two files of the same name.
func Lock(dir *os.Root, name string) (unlock func(), err error) {
	for range maxSwaps {
		f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("durable: lock %q: %w", name, err)
		}
		if err := lockFile(f); err != nil {
			if errors.Is(err, ErrLocked) {
				err = heldBy(f)
			}
			return nil, errors.Join(fmt.Errorf("durable: lock %q: %w", name, err), f.Close())
		}
		if current(dir, name, f) {
			mark(f)
			return sync.OnceFunc(func() { release(f) }), nil
		}
		_ = f.Close() // somebody removed it between open and lock
	}
	return nil, fmt.Errorf("durable: lock %q: the file is replaced again and again", name)
}

// current reports whether f is still what name stands for.
func current(dir *os.Root, name string, f *os.File) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := dir.Stat(name)
	return err == nil && os.SameFile(open, named)
}

// heldBy is an ErrLocked that names the holder, if it has written itself down.
func heldBy(f *os.File) error {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 20))
	if err != nil {
		return ErrLocked
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || pid <= 0 {
		return ErrLocked
	}
	return fmt.Errorf("%w by process %d", ErrLocked, pid)
}

// mark writes our process id into the lock's file. It is a help for people: the
// lock holds without it.
func mark(f *os.File) {
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
}

// release empties the file, so that nobody is told of us, and unlocks it.
func release(f *os.File) {
	_ = f.Truncate(0)
	_ = f.Close() // which unlocks it: nothing else has it open
}
