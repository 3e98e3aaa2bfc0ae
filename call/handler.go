package call

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/safe"
)

// ALPN is the name of the call protocol.
const ALPN = "alknet/call"

// Service serves h on QUIC and on bare TLS connections, to peers with an
// identity. Set AllowAnonymous of the result to admit others: operations still
// refuse them unless they allow it too.
func Service(h *Handler) alknet.Service {
	return alknet.Service{ALPN: ALPN, Handler: h, Over: alknet.QUIC | alknet.Raw}
}

// A Handler serves the connections of [ALPN], and what peers that we dialled
// call back. The zero value offers discovery only. The fields are not to be
// changed once it is used.
type Handler struct {
	// Registry holds our own operations. Nil: none.
	Registry *Registry
	// Sources add operations found elsewhere. They are asked in order, for names
	// that Registry does not hold: a local name cannot be taken by a peer.
	Sources []Source
	// Authenticate says who a caller is that sends an auth_token or a delegation
	// ("alkd1."): it replaces the connection's identity for that call. An error
	// is UNAUTHENTICATED. Nil: every token is refused.
	Authenticate func(ctx context.Context, conn alknet.Identity, token string) (alknet.Identity, error)
	// Identify says who a peer is that we dialled, for what it calls on that
	// connection; its argument is what the dial proved: the key, and no rights. It is
	// asked for each call, so it returns the same pointer while nothing has changed,
	// and what that points to is never written. Nil: the argument. A connection that
	// was accepted has the identity that the Router gave it.
	Identify func(dialled *alknet.Identity) *alknet.Identity
	// Owns says whether id owns a resource, beside what its Resources grant.
	// resourceID "" means any. Nil: nobody owns anything.
	Owns func(ctx context.Context, id *alknet.Identity, resourceType, resourceID, action string) bool
	// Middleware wraps every operation; the first in the list runs first.
	Middleware []Middleware
	// Limits bound what callers can make us do and hold.
	Limits Limits
	// OnConnect is called for each connection that is accepted, once both
	// directions are usable, in a goroutine of its own. An error closes it.
	OnConnect func(ctx context.Context, c *Client) error
	// Audit gets a Record when a call is decided and when it ends. An error at
	// the decision refuses the call.
	Audit func(ctx context.Context, r Record) error
	// Delegate signs a delegation for each peer that we dial. Nil: none.
	Delegate crypto.Signer
	// Logger gets failures, panics and refusals. Nil: silent.
	Logger *slog.Logger

	once sync.Once
	st   *state
}

// state returns what the Handler keeps. The Limits are read when it is first asked for.
func (h *Handler) state() *state {
	h.once.Do(func() { h.st = newState(h) })
	return h.st
}

func (h *Handler) logger() *slog.Logger {
	if h.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Logger
}

// ServeConn serves one connection in both directions until it ends, or until it
// is Draining and its calls have ended.
func (h *Handler) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	l := newLink(ctx, h, conn, false)
	if h.OnConnect != nil {
		safe.Go(&l.wg, l.crashed, func() {
			if err := h.OnConnect(l.ctx, l.client); err != nil {
				l.log(slog.LevelWarn, "call: OnConnect refused the connection", err)
				l.fail(err)
			}
		})
	}
	safe.Go(&l.wg, l.crashed, func() {
		select {
		case <-conn.Draining():
			l.drain(l.ctx)
		case <-l.donec:
		}
	})
	return connEnd(l.run())
}

// connEnd makes the ordinary ends of a connection a nil error.
func connEnd(err error) error {
	e, ok := errors.AsType[*alknet.Error](err)
	if ok && !e.Remote && e.Code != alknet.CodeOK {
		return err
	}
	if ok || ordinaryEnd(err) {
		return nil
	}
	return err
}

// As returns a Caller that calls operations in this process as id, through the
// same gate as a connection: for HTTP, MCP and the command line.
func (h *Handler) As(id alknet.Identity) Caller {
	return asCaller{h: h, who: h.state().callerFor(cloneIdentity(id))}
}

// asCaller calls as somebody.
type asCaller struct {
	h   *Handler
	who *caller
}

// Open starts a call.
func (a asCaller) Open(ctx context.Context, op string, o Options) (*Stream, error) {
	op = strings.TrimPrefix(op, "/")
	if !validRoute(op) {
		return nil, notFound(op).ran(runNo)
	}
	if err := ctx.Err(); err != nil {
		return nil, asError(err).ran(runNo)
	}
	return a.h.open(ctx, op, o, a.who).loc.stream()
}

// Operations are the ones that id may see, sorted by name. etag changes when
// they do.
func (h *Handler) Operations(id alknet.Identity) (ops []*Operation, etag string) {
	return h.state().visibleTo(h.state().callerFor(id))
}

// cloneIdentity returns an Identity that shares nothing with id.
func cloneIdentity(id alknet.Identity) alknet.Identity {
	id.Scopes = slices.Clone(id.Scopes)
	if id.Resources != nil {
		m := make(map[string][]string, len(id.Resources))
		for k, v := range id.Resources {
			m[k] = slices.Clone(v)
		}
		id.Resources = m
	}
	return id
}

// Shutdown drains the Handler: peers are told, new calls are refused with
// UNAVAILABLE, running unary calls finish, subscriptions that can move are
// handed back between two items, and the rest is cancelled when ctx ends, whose
// error it then wraps.
func (h *Handler) Shutdown(ctx context.Context) error {
	s := h.state()
	links := s.beginDrain()
	s.retained.clear()
	for _, l := range links {
		l.beginDrain(ctx)
	}
	var late error
	for _, l := range links {
		if err := l.drained(ctx); err != nil {
			late = err
		}
	}
	if err := s.idleLocal(ctx); err != nil {
		s.dropOrphans()
		late = err
	}
	if err := s.returned(ctx); err != nil { // what was cancelled has returned too
		late = err
	}
	if late != nil {
		return fmt.Errorf("call: shutdown: %d handlers still running: %w", s.running.Load(), late)
	}
	return nil
}

// caller is who is at the other end now.
func (l *link) caller() *caller {
	id := l.conn.SharedIdentity()
	if l.dialled && l.h.Identify != nil {
		id = l.h.Identify(id)
	}
	if w := l.who.Load(); w != nil && w.id == id {
		return w
	}
	w := l.s.callerShared(id)
	l.who.Store(w)
	return w
}

// unauthenticated is what a bad token gets, whatever is wrong with it.
func unauthenticated(cause error) *Error {
	return errorf(codes.Unauthenticated, "the token does not verify").ran(runNo).because(cause)
}

var (
	_ alknet.ProtocolHandler = (*Handler)(nil)
	_ alknet.Shutdowner      = (*Handler)(nil)
)
