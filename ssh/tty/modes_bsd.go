//go:build unix && !linux

package tty

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
	vdisable   = 0xff
)

// utf8Mode changes nothing: not all of these systems have IUTF8.
var utf8Mode = mode{kind: modeInput}

// sendBreak is the beginning and the end of a break; a terminal that is no line
// has no time in between.
func sendBreak(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TIOCSBRK, 0); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TIOCCBRK, 0)
}

// waitid is not for these systems.
func waitid(int) bool { return false }
