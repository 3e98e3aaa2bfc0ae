package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// resolve says where a peer is: an id of the book, a peer id, or id@host:port.
func (k *known) resolve(name string) (Resolved, error) {
	if strings.Contains(name, "@") {
		a, err := alknet.ParseAddr(name)
		if err != nil {
			return Resolved{}, fault.New(fault.Usage, err.Error(), "")
		}
		p, _ := k.entryFor(alknet.Identity{Peer: a.Peer})
		return Resolved{ID: p.ID, Keys: []string{a.Peer.String()}, Addrs: []string{a.HostPort}}, nil
	}
	if p, ok := k.get(name); ok {
		return entry{Peer: p}.resolved(), nil
	}
	if key, err := alknet.ParsePeerID(name); err == nil {
		if p, ok := k.entryFor(alknet.Identity{Peer: key}); ok {
			r := entry{Peer: p}.resolved()
			r.Keys = []string{key.String()}
			return r, nil
		}
		return Resolved{}, fault.New(fault.Unknown, "nobody knows where "+key.String()+" is", "alknet peer add NAME "+key.String()+"@HOST:PORT")
	}
	return Resolved{}, k.unknown(name)
}

// unknown says that there is no such peer, and which one was meant.
func (k *known) unknown(name string) error {
	var ids []string
	for _, e := range k.entries() {
		ids = append(ids, e.ID)
	}
	e := fault.New(fault.Unknown, "there is no peer "+printable.Quote(name), "alknet peer list")
	if near := config.Nearest(name, ids); near != "" {
		e.Message += " (did you mean " + near + "?)"
	}
	e.Peer = name
	return e
}

// An entry is a known peer and where it is written down.
type entry struct {
	peer.Peer
	source string // "file" or "book"
}

func (e entry) resolved() Resolved {
	r := Resolved{ID: e.ID, Keys: []string{}, Addrs: []string{}}
	for _, key := range e.Keys {
		if key.NotAfter.IsZero() || key.NotAfter.After(time.Now()) {
			r.Keys = append(r.Keys, key.ID.String())
		}
	}
	for _, a := range e.Addrs {
		if a.Via == "" {
			r.Addrs = append(r.Addrs, a.HostPort)
		}
	}
	return r
}

// all lists the known peers for the status.
func (k *known) all() []PeerStatus {
	all := []PeerStatus{}
	for _, e := range k.entries() {
		p := PeerStatus{ID: e.ID, State: "never", Links: []LinkStatus{}, Operations: []string{}}
		if len(e.Keys) > 0 {
			p.Key = e.Keys[0].ID.String()
		}
		if e.Disabled {
			p.State = "disabled"
		}
		all = append(all, p)
	}
	return all
}

// Targets are the addresses of a peer with the keys that may answer there.
func (r Resolved) Targets() ([]alknet.Addr, error) {
	var all []alknet.Addr
	for _, hostPort := range r.Addrs {
		for _, text := range r.Keys {
			key, err := alknet.ParsePeerID(text)
			if err != nil {
				return nil, err
			}
			all = append(all, alknet.Addr{HostPort: hostPort, Peer: key})
		}
	}
	if len(all) == 0 {
		e := fault.New(fault.Unreachable, "no address is known for "+r.ID, "alknet peer add")
		e.Peer = r.ID
		return nil, e
	}
	return all, nil
}

// DialAny tries the addresses of a peer in turn; the first proven answer wins.
func DialAny(ctx context.Context, ep *alknet.Endpoint, r Resolved, over alknet.Transport, alpn string) (*alknet.Conn, error) {
	targets, err := r.Targets()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, to := range targets {
		to.Over = over
		conn, err := ep.Dial(ctx, to, alpn)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if errors.Is(err, alknet.ErrNoService) || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// keepTunnel keeps a link to the tunnels of a peer up until stop is called.
func (n *Node) keepTunnel(peer string) (k *forward.Keeper, stop func()) {
	ctx, cancel := context.WithCancel(n.ctx)
	k = &forward.Keeper{Logger: n.log, Connect: func(ctx context.Context) (forward.Link, error) {
		r, err := n.known.resolve(peer)
		if err != nil {
			return nil, err
		}
		conn, err := DialAny(ctx, n.dialer, r, tunnel.Service(nil).Over, tunnel.ALPN)
		if err != nil {
			return nil, err
		}
		return WithNames(tunnel.NewClient(conn)), nil
	}}
	n.background("tunnel", func() error {
		_ = k.Run(ctx) // ends with ctx
		return nil
	})
	return k, cancel
}

// A Directory is who a configuration and a book know, without a node.
type Directory struct{ known *known }

// OpenDirectory reads the peers of a configuration and the book beside it.
func OpenDirectory(p config.Places, f *config.File) (*Directory, error) {
	k, err := openKnown(p, f, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Directory{k}, nil
}

// Resolve says where a peer is.
func (d *Directory) Resolve(peer string) (Resolved, error) { return d.known.resolve(peer) }

// Close closes the book.
func (d *Directory) Close() { d.known.close() }

// Entries are who is known.
func (d *Directory) Entries() []PeerEntry { return d.known.peerEntries() }

// OpenBook opens the book of a state folder. The caller closes it.
func OpenBook(p config.Places) (*peer.Book, error) {
	if err := privateFolder(p.State); err != nil {
		return nil, err
	}
	return peer.OpenBook(filepath.Join(p.State, bookFile))
}
