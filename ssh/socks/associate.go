package socks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/things-go/go-socks5/statute"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

const (
	maxFlows    = 64    // destinations of one association
	maxPending  = 16    // datagrams that wait while a destination is dialled
	maxDatagram = 65535 // bytes
)

// An association carries the datagrams of one client (RFC 1928, section 7).
type association struct {
	c   *client
	ctx context.Context
	udp *net.UDPConn
	ip  netip.Addr // of the client: nobody else may send
	wg  sync.WaitGroup

	mu    sync.Mutex
	port  uint16           // guarded by mu; the first that the client sent from
	flows map[string]*flow // guarded by mu; by destination
}

// A flow is one destination.
type flow struct {
	dst     statute.AddrSpec
	address string
	pending chan []byte
}

// associate serves an association until the control connection ends.
func (c *client) associate(ctx context.Context, asked statute.AddrSpec) error {
	if !c.s.takeAssociation() {
		return errors.Join(errLimit, c.reply(forward.CodeFailed, netip.AddrPort{}))
	}
	defer c.s.giveAssociation()
	local, ok := c.nc.LocalAddr().(*net.TCPAddr)
	remote, ok2 := c.nc.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return errors.Join(errCommand, c.reply(forward.CodeCommand, netip.AddrPort{}))
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		return errors.Join(err, c.reply(forward.CodeFailed, netip.AddrPort{}))
	}
	ctx, stop := context.WithCancel(ctx)
	a := &association{c: c, ctx: ctx, udp: udp, ip: remote.AddrPort().Addr().Unmap(), flows: make(map[string]*flow)}
	if ip, ok := netip.AddrFromSlice(asked.IP); ok && ip.Unmap() == a.ip {
		a.port = uint16(asked.Port) // the client says where it will send from
	}
	defer a.wg.Wait()
	defer stop()
	defer func() { _ = udp.Close() }() // twice is harmless
	if err := c.reply(forward.CodeOK, udp.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		return nil
	}
	_ = c.nc.SetDeadline(time.Time{})
	safe.Go(&a.wg, a.fail, a.receive)
	_, _ = io.Copy(io.Discard, c.in) // its end is that of the association
	return nil
}

func (a *association) fail(err error) {
	a.c.s.log().Error("socks panic", "err", err)
	_ = a.c.nc.Close() // the association ends
}

// receive reads what the client sends, until the socket is closed.
func (a *association) receive() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := a.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !a.mine(from) {
			continue
		}
		d, err := statute.ParseDatagram(buf[:n])
		if err != nil || d.Frag != 0 {
			continue // fragments are optional in RFC 1928
		}
		a.send(d)
	}
}

// mine reports whether a datagram is the client's.
func (a *association) mine(from netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if from.Addr().Unmap() != a.ip || a.port != 0 && from.Port() != a.port {
		return false
	}
	a.port = from.Port()
	return true
}

// send hands a datagram to the flow of its destination. One that has no room is
// dropped, as the network would.
func (a *association) send(d statute.Datagram) {
	address, ok := target(d.DstAddr)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.flows[address]
	if f == nil {
		if len(a.flows) >= maxFlows {
			return
		}
		dst := d.DstAddr
		dst.IP = append(net.IP(nil), dst.IP...) // it is a part of the buffer
		f = &flow{dst: dst, address: address, pending: make(chan []byte, maxPending)}
		a.flows[address] = f
		safe.Go(&a.wg, a.fail, func() { a.run(f) })
	}
	select {
	case f.pending <- append([]byte(nil), d.Data...):
	default:
	}
}

// run dials a destination and carries its datagrams until it fails.
func (a *association) run(f *flow) {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.flows, f.address)
	}()
	nc, err := a.c.dial(a.ctx, "udp", f.address)
	if err != nil {
		return // the datagrams are lost
	}
	ctx, stop := context.WithCancel(a.ctx)
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	defer func() { _ = nc.Close() }() // twice is harmless
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	safe.Go(&wg, a.fail, func() {
		defer stop()
		a.answer(f, nc)
	})
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-f.pending:
			if _, err := nc.Write(d); err != nil {
				return
			}
		}
	}
}

// answer sends what comes back to the client.
func (a *association) answer(f *flow, nc net.Conn) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		d := statute.Datagram{DstAddr: f.dst, Data: buf[:n]}
		a.mu.Lock()
		to := netip.AddrPortFrom(a.ip, a.port)
		a.mu.Unlock()
		_, _ = a.udp.WriteToUDPAddrPort(d.Bytes(), to) // a datagram may be lost
	}
}

func (s *Server) takeAssociation() bool {
	limit := orDefault(s.MaxAssociations, defaultMaxAssociations)
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && s.assoc >= limit {
		return false
	}
	s.assoc++
	return true
}

func (s *Server) giveAssociation() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assoc--
}
