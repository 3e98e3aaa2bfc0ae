package call

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/budget"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
)

// A link is one connection, with the calls that both of its ends make over it.
type link struct {
	h       *Handler
	s       *state
	conn    *alknet.Conn
	client  *Client
	runner  *sync.WaitGroup // of a link that we dialled: run and greet
	dialled bool
	single  bool // Raw: one stream, both directions
	ctx     context.Context
	stop    context.CancelCauseFunc
	begun   time.Time
	mem     *budget.Budget
	prefix  string         // of the ids of our calls
	wg      sync.WaitGroup // lanes, workers, writers
	donec   chan struct{}  // closed when everything has ended
	sealedc chan struct{}  // closed when nothing is appended to a writer any more

	peer   atomic.Pointer[hello] // what the other end announced; nil: nothing yet
	helloc chan struct{}         // closed when that is known, or that it is a base peer
	known  sync.Once             // closes helloc
	rttNS  atomic.Int64          // as the hello measured it
	who    atomic.Pointer[caller]
	self   atomic.Pointer[string] // our key, as text; nil: nobody asked
	inputs atomic.Int64           // streams of items that run here

	drainc   chan struct{} // closed when the peer drains
	drainSet sync.Once

	aborts abortMeter

	mu          sync.Mutex
	err         error               // guarded by mu; why the link ended
	out         map[uint64]*outCall // guarded by mu; calls we make
	in          map[string]*inCall  // guarded by mu; calls the peer makes
	foreign     map[string]*outCall // guarded by mu; of out, those with an id of another connection
	lanes       map[*lane]struct{}  // guarded by mu
	shared      [maxSharedStreams]*lane
	one         *lane         // guarded by mu; the only lane of a single link
	onec        chan struct{} // closed when one is set
	next        uint64        // guarded by mu; the last id used
	due         deadlines
	timer       *time.Timer
	armed       time.Duration // guarded by mu; when timer fires; 0: not armed
	idle        []chan *inCall
	trimming    bool
	freeOut     []*outCall   // guarded by mu
	draining    bool         // guarded by mu; we take no new calls
	runningHere atomic.Int64 // written under mu; handlers that run for the peer
	handed      string       // guarded by mu; the delegation that the peer has handed us
}

// The bounds of what a link keeps for the next call.
const (
	maxIdleWorkers = 64
	keptWorkers    = 4
	trimAfter      = 5 * time.Second
	maxFreeCalls   = 64
)

func newLink(ctx context.Context, h *Handler, conn *alknet.Conn, dialled bool) *link {
	s := h.state()
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails, or ends the process
	l := &link{
		h: h, s: s, conn: conn, dialled: dialled, single: conn.Transport() == alknet.Raw, begun: time.Now(),
		prefix: base64.RawURLEncoding.EncodeToString(random[:]) + ".",
		donec:  make(chan struct{}), sealedc: make(chan struct{}), helloc: make(chan struct{}), drainc: make(chan struct{}), onec: make(chan struct{}),
		out: make(map[uint64]*outCall), in: make(map[string]*inCall), lanes: make(map[*lane]struct{}),
	}
	l.mem = budget.New("max_conn_buffered_bytes", s.lim.MaxConnBufferedBytes, s.mem)
	l.client = &Client{l: l}
	l.ctx, l.stop = context.WithCancelCause(ctx)
	return l
}

// since is the time on the link's clock.
func (l *link) since() time.Duration { return time.Since(l.begun) }

// appendID appends the id of our call n.
func (l *link) appendID(b []byte, n uint64) []byte {
	return strconv.AppendUint(append(b, l.prefix...), n, 10)
}

// oursLocked finds our call of an id.
func (l *link) oursLocked(id []byte) *outCall {
	rest, ok := cut(id, l.prefix)
	if !ok {
		return l.foreign[string(id)]
	}
	n, rest, ok := cutUint(rest)
	if !ok || len(rest) > 0 {
		return nil
	}
	return l.out[n]
}

// run serves the connection until it ends, and returns why.
func (l *link) run() error {
	defer l.stop(net.ErrClosed)
	if !l.s.enlist(l) {
		l.fail(&alknet.Error{Code: alknet.CodeShutdown, Reason: "draining"})
		return l.ended()
	}
	defer l.s.forget(l)
	unwatch := context.AfterFunc(l.ctx, func() { l.fail(context.Cause(l.ctx)) })
	defer unwatch()
	safe.Go(&l.wg, l.crashed, func() {
		select {
		case <-l.conn.Done():
			l.fail(nil)
		case <-l.donec:
		}
	})
	l.fail(l.serve())
	return l.ended()
}

// ended waits until nothing of a link that has failed runs, and returns why. Who
// made it fail may still be at it, and a caller who appends meanwhile may start a
// flusher.
func (l *link) ended() error {
	<-l.sealedc
	l.wg.Wait()
	return l.reason()
}

// serve accepts lanes until the connection ends or, draining, is idle.
func (l *link) serve() error {
	if l.single {
		return l.serveOne()
	}
	for {
		st, err := l.conn.AcceptStream(l.ctx)
		if err != nil {
			return err
		}
		ln := l.newLane(st, false)
		if ln == nil {
			st.Reset(alknet.CodeShutdown)
			continue
		}
		safe.Go(&l.wg, l.crashed, ln.run)
	}
}

// serveOne serves the one stream of a Raw connection.
func (l *link) serveOne() error {
	ln, err := l.theOne()
	if err != nil {
		return err
	}
	ln.run()
	return nil
}

// theOne opens or accepts the only lane, once.
func (l *link) theOne() (*lane, error) {
	open := l.conn.AcceptStream
	if l.dialled {
		open = l.conn.OpenStream
	}
	st, err := open(l.ctx)
	if err != nil {
		return nil, err
	}
	ln := l.newLane(st, l.dialled)
	if ln == nil {
		return nil, net.ErrClosed
	}
	l.mu.Lock()
	l.one = ln
	l.mu.Unlock()
	close(l.onec)
	return ln, nil
}

// waitOne waits for the only lane of a single link.
func (l *link) waitOne(ctx context.Context) (*lane, error) {
	select {
	case <-l.onec: // nearly always, and cheaper to ask for alone
		return l.one, nil
	default:
	}
	select {
	case <-l.onec:
		return l.one, nil
	case <-l.donec:
		return nil, errorf(codes.Unavailable, "the connection has ended").ran(runNo)
	case <-ctx.Done():
		return nil, asError(ctx.Err()).ran(runNo)
	}
}

// connEnded reports whether the connection itself is over, and not one stream.
func (l *link) connEnded() bool {
	select {
	case <-l.conn.Done():
		return true
	case <-l.donec:
		return true
	default:
		return l.single
	}
}

// spawn runs f in a goroutine of the link; false: the link has ended.
func (l *link) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	safe.Go(&l.wg, l.crashed, f)
	return true
}

// crashed is what a panic outside of a handler does: it ends the connection.
func (l *link) crashed(err error) {
	l.log(slog.LevelError, "call: connection failed", err)
	l.fail(&alknet.Error{Code: alknet.CodeInternal, Err: err})
}

// fail ends the link: every call of both directions ends now.
func (l *link) fail(err error) {
	err = l.cause(err)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	if l.err = err; err == nil {
		l.err = net.ErrClosed
	}
	out, in := l.out, l.in
	l.out, l.in, l.foreign = nil, nil, nil
	idle := l.idle
	l.idle = nil
	lanes := l.lanes
	l.lanes = nil
	if l.timer != nil {
		l.timer.Stop()
	}
	for _, e := range l.due { // a retained call is dropped from another link
		e.index = 0
	}
	l.due = nil
	l.mu.Unlock()
	close(l.donec)
	l.known.Do(func() { close(l.helloc) })
	for ln := range lanes {
		ln.w.fail(net.ErrClosed)
	}
	close(l.sealedc)
	lost := l.lost()
	for _, c := range out {
		c.fail(lost)
	}
	goodbye := l.saidGoodbye()
	for _, c := range in {
		c.disconnected(goodbye)
	}
	for _, w := range idle {
		close(w)
	}
	l.stop(l.reason())
	for ln := range lanes { // who reads hears of it
		_ = ln.st.SetDeadline(time.Unix(1, 0))
	}
}

// cause is err, or how the connection says that it ended where err knows less:
// who notices the end first may have seen no more than a closed stream.
func (l *link) cause(err error) error {
	if _, known := errors.AsType[*alknet.Error](err); known {
		return err
	}
	if ended := l.connError(); ended != nil {
		return ended
	}
	return err
}

// connError is how the connection ended; nil while it has not.
func (l *link) connError() error {
	select {
	case <-l.conn.Done():
	default:
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.conn.OpenStream(ctx) // it fails, and says how
	return err
}

// saidGoodbye reports whether the peer closed the connection of its own will: it
// does not come back for what runs. Why the link ended says so where the transport
// has not yet closed Done.
func (l *link) saidGoodbye() bool {
	for _, err := range [...]error{l.reason(), l.connError()} {
		if e, ok := errors.AsType[*alknet.Error](err); ok && e.Remote && e.Code == alknet.CodeOK {
			return true
		}
	}
	return false
}

// lost is what our callers hear when the connection ends.
func (l *link) lost() *Error {
	return errorf(codes.Unavailable, "the connection was lost").ran(runUnknown).because(l.reason())
}

// reason is why the link ended; nil while it lives.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// log says what happened on this connection.
func (l *link) log(level slog.Level, msg string, err error) {
	id := l.conn.SharedIdentity()
	attrs := []slog.Attr{slog.Any("id", printable.Text(id.ID)), slog.Any("peer", id.Peer)}
	if err != nil {
		attrs = append(attrs, slog.Any("err", printable.Text(err.Error())))
	}
	if pe, ok := errors.AsType[*safe.PanicError](err); ok {
		attrs = append(attrs, slog.String("panic", printable.Quote(fmtPanic(pe.Value))), slog.String("stack", string(pe.Stack)))
	}
	l.h.logger().LogAttrs(context.Background(), level, msg, attrs...)
}

// features of the peer; the zero hello for one that announced nothing.
func (l *link) features() *hello {
	if h := l.peer.Load(); h != nil {
		return h
	}
	return &basePeer
}

// basePeer announces nothing.
var basePeer hello

// settled waits until it is known what the peer announces, or that it
// announces nothing. It does not wait longer than helloTimeout after the
// connection began.
func (l *link) settled(ctx context.Context) *hello {
	select {
	case <-l.helloc:
	default:
		wait := time.NewTimer(max(helloTimeout-l.since(), 0))
		defer wait.Stop()
		select {
		case <-l.helloc:
		case <-wait.C:
		case <-ctx.Done():
		case <-l.donec:
		}
	}
	return l.features()
}

// announce notes what the peer announced.
func (l *link) announce(h *hello) {
	l.peer.Store(h)
	l.known.Do(func() { close(l.helloc) })
}

// rtt is the round-trip time, as the transport or the hello measured it.
func (l *link) rtt() time.Duration {
	if d := l.conn.Stats().RTT; d > 0 {
		return d
	}
	return max(time.Duration(l.rttNS.Load()), time.Millisecond)
}

// dispatch has a worker run c.
func (l *link) dispatch(c *inCall) {
	if c.meta.resumable || c.meta.resumes || len(c.meta.rare().key) > 0 { // it may outlive the connection
		safe.Go(&l.s.wg, l.workerFailed, c.run)
		return
	}
	l.mu.Lock()
	if n := len(l.idle); n > 0 {
		w := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		w <- c
		return
	}
	l.mu.Unlock()
	safe.Go(&l.wg, l.workerFailed, func() { l.worker(c) })
}

// workerFailed is what the end of a worker means: a handler may have ended its
// goroutine, which has been answered. A panic is one of ours.
func (l *link) workerFailed(err error) {
	if _, ok := errors.AsType[*safe.PanicError](err); ok {
		l.crashed(err)
	}
}

// worker runs c and then what it is given, until the link ends or there are
// enough of its kind.
func (l *link) worker(c *inCall) {
	var more chan *inCall
	for c != nil {
		c.run()
		l.mu.Lock()
		if l.err != nil || len(l.idle) >= maxIdleWorkers {
			l.mu.Unlock()
			return
		}
		if more == nil {
			more = make(chan *inCall, 1)
		}
		l.idle = append(l.idle, more)
		if len(l.idle) > keptWorkers && !l.trimming {
			l.trimming = true
			time.AfterFunc(trimAfter, l.trim)
		}
		l.mu.Unlock()
		c = <-more
	}
}

// trim ends the workers that were not needed for a while.
func (l *link) trim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trimming = false
	if n := (len(l.idle) + keptWorkers) / 2; len(l.idle) > keptWorkers {
		for _, w := range l.idle[:len(l.idle)-n] { // the longest idle
			close(w)
		}
		l.idle = append(l.idle[:0], l.idle[len(l.idle)-n:]...)
	}
	if len(l.idle) > keptWorkers && l.err == nil {
		l.trimming = true
		time.AfterFunc(trimAfter, l.trim)
	}
}

// An abortMeter counts a peer's aborts and resets within a second.
type abortMeter struct {
	mu    sync.Mutex
	begin time.Time
	count int
}

// add counts one; false: more than max in this second.
func (m *abortMeter) add(max int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.begin) >= time.Second {
		m.begin, m.count = now, 0
	}
	m.count++
	return m.count <= max
}

// aborted counts an abort or a reset by the peer and ends the link of one that
// makes too many.
func (l *link) aborted() bool {
	if l.aborts.add(l.s.lim.MaxAborts) {
		return true
	}
	l.log(slog.LevelWarn, "call: too many aborts", nil)
	err := &alknet.Error{Code: alknet.CodeLimit, Reason: "max_aborts"}
	_ = l.conn.CloseWithError(err.Code, err.Reason) // it is over either way
	l.fail(err)
	return false
}
