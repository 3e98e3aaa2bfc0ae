package node

import (
	"context"
	"crypto"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// A part is what a section contributes: a service of the router.
type part struct {
	section string
	value   any // of the section, to see whether it changed
	service alknet.Service
	use     func() // makes it the current one, once it is registered
	drop    func() // when the section is gone
}

// A section is a row of the table of services: what it is called, its settings
// (nil: absent) and how it is built.
type section struct {
	name  string
	value func(*config.File) any
	build func(*Node, *config.File) (*part, error)
}

// sections are the services, in the order in which they are offered.
var sections = []section{
	{"call", func(f *config.File) any { return value(f.Call) }, (*Node).buildCall},
	{"ssh", func(f *config.File) any { return value(f.SSH) }, (*Node).buildSSH},
	{"tunnel", func(f *config.File) any { return value(f.Tunnel) }, (*Node).buildTunnel},
	{"pair", func(f *config.File) any { return value(f.Pair) }, (*Node).buildPair},
}

// value is *p, or nil for a nil p.
func value[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

// addPart builds a section and registers its service.
func (n *Node) addPart(s section, f *config.File) error {
	v := s.value(f)
	if v == nil {
		return nil
	}
	p, err := s.build(n, f)
	if err != nil {
		return fmt.Errorf("[%s]: %w", s.name, err)
	}
	p.section, p.value = s.name, v
	return n.register(p)
}

func (n *Node) register(p *part) error {
	if err := n.router.Register(p.service); err != nil {
		return fmt.Errorf("[%s]: %w", p.section, err)
	}
	if p.use != nil {
		p.use()
	}
	n.mu.Lock()
	n.parts[p.section] = p
	n.mu.Unlock()
	return nil
}

// removePart takes a service away: it is no longer offered when removePart
// returns. Its connections drain in the background. replaced: another takes its place
// next, and is the current one from then on.
func (n *Node) removePart(p *part, replaced bool) {
	n.mu.Lock()
	delete(n.parts, p.section)
	n.mu.Unlock()
	if p.drop != nil && !replaced {
		p.drop()
	}
	wait := n.drainTime()
	n.background("remove "+p.section, func() error {
		ctx, cancel := context.WithTimeout(n.ctx, wait)
		defer cancel()
		return n.router.Remove(ctx, p.service.ALPN)
	})
	for n.offers(p.service.ALPN) {
		time.Sleep(time.Millisecond) // Remove says nothing before the drain is over
	}
}

func (n *Node) offers(alpn string) bool {
	return slices.ContainsFunc(n.router.Services(), func(s alknet.Service) bool { return s.ALPN == alpn })
}

// settings applies what every section of a service may say.
func settings(s alknet.Service, c config.Service) alknet.Service {
	if over := config.Transports(c.Over); over != 0 {
		s.Over = over
	}
	if !reflect.DeepEqual(c.Access, alknet.AccessControl{}) {
		s.Access = c.Access
	}
	s.AllowAnonymous = s.AllowAnonymous || c.AllowAnonymous
	return s
}

func (n *Node) buildCall(f *config.File) (*part, error) {
	h := &call.Handler{
		Registry:     n.registry,
		Sources:      n.graph.sources(),
		Authenticate: n.known.token,
		OnConnect:    n.graph.onConnect(),
		Limits:       f.Call.Limits,
		Logger:       n.log,
	}
	service := settings(call.Service(h), f.Call.Service)
	h.Identify = (&dialledPeers{n: n, access: service.Access}).identify
	return &part{
		service: service,
		use:     func() { n.setCalls(h) },
		drop:    func() { n.setCalls(nil) },
	}, nil
}

func (n *Node) setCalls(h *call.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = h
}

func (n *Node) buildSSH(f *config.File) (*part, error) {
	h := &ssh.Handler{
		HostKeys:     []crypto.Signer{n.hostKey},
		Node:         n.signer,
		Gate:         n.gate,
		AcceptAnyKey: f.SSH.AcceptAnyKey,
		AllowAgent:   f.SSH.AllowAgent,
		Environ:      f.SSH.Environ,
		Users:        n.sshUsers(f.SSH),
		Limits:       f.SSH.Limits,
		Logger:       n.log,
	}
	switch f.SSH.Accounts {
	case "own":
		h.Accounts = ssh.OwnAccount
	case "system":
		h.Accounts = ssh.SystemAccounts
	}
	set := func(h *ssh.Handler) func() {
		return func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.shell = h
		}
	}
	return &part{service: settings(ssh.Service(h), f.SSH.Service), use: set(h), drop: set(nil)}, nil
}

func (n *Node) buildTunnel(f *config.File) (*part, error) {
	h := &tunnel.Handler{Gate: n.gate, MaxListeners: f.Tunnel.MaxListeners, Logger: n.log}
	set := func(h *tunnel.Handler) func() {
		return func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.tunnels = h
		}
	}
	return &part{service: settings(tunnel.Service(h), f.Tunnel.Service), use: set(h), drop: set(nil)}, nil
}
