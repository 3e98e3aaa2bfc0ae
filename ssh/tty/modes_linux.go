package tty

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
	vdisable   = 0
)

var utf8Mode = mode{kind: modeInput, bit: unix.IUTF8}

// sendBreak is tcsendbreak(3).
func sendBreak(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 0) }

// waitid waits for a child and leaves it to be reaped: until then its id is its
// own, so that a signal can not reach another process.
func waitid(pid int) bool {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			return err == nil
		}
	}
}
