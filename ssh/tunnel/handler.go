package tunnel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// ALPN is the name of the service.
const ALPN = "alknet/tunnel"

const (
	headerTimeout       = 10 * time.Second // for a header, and for the answer to ours
	defaultMaxListeners = 16
	acceptPause         = 50 * time.Millisecond // after an accept that failed
)

// A Handler serves tunnels. The zero Handler refuses everything. Fields are not
// to be changed once it serves.
type Handler struct {
	// Gate decides and dials. Nil: everything is refused.
	Gate *forward.Gate
	// MaxListeners is how many listeners and published names a connection may
	// have. 0: 16; negative: no limit.
	MaxListeners int
	// Logger gets refusals and flows, never destinations, at level Debug: a peer
	// causes as many as it likes. The Gate's Audit has them all. Nil: silent.
	Logger *slog.Logger

	names names
	mu    sync.Mutex
	held  map[*alknet.Conn]int // guarded by mu; listeners by connection
}

// Service is the service of h for peers that may dial or listen.
func Service(h *Handler) alknet.Service {
	return alknet.Service{
		ALPN: ALPN, Handler: h, Access: alknet.AccessControl{RequiredScopesAny: []string{forward.ScopeDial, forward.ScopeListen}},
	}
}

func (h *Handler) log() *slog.Logger {
	if h.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Logger
}

// ServeConn serves the streams of conn until it ends, or until the flows under
// way have ended once it is draining.
func (h *Handler) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	return alknet.StreamFunc(h.serve).ServeConn(ctx, conn)
}

// Shutdown does nothing: listeners and names end when their connections drain,
// and flows are waited for there.
func (h *Handler) Shutdown(context.Context) error { return nil }

var (
	errNoGate = &forward.Error{Code: forward.CodeDenied, Reason: "no tunnels here"}
	errBad    = &alknet.Error{Code: alknet.CodeProtocol, Reason: "malformed frame"}
)

// serve does what one stream asks for.
func (h *Handler) serve(ctx context.Context, s *alknet.Stream) error {
	_ = s.SetReadDeadline(time.Now().Add(headerTimeout))
	hd, err := readHeader(s)
	switch {
	case errors.Is(err, errFrame), errors.Is(err, os.ErrDeadlineExceeded), err == nil && hd.kind == kindAccepted:
		return errBad
	case err != nil:
		return nil // the peer went away before it asked for something
	}
	_ = s.SetReadDeadline(time.Time{})
	id := s.Conn().Identity()
	begun := time.Now()
	r := &request{h: h, s: s, id: &id, header: hd}
	if h.Gate == nil {
		return r.refuse(errNoGate)
	}
	switch {
	case hd.kind == kindListen:
		err = r.listen(ctx)
	case hd.kind == kindPublish:
		err = r.publish(ctx)
	case networks[hd.network] == "udp":
		err = r.datagrams(ctx)
	case networks[hd.network] == "name":
		err = r.dialName(ctx)
	default:
		err = r.dial(ctx)
	}
	h.log().LogAttrs(ctx, slog.LevelDebug, "tunnel", slog.Any("id", printable.Text(id.ID)), slog.Int("kind", int(hd.kind)),
		slog.String("network", networks[hd.network]), slog.Int64("ms", time.Since(begun).Milliseconds()), slog.String("result", resultText(err)))
	return err
}

// resultText is what the log says of an error: it may hold an address.
func resultText(err error) string {
	if e, ok := errors.AsType[*forward.Error](err); ok {
		return e.Error()
	}
	if err != nil {
		return "cut"
	}
	return "ok"
}

// A request is one stream.
type request struct {
	h      *Handler
	s      *alknet.Stream
	id     *alknet.Identity
	header header
}

func (r *request) answer(a answer) error {
	a.id = r.header.id
	_, err := r.s.Write(a.append(nil))
	return err
}

// refuse tells the peer why not. The stream has then done what it was for.
func (r *request) refuse(err error) error {
	e, ok := errors.AsType[*forward.Error](err)
	if !ok {
		e = &forward.Error{Code: forward.CodeFailed, Err: err}
	}
	r.h.log().LogAttrs(context.Background(), slog.LevelDebug, "tunnel refused", slog.Any("id", printable.Text(r.id.ID)), slog.String("why", e.Error()))
	_ = r.answer(answer{code: e.Code, text: e.Error()}) // its text holds no destination
	return nil
}

// splice carries a flow whose ends Splice closes or resets.
func splice(ctx context.Context, s *alknet.Stream, nc net.Conn) error {
	_, _, _ = forward.Splice(ctx, s, nc) // both ends see how it ended
	return nil
}

// dial connects to a host or a socket.
func (r *request) dial(ctx context.Context) error {
	nc, err := r.h.Gate.DialContext(ctx, r.id, networks[r.header.network], r.header.address)
	if err != nil {
		return r.refuse(err)
	}
	if err := r.answer(answer{}); err != nil {
		_ = nc.Close() // the peer is gone
		return err
	}
	return splice(ctx, r.s, nc)
}

// take counts a listener of the connection.
func (r *request) take() error {
	h, conn := r.h, r.s.Conn()
	limit := h.MaxListeners
	if limit == 0 {
		limit = defaultMaxListeners
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if limit > 0 && h.held[conn] >= limit {
		return &forward.Error{Code: forward.CodeFailed, Reason: "limit MaxListeners " + strconv.Itoa(limit)}
	}
	if h.held == nil {
		h.held = make(map[*alknet.Conn]int)
	}
	h.held[conn]++
	return nil
}

func (r *request) give() {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if r.h.held[r.s.Conn()]--; r.h.held[r.s.Conn()] == 0 {
		delete(r.h.held, r.s.Conn())
	}
}

// hold keeps the stream of a listener until the peer ends it, the connection
// drains, or it is cut. lost says that the connection has ended instead.
func (r *request) hold(ctx context.Context, cut <-chan struct{}) (lost bool) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	safe.Go(&wg, func(error) {}, func() {
		defer close(ended)
		_, err := io.Copy(io.Discard, r.s) // nothing may follow; the end is what matters
		lost = err != nil                  // who takes a listener back ends the stream well
	})
	code := resetClosed
	select {
	case <-ended:
	case <-ctx.Done():
	case <-cut:
		code = resetPolicy
	case <-r.s.Conn().Draining():
	}
	r.s.Reset(code)
	<-ended
	return lost
}

// resetClosed ends the stream of a listener that has ended.
const resetClosed = alknet.CodeOK

// listen binds an address and hands every connection to the peer.
func (r *request) listen(ctx context.Context) error {
	if err := r.take(); err != nil {
		return r.refuse(err)
	}
	give := sync.OnceFunc(r.give) // before its flows have ended
	defer give()
	l, err := r.h.Gate.Listen(ctx, r.id, networks[r.header.network], r.header.address)
	if err != nil {
		return r.refuse(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer func() { _ = l.Close() }() // twice is harmless
	if err := r.answer(answer{text: l.Addr().String()}); err != nil {
		return err
	}
	over := make(chan struct{})
	safe.Go(&wg, func(error) { _ = l.Close() }, func() {
		defer close(over)
		r.acceptLoop(ctx, &wg, l)
	})
	r.hold(ctx, over)
	give()
	return nil
}

// acceptLoop opens a stream for each connection until l ends.
func (r *request) acceptLoop(ctx context.Context, wg *sync.WaitGroup, l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		safe.Go(wg, func(error) { _ = nc.Close() }, func() {
			origin := ""
			if a := nc.RemoteAddr(); a != nil && a.Network() == "tcp" {
				origin = a.String()
			}
			_ = r.handOver(context.WithoutCancel(ctx), origin, nc)
		})
	}
}

// handOver opens a stream for an accepted connection and splices it. The flow
// goes on when the listener ends, until the connection does.
func (r *request) handOver(ctx context.Context, origin string, nc net.Conn) error {
	wait, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	s, err := openFlow(wait, r.s.Conn(), header{kind: kindAccepted, network: r.header.network, id: r.header.id, address: origin})
	if err != nil {
		if tc, ok := nc.(interface{ SetLinger(int) error }); ok {
			_ = tc.SetLinger(0) // whoever connected sees a reset: nobody has served him
		}
		_ = nc.Close() // the peer does not want it, or is gone
		return err
	}
	_, _, err = forward.Splice(ctx, nc, s)
	return err
}

// openFlow opens a stream with a header and waits for a good answer.
func openFlow(ctx context.Context, conn *alknet.Conn, hd header) (*alknet.Stream, error) {
	s, _, err := ask(ctx, conn, hd)
	return s, err
}

// ask opens a stream, writes a header and reads the answer. The error is a
// *forward.Error, or says that the connection was lost.
func ask(ctx context.Context, conn *alknet.Conn, hd header) (*alknet.Stream, answer, error) {
	if len(hd.address) > maxAddress {
		return nil, answer{}, &forward.Error{Code: forward.CodeAddress, Reason: "more than " + strconv.Itoa(maxAddress) + " bytes"}
	}
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, answer{}, &forward.Error{Code: forward.CodeNetUnreachable, Reason: "the tunnel is down", Err: err}
	}
	stop := context.AfterFunc(ctx, func() { s.Reset(resetClosed) })
	_, err = s.Write(hd.append(make([]byte, 0, headerSize+len(hd.address))))
	var a answer
	if err == nil {
		a, err = readAnswer(s)
	}
	ended := !stop()
	switch {
	case ended:
		err = ctx.Err()
	case err != nil:
		err = &forward.Error{Code: forward.CodeNetUnreachable, Reason: "the tunnel is down", Err: err}
	case a.id != hd.id:
		err = errBad
	case a.code != forward.CodeOK:
		err = &forward.Error{Code: a.code, Reason: "said the peer: " + printable.Quote(a.text)}
	}
	if err != nil {
		s.Reset(resetClosed)
		return nil, answer{}, err
	}
	return s, a, nil
}

var (
	_ alknet.ProtocolHandler = (*Handler)(nil)
	_ alknet.Shutdowner      = (*Handler)(nil)
)
