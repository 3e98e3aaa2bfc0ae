package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

const (
	firstBackoff      = time.Second
	defaultMaxBackoff = 30 * time.Second
	linkWait          = 10 * time.Second // of a connection that came while the link is down
	acceptPause       = 50 * time.Millisecond
	maxLocalFlows     = 1024 // of one local forward
)

// A Keeper keeps a link up and its forwards in place: it connects, registers
// the remote forwards, and after a loss does it again, for ever. The fields are
// not to be changed once Run was called.
type Keeper struct {
	// Connect makes a link.
	Connect func(ctx context.Context) (Link, error)
	// Forwards are kept. Local ones stay bound while the link is down; a
	// connection that comes then waits for it for 10 s.
	Forwards []Forward
	// OnState is told when the link comes up and, with the reason, when it goes
	// down or a connect fails; also (true, err) when the far end refuses a
	// forward, which is tried again every MaxBackoff while the others go on.
	// Calls do not overlap. Nil: nobody is told.
	OnState func(up bool, err error)
	// MaxBackoff is the longest pause between two attempts; it begins at 1 s and
	// doubles, with a jitter of a fifth. 0: 30 s.
	MaxBackoff time.Duration
	// Logger gets the state too. Nil: silent.
	Logger *slog.Logger

	mu   sync.Mutex
	cur  Link          // guarded by mu; nil while down
	upc  chan struct{} // guarded by mu; closed when cur is set, nil: nobody waits
	told sync.Mutex    // held while OnState runs
}

// Run keeps the forwards until ctx ends, and then returns its error; or, at
// once, the error of a local forward that can not be bound. Everything it
// opened is closed when it returns.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, f := range k.Forwards {
		if f.Remote {
			continue
		}
		nl, err := new(net.ListenConfig).Listen(ctx, f.Network, f.Listen)
		if err != nil {
			return fmt.Errorf("forward: listen: %w", err)
		}
		s := server{ctx: ctx, wg: &wg, report: k.report}
		safe.Go(&wg, k.report, func() { s.serve(nl, k.dialFar(f)) })
	}
	backoff := time.Duration(0)
	remote := newRegistrations(k.Forwards)
	for {
		began := time.Now()
		k.once(ctx, remote)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > k.maxBackoff() {
			backoff = 0 // it was up for a while
		}
		backoff = min(max(2*backoff, firstBackoff), k.maxBackoff())
		if err := pause(ctx, jitter(backoff)); err != nil {
			return err
		}
	}
}

func (k *Keeper) maxBackoff() time.Duration {
	if k.MaxBackoff <= 0 {
		return defaultMaxBackoff
	}
	return k.MaxBackoff
}

// Link is the link of the moment, for whoever dials through it. It waits while
// there is none, until ctx ends. The Keeper closes it.
func (k *Keeper) Link(ctx context.Context) (Link, error) {
	k.mu.Lock()
	cur := k.cur
	if cur == nil && k.upc == nil {
		k.upc = make(chan struct{})
	}
	upc := k.upc
	k.mu.Unlock()
	if cur != nil {
		return cur, nil
	}
	select {
	case <-upc:
		return k.Link(ctx)
	case <-ctx.Done():
		return nil, &Error{Code: CodeNetUnreachable, Reason: "the link is down", Err: ctx.Err()}
	}
}

func (k *Keeper) set(l Link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cur = l
	if l != nil && k.upc != nil {
		close(k.upc)
		k.upc = nil
	}
}

// once keeps one link until it is down.
func (k *Keeper) once(ctx context.Context, remote []*registration) {
	link, err := k.Connect(ctx)
	if err != nil {
		k.state(ctx, false, err)
		return
	}
	linkCtx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, r := range remote {
		s := server{ctx: linkCtx, wg: &wg, report: k.report}
		safe.Go(&wg, k.report, func() { k.keepRemote(link, r, s) })
	}
	k.set(link)
	k.state(ctx, true, nil)
	select {
	case <-link.Done():
	case <-ctx.Done():
	}
	k.set(nil)
	stop()
	_ = link.Close() // it is down
	wg.Wait()
	k.state(ctx, false, errors.New("forward: the link is down"))
}

// state tells of a change, unless ctx has ended, which whoever ended it knows.
func (k *Keeper) state(ctx context.Context, up bool, err error) {
	if ctx.Err() != nil {
		return
	}
	k.tell(up, err)
}

func (k *Keeper) tell(up bool, err error) {
	if k.Logger != nil {
		attrs := []any{"up", up}
		if err != nil {
			attrs = append(attrs, "err", err)
		}
		k.Logger.Info("forward link", attrs...)
	}
	if k.OnState != nil {
		k.told.Lock()
		defer k.told.Unlock()
		k.OnState(up, err)
	}
}

func (k *Keeper) report(err error) { k.tell(true, err) }

// dialFar connects from the far end of the link of the moment.
func (k *Keeper) dialFar(f Forward) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		wait, cancel := context.WithTimeout(ctx, linkWait)
		defer cancel()
		l, err := k.Link(wait)
		if err != nil {
			return nil, err
		}
		return l.DialContext(ctx, f.TargetNetwork, f.Target)
	}
}

// A registration is a remote forward and the address that it got first.
type registration struct {
	Forward
	bound string // guarded by its only user; "" until the first success
}

func newRegistrations(forwards []Forward) []*registration {
	var list []*registration
	for _, f := range forwards {
		if f.Remote {
			list = append(list, &registration{Forward: f})
		}
	}
	return list
}

// keepRemote registers a remote forward and serves it while the link lives.
func (k *Keeper) keepRemote(link Link, r *registration, s server) {
	for {
		address := r.Listen
		if r.bound != "" {
			address = r.bound // a port that was 0 keeps its number
		}
		nl, err := link.Listen(s.ctx, r.Network, address)
		if err == nil {
			r.bound = keepPort(r.Listen, nl.Addr())
			s.serve(nl, func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, r.TargetNetwork, r.Target)
			})
		} else if s.ctx.Err() == nil {
			k.report(fmt.Errorf("forward: remote listen: %w", err))
		}
		if pause(s.ctx, k.maxBackoff()) != nil {
			return
		}
	}
}

// keepPort is what to ask for the next time.
func keepPort(asked string, got net.Addr) string {
	host, port, err := net.SplitHostPort(asked)
	if err != nil || port != "0" {
		return asked
	}
	_, port, err = net.SplitHostPort(got.String())
	if err != nil {
		return asked
	}
	return net.JoinHostPort(host, port)
}

// A server accepts connections and splices each to one that it dials.
type server struct {
	ctx    context.Context
	wg     *sync.WaitGroup
	report func(error)
}

// serve returns when nl or ctx has ended; wg counts what still runs.
func (s server) serve(nl net.Listener, dial func(context.Context) (net.Conn, error)) {
	stop := context.AfterFunc(s.ctx, func() { _ = nl.Close() })
	defer stop()
	defer func() { _ = nl.Close() }() // twice is harmless
	slots := make(chan struct{}, maxLocalFlows)
	for {
		nc, err := nl.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			if pause(s.ctx, acceptPause) != nil { // such as no file descriptor
				return
			}
			if isFinal(err) {
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = nc.Close() // over the limit
			continue
		}
		safe.Go(s.wg, func(err error) { s.report(err); _ = nc.Close() }, func() {
			defer func() { <-slots }()
			s.flow(nc, dial)
		})
	}
}

// isFinal reports whether a listener that failed so is of no more use.
func isFinal(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return !ok || !ne.Timeout() && !isTemporary(err)
}

func isTemporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

func (s server) flow(nc net.Conn, dial func(context.Context) (net.Conn, error)) {
	target, err := dial(s.ctx)
	if err != nil {
		abort(nc, err)
		return
	}
	_, _, _ = Splice(s.ctx, nc, target) // both ends see how it ended
}

// pause waits for d, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jitter is d give or take a fifth, so that many clients of a node that comes
// back do not come all at once.
func jitter(d time.Duration) time.Duration {
	span := int(2 * d / 5 / time.Millisecond)
	n, err := random(span)
	if err != nil {
		return d
	}
	return d - d/5 + time.Duration(n)*time.Millisecond
}
