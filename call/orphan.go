package call

import (
	"time"

	"github.com/alkdev/alknet/call/codes"
)

// An orphan is a call with an idempotency key whose connection was lost while it
// ran. It runs on until its deadline, because whoever has the key may come back
// for the answer: aborted, it would have run and nobody could tell how far.

// adopt has a call of a lost connection run on; false: it is not one that may.
func (s *state) adopt(c *inCall) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.keyed || c.orphan || c.done.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || len(s.orphans) >= maxRetained {
		return false
	}
	limit := s.lim.Timeout
	if limit <= 0 {
		limit = defaultTimeout
	}
	if until, ok := c.ctx.Deadline(); ok {
		limit = time.Until(until)
	}
	c.orphan = true
	s.orphans[c] = time.AfterFunc(limit, c.expire)
	s.locals++ // Shutdown waits for it as for a call made here
	return true
}

// bury forgets an orphan whose handler has returned.
func (s *state) bury(c *inCall) {
	c.mu.Lock()
	orphan := c.orphan
	c.orphan = false
	c.mu.Unlock()
	if !orphan {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orphans[c].Stop()
	delete(s.orphans, c)
	if s.locals--; s.locals == 0 && s.draining {
		close(s.localc)
	}
}

// dropOrphans aborts them all.
func (s *state) dropOrphans() {
	s.mu.Lock()
	all := make([]*inCall, 0, len(s.orphans))
	for c := range s.orphans {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.abort(errorf(codes.Cancelled, "shut down").ran(runUnknown), false)
	}
}
