package ssh

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// rightsTimeout is how long Accounts may take to say again as whom programs run.
// A program for which it has not said so by then is cut.
const rightsTimeout = 800 * time.Millisecond

// A right is why something goes on that is neither a flow of the Gate, which
// judges those itself, nor the login. It is cut when that no longer holds.
type right struct {
	holds func(*alknet.Identity) bool                  // decides by what is in memory
	check func(context.Context, *alknet.Identity) bool // decides after holds, and may wait; nil: nothing
	cut   func()                                       // is called at most once and does not wait
}

// rights are what goes on on a connection.
type rights struct {
	mu      sync.Mutex
	held    map[*right]struct{} // guarded by mu
	judging bool                // guarded by mu; judgeRights runs for a change of the identity
	again   bool                // guarded by mu; and has to run once more
	over    bool                // guarded by mu; the connection ends, and all of it
}

// hold remembers a right until release is called. It is false if the peer has
// lost it already.
func (c *connection) hold(r *right) (release func(), ok bool) {
	r.cut = sync.OnceFunc(r.cut)
	release = func() {
		c.rights.mu.Lock()
		defer c.rights.mu.Unlock()
		delete(c.rights.held, r)
	}
	c.rights.mu.Lock()
	if c.rights.held == nil {
		c.rights.held = make(map[*right]struct{})
	}
	c.rights.held[r] = struct{}{}
	c.rights.mu.Unlock()
	if !r.holds(c.identity()) { // now that a change can not be missed
		release()
		return nil, false
	}
	return release, true
}

// identityChanged is called when the Router has judged the peer again.
func (c *connection) identityChanged() {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	if c.rights.over {
		return
	}
	if c.rights.again = true; c.rights.judging {
		return
	}
	c.rights.judging = true
	safe.Go(&c.wg, c.panicked, func() {
		for c.oneMore() {
			c.judgeRights(c.ctx)
		}
	})
}

// aside runs f with the connection, unless that ends.
func (c *connection) aside(f func()) {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	if !c.rights.over {
		safe.Go(&c.wg, c.panicked, f)
	}
}

// oneMore reports whether the identity has changed since it was judged.
func (c *connection) oneMore() bool {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	c.rights.judging, c.rights.again = c.rights.again, false
	return c.rights.judging
}

// endRights lets no other goroutine begin: the connection waits for those that
// run.
func (c *connection) endRights() {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	c.rights.over = true
}

// judgeRights cuts what the peer may no longer have: first what is known at once.
func (c *connection) judgeRights(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	id := c.identity()
	c.rights.mu.Lock()
	list := slices.Collect(maps.Keys(c.rights.held))
	c.rights.mu.Unlock()
	for _, r := range list {
		if !r.holds(id) {
			r.cut()
		}
	}
	for _, r := range list {
		if r.check != nil && r.holds(id) && !r.check(ctx, id) {
			r.cut()
		}
	}
}

// ownScopes are decided on here and by the Gate, and by no function of the node.
var ownScopes = []string{ScopeShell, ScopeAgent, forward.ScopeDial, forward.ScopeListen}

// stillHas reports whether now may do all that was could, but for what has a
// right of its own: a function has decided by was, and is not asked again.
func stillHas(now, was *alknet.Identity) bool {
	if now.ID != was.ID {
		return false
	}
	for _, scope := range was.Scopes {
		if !slices.Contains(now.Scopes, scope) && !slices.Contains(ownScopes, scope) {
			return false
		}
	}
	for kind, entries := range was.Resources {
		for _, entry := range entries {
			if !slices.Contains(now.Resources[kind], entry) {
				return false
			}
		}
	}
	return true
}

// sameAccount is the check of a program that runs as an account.
func (s *session) sameAccount(a *Account) func(context.Context, *alknet.Identity) bool {
	return func(ctx context.Context, id *alknet.Identity) bool {
		now, err := s.c.h.Accounts(ctx, id, s.c.sc.User())
		return err == nil && now != nil && reflect.DeepEqual(now, a)
	}
}

// cutOff ends the session for want of a right. What the client still sends is
// not read, whether or not it closes the channel.
func (s *session) cutOff() {
	s.stop(errNoLonger)
	s.c.aside(func() { _ = s.ch.Close() }) // a client that does not read can make it wait
}

// isCut reports whether a session that has ended did so for want of a right: its
// own, or, where the peer is no longer welcome, all of them.
func (s *session) isCut() bool {
	return errors.Is(context.Cause(s.ctx), errNoLonger) || !mayShell(s.c.identity())
}
