package session

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isReset reports whether err is a connection that the other end aborted.
func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED)
}
