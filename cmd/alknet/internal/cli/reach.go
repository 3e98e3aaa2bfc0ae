package cli

import (
	"context"
	"errors"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// A way is how a client verb reaches peers: with the running node as the agent of
// its key, or with the vault unlocked here. The identity is the same.
type way struct {
	a        *app
	endpoint *alknet.Endpoint
	resolve  func(ctx context.Context, peer string) (node.Resolved, error)
	node     *agent.Client // nil: none runs, or --direct
	close    func()
}

// way opens one. The caller closes it.
func (a *app) way(ctx context.Context) (*way, error) {
	_, p, _, err := a.load()
	if err != nil {
		return nil, err
	}
	if !a.direct {
		n, err := agent.Connect(ctx, p.Control)
		if err == nil {
			return a.wayByNode(n)
		}
		if fault.Of(err).Exit != fault.Unreachable {
			return nil, err
		}
	}
	return a.wayByVault(ctx)
}

func (a *app) wayByNode(n *agent.Client) (*way, error) {
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: n.Signer()})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	a.detail("through the running node %s", n.ID())
	return &way{
		a: a, endpoint: ep, node: n,
		resolve: func(ctx context.Context, peer string) (node.Resolved, error) {
			return resolved(call.Call[node.Resolved](ctx, n, "node/resolve", node.ResolveIn{Peer: peer}))
		},
		close: func() { _, _ = ep.Close(), n.Close() }, // the process ends
	}, nil
}

// resolved gives an unknown peer its exit status.
func resolved(r node.Resolved, err error) (node.Resolved, error) {
	if ce, ok := errors.AsType[*call.Error](err); ok && ce.Code == "UNKNOWN_PEER" {
		e := fault.New(fault.Unknown, ce.Message, "")
		return r, e
	}
	return r, err
}

func (a *app) wayByVault(ctx context.Context) (*way, error) {
	f, p, err := a.configured()
	if err != nil {
		return nil, err
	}
	v, err := a.openVault(ctx)
	if err != nil {
		return nil, err
	}
	key, err := signerOf(v)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	a.detail("with the vault %s, as %s", p.Vault, ep.ID())
	known, err := node.OpenDirectory(p, f)
	if err != nil {
		return nil, errors.Join(err, ep.Close(), v.Close())
	}
	return &way{
		a: a, endpoint: ep,
		resolve: func(_ context.Context, peer string) (node.Resolved, error) { return known.Resolve(peer) },
		close:   func() { known.Close(); _, _ = ep.Close(), v.Close() }, // the process ends
	}, nil
}

// dialTimeout is how long reaching a peer may take without --timeout.
const dialTimeout = 20 * time.Second

// dial connects to a service of a peer.
func (w *way) dial(ctx context.Context, peer string, over alknet.Transport, alpn string) (*alknet.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	r, err := w.resolve(ctx, peer)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	conn, err := node.DialAny(ctx, w.endpoint, r, over, alpn)
	if err != nil {
		return nil, unreachable(peer, err)
	}
	w.a.detail("reached %s at %s over %s in %v", plain(peer), conn.RemoteAddr(), conn.Transport(), time.Since(begin).Round(time.Millisecond))
	return conn, nil
}

// unreachable says which peer it was.
func unreachable(peer string, err error) error {
	e := *fault.Of(err)
	e.Peer, e.Err = peer, err
	switch e.Exit {
	case fault.NotServed:
		e.Message = plain(peer) + " does not serve that: " + e.Message
	case fault.Interrupted:
	default:
		if e.Exit == fault.Failed || e.Exit == fault.Deadline {
			e.Exit, e.Code = fault.Unreachable, "unreachable"
		}
		e.Message = "cannot reach " + plain(peer) + ": " + e.Message
		if e.Hint == "" && e.Exit == fault.Unreachable {
			e.Hint = "alknet -v call services/list@" + plain(peer)
		}
	}
	return &e
}

// transports are the ones of an ALPN that is dialled by name (docs/protocol.md).
func transports(alpn string) alknet.Transport {
	switch alpn {
	case "alknet/call", "alknet/pair":
		return alknet.QUIC | alknet.Raw
	case "h3", "doq", "/iroh-bytes/4":
		return alknet.QUIC
	case "h2", "http/1.1", "dot", "acme-tls/1":
		return alknet.Raw
	}
	return alknet.QUIC | alknet.Mux
}
