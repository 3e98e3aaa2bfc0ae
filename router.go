package alknet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// A Router owns services: it accepts the connections of one or more endpoints,
// decides who the peers are, and hands each connection to the handler of its
// ALPN. The zero value is ready; the exported fields are not to be changed once
// it serves. All methods may be called concurrently.
type Router struct {
	// Authenticate decides who a peer is, once per connection, resumed ones
	// included, and again at Reauthenticate. Nil: a peer is its key, with the
	// key's text as ID and no scopes. The Router overwrites Identity.Peer with
	// the key that was proved. An *Error chooses what the peer sees, such as
	// CodeRevoked; any other error is CodeUnauthenticated. It has until
	// Limits.HandshakeTimeout, when ctx ends.
	Authenticate func(ctx context.Context, state tls.ConnectionState, alpn string) (Identity, error)
	// Middleware wraps the handlers of all services; the first in the list runs first.
	Middleware []Middleware
	// Limits bound what peers can make us hold.
	Limits Limits
	// Logger gets refusals, failures and panics. Nil: silent.
	Logger *slog.Logger

	once     sync.Once
	account  sync.Once
	ledger   atomic.Pointer[ledger] // nil until the first connection may come
	tickets  ticketKeys
	services atomic.Pointer[[]*service] // copy-on-write, in the order of registration
	epoch    atomic.Uint64              // counts calls of Reauthenticate
	refused  refusals
	panics   atomic.Int64 // outside of services

	ctx  context.Context // of all handlers; ends when the Router is closed
	stop context.CancelFunc
	wg   sync.WaitGroup // accept loops, handshakes, connections

	mu        sync.Mutex
	state     routerState              // guarded by mu
	endpoints map[*Endpoint]*listening // guarded by mu
	live      map[*Conn]*liveConn      // guarded by mu; from admission to the handler's return
	waiters   []*waiter                // guarded by mu; drains under way
	past      Stats                    // guarded by mu; of services that were removed
}

// A routerState is where a Router is in its life.
type routerState int

const (
	serving  routerState = iota
	draining             // refuses new connections, waits for handlers
	closed               // everything was cut
)

// A service is a Service that is registered.
type service struct {
	Service
	handler ProtocolHandler // with the service's middleware around it
	gone    atomic.Bool     // removed: what is under way still ends

	handshakes, panics atomic.Int64
	bytesIn, bytesOut  atomic.Int64 // of connections that have ended
	handlers           atomic.Int64
	refusals           refusals
}

// A liveConn is what the Router knows of a connection that it serves.
type liveConn struct {
	svc     *service
	handler ProtocolHandler // with all middleware around it
	from    *Endpoint       // that accepted it; nil: none
	ours    bool            // from a handshake of ours: it is judged again
	ctx     context.Context // the handler's
	cancel  context.CancelCauseFunc
}

func (r *Router) init() {
	r.once.Do(func() {
		r.ctx, r.stop = context.WithCancel(context.Background())
		r.endpoints = make(map[*Endpoint]*listening)
		r.live = make(map[*Conn]*liveConn)
		r.services.Store(new([]*service))
	})
}

// accounts is the ledger. The Limits are read when it is first asked for.
func (r *Router) accounts() *ledger {
	r.account.Do(func() { r.ledger.Store(newLedger(r.Limits)) })
	return r.ledger.Load()
}

func (r *Router) log() *slog.Logger {
	if r.Logger == nil {
		return discard
	}
	return r.Logger
}

// Handle registers h for peers on QUIC and Mux. It panics if that is not
// possible, as http.Handle does.
func (r *Router) Handle(alpn string, h ProtocolHandler) {
	if err := r.Register(Service{ALPN: alpn, Handler: h}); err != nil {
		panic(err)
	}
}

// Register adds a service, at any time: the next handshake offers it. The order
// of registration is the order of preference where a client offers several.
// The error is [ErrALPNInUse], [ErrRouterClosed], or says what s lacks.
func (r *Router) Register(s Service) error {
	r.init()
	if err := s.check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != serving {
		return ErrRouterClosed
	}
	old := *r.services.Load()
	if slices.ContainsFunc(old, func(o *service) bool { return o.ALPN == s.ALPN }) {
		return fmt.Errorf("register %q: %w", s.ALPN, ErrALPNInUse)
	}
	s.Middleware = slices.Clone(s.Middleware)
	svc := &service{Service: s, handler: chain(s.Handler, s.Middleware)}
	list := append(slices.Clone(old), svc)
	r.services.Store(&list)
	return nil
}

// Services are the registered ones, in the order of registration.
func (r *Router) Services() []Service {
	r.init()
	var list []Service
	for _, s := range *r.services.Load() {
		list = append(list, s.Service)
	}
	return list
}

// find returns the service of alpn on a transport, or nil.
func (r *Router) find(alpn string, over Transport) *service {
	for _, s := range *r.services.Load() {
		if s.ALPN == alpn && s.over()&over != 0 {
			return s
		}
	}
	return nil
}

// pick returns the first service that a client offers on a transport. An empty
// offer means HTTP/1.1 on TCP, as it does for the clients that make it.
func (r *Router) pick(offered []string, over Transport) *service {
	if len(offered) == 0 && over&Raw != 0 {
		return r.find("http/1.1", Raw)
	}
	for _, s := range *r.services.Load() {
		if s.over()&over != 0 && slices.Contains(offered, s.ALPN) {
			return s
		}
	}
	return nil
}

// Serve accepts the connections of e until the Router is shut down, which
// returns [ErrRouterClosed], or e is closed, which returns an error that wraps
// net.ErrClosed. Several endpoints may share one Router.
func (r *Router) Serve(e *Endpoint) error {
	r.init()
	if e.udp == nil && e.tcp == nil {
		return errors.New("alknet: serve: the endpoint has no sockets")
	}
	if err := e.claim(r); err != nil {
		return err
	}
	defer e.release()
	l := &listening{r: r, e: e}
	l.ctx, l.stop = context.WithCancel(r.ctx)
	defer l.stop()
	r.mu.Lock()
	if r.state != serving {
		r.mu.Unlock()
		return ErrRouterClosed
	}
	r.endpoints[e] = l
	r.mu.Unlock()
	err := l.run()
	r.mu.Lock()
	delete(r.endpoints, e)
	over := r.state != serving
	r.mu.Unlock()
	switch {
	case over:
		return ErrRouterClosed
	case err == nil:
		err = net.ErrClosed
	}
	return fmt.Errorf("alknet: serve: %w", err)
}

// closeEndpoint ends the connections that were accepted on e.
func (r *Router) closeEndpoint(e *Endpoint) {
	var conns []*Conn
	r.mu.Lock()
	l := r.endpoints[e]
	for c, lc := range r.live {
		if lc.from == e {
			conns = append(conns, c)
			lc.cancel(net.ErrClosed)
		}
	}
	r.mu.Unlock()
	if l != nil {
		l.stop()
		closeAll(conns, CodeShutdown)
		l.loops.Wait()
	}
}
