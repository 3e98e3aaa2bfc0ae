package ssh

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeBytes is what a pipe of a process holds: reads of 64 KiB are full then.
const pipeBytes = 256 << 10

// growPipe makes a pipe hold more; it works as it is where that is not allowed.
func growPipe(f *os.File) {
	if rc, err := f.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}

// waitid waits for a child and leaves it to be reaped: until then its id is its
// own, so that a signal can not reach another process.
func waitid(pid int) bool {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			return err == nil
		}
	}
}
