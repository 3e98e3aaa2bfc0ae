//go:build !linux

package session

import "net"

// receiveGRO returns pc: only Linux merges received datagrams.
func receiveGRO(pc net.PacketConn) (net.PacketConn, bool) { return pc, false }
