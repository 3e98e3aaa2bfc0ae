package session

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// receiveGRO makes a UDP socket receive with UDP_GRO: one system call brings up
// to 64 KiB of equal-sized datagrams of one sender, which are handed to the
// QUIC library one by one through the batch reader that it looks for. A socket
// or kernel that cannot do it is returned unchanged.
func receiveGRO(pc net.PacketConn) (net.PacketConn, bool) {
	uc, ok := pc.(*net.UDPConn)
	if !ok {
		return pc, false
	}
	rc, err := uc.SyscallConn()
	if err != nil {
		return pc, false
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	})
	if err != nil || serr != nil {
		return pc, false
	}
	c := &groConn{UDPConn: uc, many: ipv4.NewPacketConn(uc)}
	for i := range c.batches {
		c.batches[i] = ipv4.Message{Buffers: [][]byte{make([]byte, maxMerged)}, OOB: make([]byte, 256)}
	}
	return c, true
}

// maxMerged is the most that the kernel merges: one IP datagram's worth.
const maxMerged = 64 << 10

// maxSenders bounds the cache of sender addresses; a full one starts again.
const maxSenders = 4096

// manySenders is how many batches one system call brings while several senders
// take turns, and crowdTime for how many calls that is then believed.
const (
	manySenders = 4
	crowdTime   = 32
)

// groConn is a UDP socket that splits what the kernel merged. The kernel merges
// datagrams of one sender only; with many senders several batches are received
// at once, at the price of an address allocated for each. ReadBatch is called by
// one goroutine, the transport's reader.
type groConn struct {
	*net.UDPConn
	many    *ipv4.PacketConn
	batches [manySenders]ipv4.Message
	waiting []ipv4.Message // part of batches: received, not yet split
	last    netip.AddrPort // the sender of the last batch that came alone
	crowd   int            // for how many more calls there may be many senders

	rest    []byte // received, not yet handed out
	segment int    // size of each datagram in rest but the last
	control []byte // control messages that go with every datagram of rest: ECN, packet info
	sender  *net.UDPAddr
	senders map[netip.AddrPort]*net.UDPAddr
}

// ReadBatch fills ms with datagrams, one per message, and returns how many.
func (c *groConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	for len(c.rest) == 0 { // an empty datagram is not a batch
		if len(c.waiting) == 0 {
			if err := c.receive(); err != nil {
				return 0, err
			}
		}
		c.split(&c.waiting[0])
		c.waiting = c.waiting[1:]
	}
	n := 0
	for n < len(ms) && len(c.rest) > 0 {
		k := min(c.segment, len(c.rest))
		ms[n].N = copy(ms[n].Buffers[0], c.rest[:k])
		ms[n].NN = copy(ms[n].OOB, c.control)
		ms[n].Addr = c.sender
		c.rest = c.rest[k:]
		n++
	}
	return n, nil
}

// receive reads at least one batch from the kernel.
func (c *groConn) receive() error {
	if c.crowd > 0 {
		return c.receiveMany()
	}
	m := &c.batches[0]
	n, oobn, _, from, err := c.ReadMsgUDPAddrPort(m.Buffers[0], m.OOB)
	if err != nil {
		return err
	}
	if c.last.IsValid() && from != c.last {
		c.crowd = crowdTime
	}
	c.last = from
	m.N, m.NN, m.Addr = n, oobn, c.addr(from)
	c.waiting = c.batches[:1]
	return nil
}

// receiveMany reads as many batches as there are and fit.
func (c *groConn) receiveMany() error {
	n, err := c.many.ReadBatch(c.batches[:], 0)
	if err != nil {
		return err
	}
	c.crowd--
	if n > 1 {
		c.crowd = crowdTime
	}
	c.waiting = c.batches[:n]
	return nil
}

// split makes m the batch that is handed out.
func (c *groConn) split(m *ipv4.Message) {
	c.sender, _ = m.Addr.(*net.UDPAddr)
	c.rest, c.segment, c.control = m.Buffers[0][:m.N], m.N, c.control[:0]
	for oob := m.OOB[:m.NN]; len(oob) > 0; {
		hdr, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if hdr.Level == unix.IPPROTO_UDP && hdr.Type == unix.UDP_GRO && len(body) >= 2 {
			if size := int(binary.NativeEndian.Uint16(body)); size > 0 {
				c.segment = size
			}
		} else {
			c.control = append(c.control, oob[:len(oob)-len(rest)]...)
		}
		oob = rest
	}
}

// addr is one *net.UDPAddr per sender rather than one per datagram.
func (c *groConn) addr(from netip.AddrPort) *net.UDPAddr {
	if a, ok := c.senders[from]; ok {
		return a
	}
	if c.senders == nil || len(c.senders) >= maxSenders {
		c.senders = make(map[netip.AddrPort]*net.UDPAddr)
	}
	a := net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	c.senders[from] = a
	return a
}
