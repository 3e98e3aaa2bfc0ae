package call

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/alkdev/alknet/call/delegation"
)

// errNobody is a token that names no identity.
var errNobody = errors.New("a token of nobody")

// The times of the delegations that a Handler signs.
const (
	delegationTime  = 5 * time.Minute
	delegationRenew = 4 * time.Minute
)

// delegateTo signs a delegation for the peer of a link; "": none is asked for.
func (s *state) delegateTo(l *link) string {
	to := l.conn.SharedIdentity().Peer
	if s.h.Delegate == nil || to.IsZero() {
		return ""
	}
	token, err := delegation.Sign(s.h.Delegate, delegation.Claims{Audience: to, Expires: time.Now().Add(delegationTime)})
	if err != nil {
		l.log(slog.LevelWarn, "call: no delegation", err)
		return ""
	}
	return token
}

// renewDelegation signs new ones until the link ends.
func (l *link) renewDelegation() {
	if l.s.h.Delegate == nil {
		return
	}
	tick := time.NewTicker(delegationRenew)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			ctx, cancel := context.WithTimeout(l.ctx, helloTimeout)
			_, err := Call[struct{}](ctx, l.client, opDelegate, delegateInput{l.s.delegateTo(l)})
			cancel()
			if err != nil {
				l.log(slog.LevelWarn, "call: delegation was not renewed", err)
			}
		case <-l.donec:
			return
		}
	}
}

// delegateInput is the input of services/delegate.
type delegateInput struct {
	Delegation string `json:"delegation"`
}

// hand keeps what the peer has lent us, to hand on with its calls.
func (l *link) hand(token string) {
	if len(token) > maxTokenBytes {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handed = token
}

// onward narrows what came with a call, or what its peer has lent us, to the
// next peer; nil: there is nothing to hand on.
func (s *state) onward(c *inCall, to *link) []byte {
	next := to.conn.SharedIdentity().Peer
	if s.h.Delegate == nil || c.l == nil || next.IsZero() {
		return nil
	}
	token := string(c.meta.rare().delegation)
	if token == "" {
		c.l.mu.Lock()
		token = c.l.handed
		c.l.mu.Unlock()
	}
	if token == "" {
		return nil
	}
	narrowed, err := delegation.Narrow(s.h.Delegate, token, delegation.Claims{Audience: next})
	if err != nil {
		return nil
	}
	return []byte(narrowed)
}
