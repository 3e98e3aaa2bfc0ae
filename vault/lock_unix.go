//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package vault

import (
	"errors"
	"os"
	"syscall"
)

// lockFile locks f until it is closed. The lock belongs to the open file, not to
// the process, so two of one process exclude each other as well.
func lockFile(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	err = conn.Control(func(fd uintptr) {
		for {
			lockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
			if !errors.Is(lockErr, syscall.EINTR) {
				return
			}
		}
	})
	if errors.Is(lockErr, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return errors.Join(err, lockErr)
}
