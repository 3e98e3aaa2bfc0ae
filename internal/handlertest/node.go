package handlertest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
)

// A node is a Router that serves the service of a suite, and its peer.
type node struct {
	*suite
	router   *alknet.Router
	endpoint *alknet.Endpoint // of the Router; nil over Pipe
	client   *alknet.Endpoint // of the peer; nil over Pipe

	peer   atomic.Pointer[alknet.Identity] // whom Authenticate takes the peer for
	bomb   atomic.Bool                     // the next handler panics
	visits chan *visit                     // calls of the handler that began
	before int64                           // panics before this node
	wg     sync.WaitGroup
}

// A visit is one call of the service's handler.
type visit struct {
	conn   *alknet.Conn
	cancel context.CancelFunc // ends the handler's context, not the connection
	ended  chan struct{}
}

// maxVisits is more than any check makes: a handler never waits to be seen.
const maxVisits = 1024

// start serves the service on what the suite runs over.
func (s *suite) start() (*node, error) {
	svc := s.svc
	if s.shared {
		svc.Handler = alknet.HandlerFunc(svc.Handler.ServeConn) // its Shutdown is for the end
	}
	n := &node{suite: s, visits: make(chan *visit, maxVisits), before: safe.Panics()}
	n.peer.Store(new(member(s.svc.Access)))
	n.router = &alknet.Router{Authenticate: n.authenticate, Middleware: []alknet.Middleware{n.watch}}
	if err := n.router.Register(svc); err != nil {
		return nil, err
	}
	if s.over == 0 {
		return n, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	var err error
	if n.endpoint, err = alknet.Listen(ctx, "127.0.0.1:0", nil); err != nil {
		return nil, err
	}
	if n.client, err = alknet.NewEndpoint(nil, nil, nil); err != nil {
		return nil, errors.Join(err, n.endpoint.Close())
	}
	n.goes(func() { _ = n.router.Serve(n.endpoint) }) // until stop
	return n, nil
}

// goes runs f until stop. A panic in it is counted.
func (n *node) goes(f func()) { safe.Go(&n.wg, func(error) {}, f) }

// authenticate takes whoever has a key for the node's peer.
func (n *node) authenticate(_ context.Context, state tls.ConnectionState, _ string) (alknet.Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return alknet.Identity{}, nil
	}
	return *n.peer.Load(), nil
}

// member is an identity that passes ac.
func member(ac alknet.AccessControl) alknet.Identity {
	id := alknet.Identity{ID: "handlertest", Scopes: append([]string{}, ac.RequiredScopes...)}
	if len(ac.RequiredScopesAny) > 0 {
		id.Scopes = append(id.Scopes, ac.RequiredScopesAny[0])
	}
	id.Resources = map[string][]string{ac.ResourceType: {ac.ResourceAction}}
	return id
}

// watch is a middleware that reports when the handler begins and ends.
func (n *node) watch(next alknet.ProtocolHandler) alknet.ProtocolHandler {
	return alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
		if n.bomb.Swap(false) {
			panic("handlertest: a panic that a check asked for")
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		v := &visit{conn: conn, cancel: cancel, ended: make(chan struct{})}
		defer close(v.ended)
		n.visits <- v
		return next.ServeConn(ctx, conn)
	})
}

// dial connects to the service as from, over Pipe as the node's peer.
func (n *node) dial(from *alknet.Endpoint) (*alknet.Conn, error) {
	if n.over == 0 {
		c, accepted := alknet.Pipe(n.svc.ALPN, *n.peer.Load(), alknet.Identity{ID: "server"})
		n.goes(func() { _ = n.router.ServeConn(context.Background(), accepted) }) // the check sees how it ended
		return c, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	to := n.endpoint.Addr()
	to.Over = n.over
	return from.Dial(ctx, to, n.svc.ALPN)
}

// connect connects to the service and waits until its handler runs.
func (n *node) connect() (*alknet.Conn, *visit, error) {
	c, err := n.dial(n.client)
	if err != nil {
		return nil, nil, err
	}
	v, err := n.visited()
	if err != nil {
		_ = c.CloseWithError(alknet.CodeOK, "") // the check has failed
		return nil, nil, err
	}
	return c, v, nil
}

// visited waits for the next call of the handler.
func (n *node) visited() (*visit, error) {
	t := time.NewTimer(n.wait)
	defer t.Stop()
	select {
	case v := <-n.visits:
		return v, nil
	case <-t.C:
		return nil, errNotCalled
	}
}

// panics is how many there were since the node started, in handlers and in
// goroutines that the module started.
func (n *node) panics() int64 { return n.router.Stats().Panics + safe.Panics() - n.before }

// calm says whether there was no panic.
func (n *node) calm() error {
	if got := n.panics(); got != 0 {
		return fmt.Errorf("%w: %d times", errPanicked, got)
	}
	return nil
}

// healthy says whether the service still serves, after a peer that misbehaved.
func (n *node) healthy() error {
	if err := n.calm(); err != nil {
		return err
	}
	c, v, err := n.connect()
	if err != nil {
		return fmt.Errorf("the next peer: %w", err)
	}
	return n.leave(c, v)
}

// leave closes c and waits for its handler.
func (n *node) leave(c *alknet.Conn, v *visit) error {
	if err := c.Close(); err != nil {
		return err
	}
	return n.wants(v.ended, errConnEnded)
}

// stop cuts every connection and frees what the node holds.
func (n *node) stop() error {
	var wg sync.WaitGroup
	var err error
	done := make(chan struct{})
	safe.Go(&wg, func(e error) { err = e }, func() {
		defer close(done)
		err = n.router.Close()
		for _, ep := range []*alknet.Endpoint{n.client, n.endpoint} {
			if ep != nil {
				err = errors.Join(err, ep.Close())
			}
		}
		n.wg.Wait()
	})
	if late := n.wants(done, errRouterStays); late != nil {
		return late
	}
	wg.Wait()
	return err
}
