package handlertest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
)

// A Node serves services on loopback, for a test that brings its own peers. It
// can be killed and started again, with the same key at the same address.
type Node struct {
	Key      ed25519.PrivateKey // of the node
	Logger   *slog.Logger       // to be set before Serve; nil: silent
	Router   *alknet.Router     // of the node that runs
	Endpoint *alknet.Endpoint   // of the node that runs

	t        testing.TB
	services []alknet.Service
	addr     string
	wg       sync.WaitGroup

	mu    sync.Mutex
	peers map[alknet.PeerID]alknet.Identity // guarded by mu
}

// NewNode makes a node with a new key.
func NewNode(t testing.TB) *Node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Node{Key: key, t: t, addr: "127.0.0.1:0", peers: make(map[alknet.PeerID]alknet.Identity)}
}

// Serve starts the node, which the end of the test shuts down.
func (n *Node) Serve(services ...alknet.Service) {
	n.t.Helper()
	n.services = services
	n.Start()
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = n.Router.Shutdown(ctx) // what the test left open is cut
		n.Kill()
	})
}

// Start starts the node again after Kill.
func (n *Node) Start() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	var err error
	for n.Endpoint = nil; n.Endpoint == nil; { // others may just use the port
		if n.Endpoint, err = alknet.Listen(ctx, n.addr, &alknet.Config{Key: n.Key}); err != nil && ctx.Err() != nil {
			n.t.Fatal(err)
		}
	}
	n.addr = n.Endpoint.Addr().HostPort
	n.Router = &alknet.Router{Authenticate: n.authenticate, Logger: n.Logger}
	for _, s := range n.services {
		if err := n.Router.Register(s); err != nil {
			n.t.Fatal(err)
		}
	}
	router, ep := n.Router, n.Endpoint
	safe.Go(&n.wg, func(err error) { n.t.Error(err) }, func() { _ = router.Serve(ep) }) // until Kill
}

// Kill ends the node at once. Twice is harmless.
func (n *Node) Kill() {
	if err := errors.Join(n.Router.Close(), n.Endpoint.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
		n.t.Error(err)
	}
	n.wg.Wait()
}

// authenticate knows the peers that were admitted.
func (n *Node) authenticate(_ context.Context, state tls.ConnectionState, _ string) (alknet.Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return alknet.Identity{}, nil
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return alknet.Identity{}, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[alknet.PeerID(key)], nil
}

// Admit makes a key somebody, from the next connection or Reauthenticate of the
// Router on; the zero Identity, nobody.
func (n *Node) Admit(key alknet.PeerID, id alknet.Identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers[key] = id
}

// Peer is the endpoint of a new peer that is known as id. The end of the test
// closes it.
func (n *Node) Peer(id alknet.Identity) *alknet.Endpoint {
	n.t.Helper()
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = ep.Close() }) // who dials over it has closed before
	n.Admit(ep.ID(), id)
	return ep
}

// Addr is where peers dial the node.
func (n *Node) Addr(over alknet.Transport) alknet.Addr {
	return alknet.Addr{HostPort: n.addr, Peer: n.Endpoint.ID(), Over: over}
}
