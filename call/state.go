package call

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/budget"
	"github.com/alkdev/alknet/internal/safe"
)

// A state is what a Handler keeps: who is connected, what runs, what is
// remembered.
type state struct {
	h        *Handler
	lim      Limits // with defaults
	mem      *budget.Budget
	instance string // of this process, 32 hex digits
	builtin  map[string]*entry
	keys     *keyTable
	retained *retainer
	verdicts *verdictCache

	running     atomic.Int64 // handlers that run
	overrunning atomic.Int64 // of them, beyond their deadline
	panics      atomic.Int64
	dropped     atomic.Int64 // events after the end of their call
	localID     atomic.Uint64
	wg          sync.WaitGroup // calls in this process

	mu       sync.Mutex
	links    map[*link]struct{} // guarded by mu
	draining bool               // guarded by mu
	locals   int                // guarded by mu; calls in this process, and orphans
	orphans  map[*inCall]*time.Timer
	localc   chan struct{} // guarded by mu; closed when draining and locals is 0
	counts   map[string]*running
	foreign  map[*Operation]*entry // guarded by mu; what Sources brought
}

// running counts the calls of one identity.
type running struct {
	n      atomic.Int64
	bucket rateBucket
}

// maxForeign bounds what is remembered of the operations of Sources.
const maxForeign = 100_000

func newState(h *Handler) *state {
	s := &state{
		h: h, lim: h.Limits.withDefaults(), links: make(map[*link]struct{}), localc: make(chan struct{}),
		counts: make(map[string]*running), foreign: make(map[*Operation]*entry), orphans: make(map[*inCall]*time.Timer),
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails, or ends the process
	s.instance = hex.EncodeToString(random[:])
	s.mem = budget.New("max_buffered_bytes", s.lim.MaxBufferedBytes, nil)
	s.keys = newKeyTable(s.lim)
	s.retained = newRetainer(s)
	s.verdicts = newVerdictCache()
	s.builtin = builtins(h, s)
	return s
}

// now is the time.
func (s *state) now() time.Time { return time.Now() }

// nextLocalID is the id of a call made in this process.
func (s *state) nextLocalID() string { return "local." + strconv.FormatUint(s.localID.Add(1), 10) }

// callerShared works out what is asked of an identity for every call. id is not
// changed by anybody.
func (s *state) callerShared(id *alknet.Identity) *caller {
	w := &caller{
		id: id, explain: slices.Contains(id.Scopes, scopeExplain), forward: slices.Contains(id.Scopes, scopeForward),
	}
	if id.ID == "" {
		return w
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.count = s.counts[id.ID]
	if w.count == nil {
		if len(s.counts) >= maxCounted {
			for name, c := range s.counts { // forget who does nothing
				if c.n.Load() == 0 {
					delete(s.counts, name)
				}
			}
		}
		w.count = &running{}
		s.counts[id.ID] = w.count
	}
	return w
}

// maxCounted is how many identities are counted before idle ones are forgotten.
const maxCounted = 65536

// callerFor is callerShared of an identity by value.
func (s *state) callerFor(id alknet.Identity) *caller { return s.callerShared(&id) }

// reserve counts one handler more, or refuses it.
func (s *state) reserve(w *caller) *Error {
	if !addBelow(&s.running, int64(s.lim.MaxRunning)) {
		return limitError("max_running", int64(s.lim.MaxRunning))
	}
	if w.count == nil {
		return nil
	}
	if !addBelow(&w.count.n, int64(s.lim.MaxRunningPerIdentity)) {
		s.running.Add(-1)
		return limitError("max_running_per_identity", int64(s.lim.MaxRunningPerIdentity))
	}
	if s.lim.Rate > 0 {
		if wait := w.count.bucket.take(s.lim.Rate, s.lim.Burst); wait > 0 {
			s.release(w)
			e := limitError("rate", int64(s.lim.Rate))
			e.RetryAfter = wait
			return e
		}
	}
	return nil
}

// addBelow adds one to n, unless that makes it more than max: nobody ever sees
// more.
func addBelow(n *atomic.Int64, max int64) bool {
	for {
		v := n.Load()
		if v >= max {
			return false
		}
		if n.CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// release ends what reserve counted.
func (s *state) release(w *caller) {
	s.running.Add(-1)
	if w.count != nil {
		w.count.n.Add(-1)
	}
}

// A rateBucket lets calls through at a rate, with bursts.
type rateBucket struct {
	mu   sync.Mutex
	full time.Time // when it will be full again
}

// take takes one call; wait 0: it may go, else when to come back.
func (b *rateBucket) take(rate, burst int) (wait time.Duration) {
	each := time.Second / time.Duration(rate)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.full.Before(now) {
		b.full = now
	}
	if ahead := b.full.Add(each).Sub(now); ahead > each*time.Duration(burst) {
		return ahead - each*time.Duration(burst)
	}
	b.full = b.full.Add(each)
	return 0
}

// enlist notes a link; false: we drain.
func (s *state) enlist(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.links[l] = struct{}{}
	return true
}

func (s *state) forget(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
}

// run runs a call in this process; false: we drain.
func (s *state) run(c *inCall) bool {
	s.mu.Lock()
	if s.draining && c.parent == nil {
		s.mu.Unlock()
		return false
	}
	s.locals++
	s.mu.Unlock()
	done := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.locals--; s.locals == 0 && s.draining {
			close(s.localc)
		}
	}
	failed := func(err error) {} // run recovers and answers
	safe.Go(&s.wg, failed, func() {
		defer done()
		c.run()
	})
	return true
}

// beginDrain refuses new connections and calls in this process.
func (s *state) beginDrain() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.draining = true
		if s.locals == 0 {
			close(s.localc)
		}
	}
	links := make([]*link, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	return links
}

// idleLocal waits for the calls in this process.
func (s *state) idleLocal(ctx context.Context) error {
	select {
	case <-s.localc:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isDraining reports whether Shutdown was called.
func (s *state) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// find returns the operation of a name: the Registry's, a builtin, or what a
// Source has.
func (s *state) find(name []byte) *Operation {
	if r := s.h.Registry; r != nil {
		if e := r.load()[string(name)]; e != nil {
			return &e.op
		}
	}
	if e := s.builtin[string(name)]; e != nil {
		return &e.op
	}
	if len(s.h.Sources) == 0 {
		return nil
	}
	route := string(name)
	if !validRoute(route) {
		return nil
	}
	for _, src := range s.h.Sources {
		if op, ok := src.Lookup(route); ok && op != nil {
			return op
		}
	}
	return nil
}

// entryOf is what was made of an operation; nil: it cannot be served.
func (s *state) entryOf(op *Operation) *entry {
	if op.reg != nil {
		return op.reg
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.foreign[op]; e != nil {
		return e
	}
	e, err := newEntry(*op)
	if err != nil {
		s.h.logger().Warn("call: an operation of a Source cannot be served", "operation", op.Name, "err", err)
		e = nil
	}
	if len(s.foreign) >= maxForeign {
		clear(s.foreign)
	}
	s.foreign[op] = e
	return e
}

// outputLimit is the largest output of an operation that asks for most.
func (s *state) outputLimit(most int64) int64 {
	if most > 0 {
		return most
	}
	return s.lim.MaxFrameBytes
}

// ordinaryEnd reports whether a connection ended because somebody closed it.
func ordinaryEnd(err error) bool {
	return err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled)
}
