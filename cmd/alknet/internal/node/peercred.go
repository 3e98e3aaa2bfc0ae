package node

import (
	"log/slog"
	"net"
	"os"
)

// An ownListener accepts connections of the node's user and of root only, also
// where the path of the socket is open to others.
type ownListener struct {
	*net.UnixListener
	log *slog.Logger
}

// Accept waits for a connection of ours.
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, known, err := peerUID(c)
		if err == nil && (!known || uid == uint32(os.Geteuid()) || uid == 0) {
			return c, nil
		}
		l.log.Warn("another user's process was refused at the control socket", "event", "conn.refused", "uid", uid, "err", err)
		_ = c.Close() // refused
	}
}
