package session

import (
	"encoding/binary"
	"net"
	"runtime"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// receiveGRO makes a UDP socket receive with UDP_GRO: the kernel merges up to
// 64 KiB of equal-sized datagrams of one sender, which are handed to the QUIC
// library one by one through the batch reader that it looks for. A socket or
// kernel that cannot do it is returned unchanged.
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
	c := &groConn{UDPConn: uc, kernel: ipv4.NewPacketConn(uc)}
	// Outside of the heap they cost what is used of them, mostly one page
	// each, and do not make the collector run more often.
	mem, err := unix.Mmap(-1, 0, maxBatches*maxMerged, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return pc, false
	}
	runtime.AddCleanup(c, func(mem []byte) { _ = unix.Munmap(mem) }, mem)
	for i := range c.batches {
		c.batches[i] = ipv4.Message{Buffers: [][]byte{mem[i*maxMerged:][:maxMerged]}, OOB: make([]byte, 256)}
	}
	return c, true
}

// maxMerged is the most that the kernel merges: one IP datagram's worth.
const maxMerged = 64 << 10

// maxBatches is how many merged batches one system call brings. With many
// senders each is one datagram.
const maxBatches = 4

// groConn is a UDP socket that splits what the kernel merged. ReadBatch is
// called by one goroutine, the transport's reader.
type groConn struct {
	*net.UDPConn
	kernel  *ipv4.PacketConn
	batches [maxBatches]ipv4.Message
	waiting []ipv4.Message // part of batches: received, not yet split

	rest    []byte // received, not yet handed out
	segment int    // size of each datagram in rest but the last
	control []byte // control messages that go with every datagram of rest: ECN, packet info
	sender  net.Addr
}

// ReadBatch fills ms with datagrams that were received, one per message, and
// returns how many.
func (c *groConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	n := 0
	for n < len(ms) {
		if len(c.rest) == 0 { // which an empty datagram leaves so
			if len(c.waiting) == 0 && n > 0 {
				break
			}
			if err := c.next(); err != nil {
				return 0, err
			}
			continue
		}
		k := min(c.segment, len(c.rest))
		ms[n].N = copy(ms[n].Buffers[0], c.rest[:k])
		ms[n].NN = copy(ms[n].OOB, c.control)
		ms[n].Addr = c.sender
		c.rest = c.rest[k:]
		n++
	}
	return n, nil
}

// next splits the next batch, waiting for the kernel if there is none.
func (c *groConn) next() error {
	if len(c.waiting) == 0 {
		n, err := c.kernel.ReadBatch(c.batches[:], 0)
		if err != nil {
			return err
		}
		c.waiting = c.batches[:n]
	}
	c.split(&c.waiting[0])
	c.waiting = c.waiting[1:]
	return nil
}

// split makes m the batch that is handed out.
func (c *groConn) split(m *ipv4.Message) {
	c.sender, c.rest, c.segment, c.control = m.Addr, m.Buffers[0][:m.N], m.N, c.control[:0]
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
