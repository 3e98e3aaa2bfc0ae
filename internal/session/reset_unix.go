//go:build !windows

package session

import (
	"errors"
	"syscall"
)

// isReset reports whether err is a connection that the other end aborted.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
