//go:build darwin || freebsd

package node

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is the user of the process at the other end of a unix socket.
func peerUID(c *net.UnixConn) (uid uint32, known bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	var cred *unix.Xucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); err != nil {
		return 0, true, err
	}
	if sockErr != nil {
		return 0, true, sockErr
	}
	return cred.Uid, true, nil
}
