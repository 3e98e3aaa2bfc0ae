package alknet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
)

// Stats is what a Router, or one of its services, does and has done.
type Stats struct {
	Connections          int              // live: admitted, and their handler has not returned
	Handshaking          int              // without an identity yet; of the Router only
	Handlers             int              // running ServeConn calls
	Streams              int              // open
	Handshakes           int64            // finished, since the start
	BytesIn, BytesOut    int64            // read from and written to streams
	Panics               int64            // recovered in ServeConn calls and in deciding who is served
	Refused              map[string]int64 // by reason: "limit", "unauthenticated", "refused", "revoked", "no_service", "handshake", "shutdown", "accept"
	ReservedBytes        int64            // held for peers; of the Router only
	UnauthenticatedBytes int64            // of those, for peers without an identity; of the Router only
	Services             map[string]Stats // by ALPN; of the Router only
}

// Stats is a snapshot of the Router.
func (r *Router) Stats() Stats {
	r.init()
	total := Stats{Services: make(map[string]Stats), Refused: r.refused.counts()}
	for _, s := range *r.services.Load() {
		total.Services[s.ALPN] = s.counters()
	}
	r.mu.Lock()
	total.add(r.past)
	total.Panics += r.panics.Load()
	for c, lc := range r.live {
		cs := c.Stats()
		live := Stats{Connections: 1, Streams: cs.Streams, BytesIn: cs.BytesIn, BytesOut: cs.BytesOut}
		if lc.svc.gone.Load() {
			total.add(live)
			continue
		}
		st := total.Services[lc.svc.ALPN]
		st.add(live)
		total.Services[lc.svc.ALPN] = st
	}
	r.mu.Unlock()
	for _, st := range total.Services {
		total.add(st)
	}
	if l := r.ledger.Load(); l != nil {
		l.mu.Lock()
		total.Handshaking = l.handshakes
		l.mu.Unlock()
		total.ReservedBytes, total.UnauthenticatedBytes = l.total.Used(), l.unauth.Used()
	}
	return total
}

// counters are the sums of a service so far, without its live connections.
func (s *service) counters() Stats {
	return Stats{
		Handshakes: s.handshakes.Load(), Panics: s.panics.Load(), BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Handlers: int(s.handlers.Load()), Refused: s.refusals.counts(),
	}
}

// add adds the sums of a service to those of all.
func (st *Stats) add(o Stats) {
	st.Connections += o.Connections
	st.Handlers += o.Handlers
	st.Streams += o.Streams
	st.Handshakes += o.Handshakes
	st.BytesIn += o.BytesIn
	st.BytesOut += o.BytesOut
	st.Panics += o.Panics
}

// Conns are the live connections, in no order, as they were when the loop began.
func (r *Router) Conns() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		r.init()
		r.mu.Lock()
		conns := make([]*Conn, 0, len(r.live))
		for c := range r.live {
			conns = append(conns, c)
		}
		r.mu.Unlock()
		for _, c := range conns {
			if !yield(c) {
				return
			}
		}
	}
}

// The reasons for which connections are refused, as Stats names them.
const (
	refusedLimit           = "limit"
	refusedUnauthenticated = "unauthenticated"
	refusedRefused         = "refused"
	refusedRevoked         = "revoked"
	refusedNoService       = "no_service"
	refusedHandshake       = "handshake"
	refusedShutdown        = "shutdown"
	refusedAccept          = "accept"
)

func reasonFor(code ErrorCode) string {
	switch code {
	case CodeLimit:
		return refusedLimit
	case CodeUnauthenticated:
		return refusedUnauthenticated
	case CodeRevoked:
		return refusedRevoked
	case CodeShutdown:
		return refusedShutdown
	}
	return refusedRefused
}

// logBurst is how many lines a second are logged for one reason; the rest is counted.
const logBurst = 10

// refusals counts refusals by reason and bounds how many are logged.
type refusals struct {
	mu     sync.Mutex
	byName map[string]*refusalCount // guarded by mu
}

type refusalCount struct {
	total    int64
	second   time.Time // in which logged lines were written
	logged   int
	withheld int64 // not logged since
}

// note counts one refusal and says whether to log it, and how many were not
// logged before it.
func (f *refusals) note(reason string, now time.Time) (ok bool, withheld int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byName == nil {
		f.byName = make(map[string]*refusalCount)
	}
	c := f.byName[reason]
	if c == nil {
		c = &refusalCount{}
		f.byName[reason] = c
	}
	c.total++
	if since := now.Sub(c.second); since >= time.Second || since < 0 {
		c.second, c.logged = now, 0
	}
	if c.logged >= logBurst {
		c.withheld++
		return false, 0
	}
	c.logged++
	withheld, c.withheld = c.withheld, 0
	return true, withheld
}

func (f *refusals) counts() map[string]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := make(map[string]int64, len(f.byName))
	for k, c := range f.byName {
		m[k] = c.total
	}
	return m
}

// refuse counts and logs that a connection was not served. a may be nil where
// nothing is known of it yet.
func (r *Router) refuse(ctx context.Context, a *admission, reason string, remote net.Addr, err error) {
	if a != nil && a.svc != nil {
		a.svc.refusals.note(reason, time.Now())
	}
	if e, ok := errors.AsType[*Error](err); ok && errors.Is(e, ErrNoService) {
		reason = refusedNoService
	}
	ok, withheld := r.refused.note(reason, time.Now())
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("event", "conn.refused"),
		slog.String("reason", reason),
		slog.String("addr", remote.String()),
		slog.Any("err", printable.Text(err.Error())),
	}
	if a != nil && a.svc != nil {
		attrs = append(attrs, slog.String("alpn", a.svc.ALPN), slog.Any("peer", a.id.Peer), slog.Any("id", printable.Text(a.id.ID)))
	}
	if withheld > 0 {
		attrs = append(attrs, slog.Int64("not_logged", withheld))
	}
	r.log().LogAttrs(ctx, slog.LevelInfo, "connection refused", attrs...)
}

// panicText is the text of a panic's value.
func panicText(v any) string { return fmt.Sprint(v) }

// panicAttrs are the value and the stack of a panic, which only the log shows.
func panicAttrs(err error) []slog.Attr {
	pe, ok := errors.AsType[*safe.PanicError](err)
	if !ok {
		return nil
	}
	return []slog.Attr{
		slog.String("event", "handler.panic"),
		slog.Any("panic", printable.Text(panicText(pe.Value))),
		slog.String("stack", string(pe.Stack)),
	}
}
