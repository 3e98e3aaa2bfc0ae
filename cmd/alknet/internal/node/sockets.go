package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

// A Listener is one of node.listen with what became of it.
type Listener struct {
	Name      string `json:"name"`               // as configured
	UDP       string `json:"udp,omitzero"`       // address; empty: none
	TCP       string `json:"tcp,omitzero"`       // address; empty: none
	Activated bool   `json:"activated,omitzero"` // the service manager opened it
}

// sockets are the sockets of one endpoint.
type sockets struct {
	name      string
	udp       net.PacketConn
	tcp       net.Listener
	activated bool
}

func closeSockets(pairs []sockets) {
	for _, p := range pairs {
		if p.udp != nil {
			_ = p.udp.Close() // never used
		}
		if p.tcp != nil {
			_ = p.tcp.Close() // never used
		}
	}
}

// openSockets opens what node.listen says, before keys and parts: a port that is
// taken ends the start at once.
func (n *Node) openSockets(ctx context.Context) (pairs []sockets, err error) {
	listen := []string{":4433"}
	if f := n.opts.File.Node; f != nil && f.Listen != nil {
		listen = f.Listen
	}
	defer func() {
		if err != nil {
			closeSockets(pairs)
			pairs = nil
		}
	}()
	for _, s := range listen {
		addr, kind, err := config.SplitListen(s)
		if err != nil {
			return pairs, fault.New(fault.Config, "node.listen: "+err.Error(), "")
		}
		p := sockets{name: s}
		if kind == "systemd" {
			p, err = n.activated(s, addr)
		} else {
			p.udp, p.tcp, err = open(ctx, addr, kind)
		}
		if err != nil {
			return pairs, socketFault("node.listen", s, err)
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

func socketFault(key, name string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &fault.Error{Exit: fault.Busy, Code: "busy", Message: fmt.Sprintf("%s %q is taken by another program: %v", key, name, err), Hint: "alknet status", Err: err}
	case errors.Is(err, os.ErrPermission):
		return &fault.Error{Exit: fault.Denied, Code: "denied", Message: fmt.Sprintf("%s %q: %v", key, name, err), Err: err}
	}
	return fmt.Errorf("%s %q: %w", key, name, err)
}

// maxPortTries bounds the search for a port that is free on UDP and TCP.
const maxPortTries = 16

func open(ctx context.Context, addr, kind string) (net.PacketConn, net.Listener, error) {
	var lc net.ListenConfig
	if kind == "udp" {
		udp, err := lc.ListenPacket(ctx, "udp", addr)
		return udp, nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, err
	}
	for try := 1; ; try++ {
		tcp, err := lc.Listen(ctx, "tcp", addr)
		if err != nil || kind == "tcp" {
			return nil, tcp, err
		}
		same := net.JoinHostPort(host, strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port))
		udp, err := lc.ListenPacket(ctx, "udp", same)
		if err == nil {
			return udp, tcp, nil
		}
		_ = tcp.Close() // never used
		if port != "0" || try == maxPortTries {
			return nil, nil, err
		}
	}
}

// activated takes the sockets that the service manager opened under a name.
func (n *Node) activated(listen, name string) (p sockets, err error) {
	p = sockets{name: listen, activated: true}
	files := n.opts.Activated[name]
	if len(files) == 0 {
		return p, fault.New(fault.Config, fmt.Sprintf("the service manager gave no socket named %q", name), "")
	}
	for _, f := range files {
		if l, err := net.FileListener(f); err == nil && p.tcp == nil {
			p.tcp = l
		} else if u, err := net.FilePacketConn(f); err == nil && p.udp == nil {
			p.udp = u
		} else {
			return p, fault.New(fault.Config, fmt.Sprintf("%q: one stream and one datagram socket, no more", name), "")
		}
		_ = f.Close() // net has its own copy
	}
	return p, nil
}

// openEndpoints makes endpoints of the sockets. The first that listens on UDP
// dials too, so that both directions share a port.
func (n *Node) openEndpoints(pairs []sockets) error {
	cfg := &alknet.Config{Key: n.signer}
	for i, p := range pairs {
		ep, err := alknet.NewEndpoint(p.udp, p.tcp, cfg)
		if err != nil {
			closeSockets(pairs[i+1:])
			return err
		}
		n.endpoints = append(n.endpoints, ep)
		l := Listener{Name: p.name, Activated: p.activated}
		if p.udp != nil {
			l.UDP = p.udp.LocalAddr().String()
		}
		if p.tcp != nil {
			l.TCP = p.tcp.Addr().String()
		}
		n.listeners = append(n.listeners, l)
		if n.dialer == nil && p.udp != nil {
			n.dialer = ep
		}
	}
	if n.dialer == nil {
		var err error
		if n.dialer, err = alknet.NewEndpoint(nil, nil, cfg); err != nil {
			return err
		}
	}
	n.id = n.dialer.ID()
	return nil
}
