package alknet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/internal/session"
)

// An attempt is one address over one transport.
type attempt struct {
	host  string // the address's name and port, for what is remembered of it
	over  Transport
	after time.Duration // start so long after the race began, unless all others failed before
	last  bool          // start only when all before it have failed
	dial  func(context.Context) (session.Session, error)
}

// plan orders the attempts of a dial: QUIC on each address, TCP behind it by
// the fallback time, or before it where UDP was found dead.
func (d *dialer) plan(addrs []netip.AddrPort) []attempt {
	fallback := d.e.cfg.DialFallback
	if fallback == 0 {
		fallback = defaultFallback
	}
	tcpOver := d.over &^ QUIC
	dead := tcpOver != 0 && d.e.udpIsDead(d.to.HostPort)
	var list []attempt
	for i, ap := range addrs {
		at := time.Duration(i) * nextAddress
		if d.over&QUIC != 0 {
			list = append(list, attempt{d.to.HostPort, QUIC, at, dead, func(ctx context.Context) (session.Session, error) { return d.quic(ctx, ap) }})
		}
		if tcpOver == 0 {
			continue
		}
		a := attempt{d.to.HostPort, tcpOver, at, false, func(ctx context.Context) (session.Session, error) { return d.tcp(ctx, ap) }}
		if d.over&QUIC != 0 && !dead {
			a.after, a.last = at+max(fallback, 0), fallback < 0
		}
		list = append(list, a)
	}
	slices.SortStableFunc(list, func(a, b attempt) int {
		if a.last != b.last {
			return cmp.Compare(b2i(a.last), b2i(b.last))
		}
		return cmp.Compare(a.after, b.after)
	})
	return list
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// An outcome is how an attempt ended.
type outcome struct {
	a   attempt
	s   session.Session
	err error
}

// race runs the attempts and returns the first session. The others are
// cancelled, and closed should they still succeed.
func (e *Endpoint) race(ctx context.Context, list []attempt) (session.Session, Transport, error) {
	if len(list) == 1 { // needs no goroutine and no timer
		s, err := list[0].run(ctx)
		if err == nil {
			e.noteUDP(list[0], list, nil)
		} else if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = errors.Join(ctx.Err(), err)
		}
		return s, list[0].over, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan outcome, len(list))
	start, next, running := time.Now(), 0, 0
	begin := func() {
		e.begin(ctx, list[next], results)
		next++
		running++
	}
	begin()
	timer := time.NewTimer(time.Until(start.Add(list[next].after)))
	defer timer.Stop()
	var failed []outcome
	for {
		select {
		case <-timer.C:
			if next < len(list) && (!list[next].last || running == 0) {
				begin()
			}
		case r := <-results:
			running--
			if r.err == nil {
				cancel()
				e.noteUDP(r.a, list[:next], failed)
				e.discard(results, running)
				return r.s, r.a.over, nil
			}
			failed = append(failed, r)
			if ctx.Err() == nil && next < len(list) && (!list[next].last || running == 0) {
				begin()
			}
		case <-ctx.Done():
			e.discard(results, running)
			return nil, 0, errors.Join(ctx.Err(), joinFailed(failed))
		}
		if running == 0 && next == len(list) {
			return nil, 0, joinFailed(failed)
		}
		if next < len(list) && !list[next].last {
			timer.Reset(max(0, list[next].after-time.Since(start)))
		}
	}
}

// begin starts an attempt; its outcome goes to results.
func (e *Endpoint) begin(ctx context.Context, a attempt, results chan<- outcome) {
	fail := func(err error) { results <- outcome{a: a, err: err} }
	safe.Go(&e.wg, fail, func() {
		s, err := a.run(ctx)
		results <- outcome{a: a, s: s, err: err}
	})
}

// run makes the attempt, within its time.
func (a attempt) run(ctx context.Context) (session.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultHandshakeTimeout)
	defer cancel()
	s, err := a.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.over, dialError(err))
	}
	return s, nil
}

// discard closes what n attempts that lost may still bring.
func (e *Endpoint) discard(results <-chan outcome, n int) {
	if n == 0 {
		return
	}
	safe.Go(&e.wg, func(error) {}, func() {
		for range n {
			if r := <-results; r.err == nil {
				_ = r.s.Close(uint64(CodeOK), "") // nobody uses it
			}
		}
	})
}

// joinFailed makes one error of all that failed; they are told apart by their transport.
func joinFailed(failed []outcome) error {
	var err error
	for _, r := range failed {
		if err == nil {
			err = r.err
		} else {
			err = fmt.Errorf("%w; %w", err, r.err)
		}
	}
	return err
}

// dialError gives the errors of an attempt the types that callers test for.
func dialError(err error) error {
	switch {
	case session.IsNoALPN(err):
		return &Error{Code: CodeRefused, Remote: true, Err: ErrNoService}
	case errors.Is(err, session.ErrRefused):
		return &Error{Code: CodeLimit, Remote: true, Err: err}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e // a pin that failed, without the library's wrapping
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &Error{Code: CodeUnauthenticated, Reason: "the name is not proven", Err: err}
	}
	return wrapError(err)
}

// noteUDP remembers whether UDP answered at a host, when an attempt has won.
func (e *Endpoint) noteUDP(won attempt, started []attempt, failed []outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if won.over == QUIC {
		delete(e.udpDead, won.host)
		return
	}
	silent := 0
	for _, a := range started {
		if a.over == QUIC {
			silent++
		}
	}
	for _, r := range failed {
		if r.a.over == QUIC && !errors.Is(r.err, context.DeadlineExceeded) {
			silent--
		}
	}
	if silent > 0 {
		if len(e.udpDead) >= maxUDPDead {
			clear(e.udpDead)
		}
		e.udpDead[won.host] = time.Now()
	}
}

// udpIsDead reports whether UDP did not answer at host a short while ago.
func (e *Endpoint) udpIsDead(host string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, ok := e.udpDead[host]
	return ok && time.Since(at) < udpDeadTime
}
