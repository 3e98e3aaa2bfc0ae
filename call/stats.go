package call

import (
	"context"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
)

// A Record is what Handler.Audit gets: when a call is decided, and when it ends.
// It holds no input and no output.
type Record struct {
	// Time is that of the event.
	Time time.Time
	// ID is the caller's for the call.
	ID string
	// Operation is the name as called.
	Operation string
	// Peer is the key that the connection proved.
	Peer alknet.PeerID
	// Caller is the id of whom the gate checked.
	Caller string
	// Originator is the id of who asked first, by delegation.
	Originator string
	// Path are the peers that handed the call on.
	Path []alknet.PeerID
	// Transport carried it; 0: it was made in this process, or over a Pipe.
	Transport alknet.Transport
	// Decision is "allowed", "refused" or "ended".
	Decision string
	// Rule says why: the code of a refusal with its message.
	Rule string
	// Code is that of the error; empty: none.
	Code string
	// Duration is from the request to the end; zero at the decision.
	Duration time.Duration
	// InBytes and OutBytes are the sizes of the input and the outputs.
	InBytes, OutBytes int64
	// Internal: another operation made the call.
	Internal bool
}

// Stats are the counters of a Handler.
type Stats struct {
	// Connections are the live ones.
	Connections int
	// Running handlers, of them streams of items, and those beyond their deadline.
	Running, Subscriptions, Overrunning int
	// Retained subscriptions wait for their caller to come back.
	Retained int
	// IdempotencyKeys are remembered.
	IdempotencyKeys int
	// BufferedBytes are held for peers.
	BufferedBytes int64
	// Panics of handlers, and events that came after the end of their call.
	Panics, Dropped int64
	// Operations have their own counters, by name.
	Operations map[string]operationStats
}

// operationStats are the counters of one operation.
type operationStats struct {
	// Running now.
	Running int
	// Codes counts how calls ended; "" is success.
	Codes map[string]int64
	// Latency counts calls by duration: element i those below 2^i microseconds
	// that are not in an element before.
	Latency []int64
}

// latencyBuckets reach beyond an hour.
const latencyBuckets = 33

// opStats counts the calls of an operation.
type opStats struct {
	ok      atomic.Int64
	latency [latencyBuckets]atomic.Int64
	recent  atomic.Int64 // smoothed duration in nanoseconds

	mu    sync.Mutex
	codes map[string]int64 // guarded by mu; of errors
}

// maxCodes bounds the codes that are counted one by one.
const maxCodes = 64

// count notes the end of a call.
func (s *opStats) count(code string, d time.Duration) {
	s.latency[min(bits.Len64(uint64(max(d/time.Microsecond, 0))), latencyBuckets-1)].Add(1)
	if old := s.recent.Load(); old == 0 {
		s.recent.Store(int64(d))
	} else {
		s.recent.Store(old + (int64(d)-old)/8)
	}
	if code == "" {
		s.ok.Add(1)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.codes == nil {
		s.codes = make(map[string]int64)
	}
	if _, known := s.codes[code]; !known && len(s.codes) >= maxCodes {
		code = codes.Internal
	}
	s.codes[code]++
}

// retryAfter is when a place may be free: the operation's recent duration.
func (s *opStats) retryAfter() time.Duration {
	return min(max(time.Duration(s.recent.Load()), 5*time.Millisecond), 5*time.Second)
}

func (e *entry) statsNow() operationStats {
	o := operationStats{Running: int(e.running.Load()), Codes: make(map[string]int64), Latency: make([]int64, latencyBuckets)}
	if n := e.stats.ok.Load(); n > 0 {
		o.Codes[""] = n
	}
	for i := range e.stats.latency {
		o.Latency[i] = e.stats.latency[i].Load()
	}
	e.stats.mu.Lock()
	defer e.stats.mu.Unlock()
	for code, n := range e.stats.codes {
		o.Codes[code] = n
	}
	return o
}

// Stats are the counters of this moment.
func (h *Handler) Stats() Stats {
	s := h.state()
	st := Stats{
		Running: int(s.running.Load()), Overrunning: int(s.overrunning.Load()), Panics: s.panics.Load(), Dropped: s.dropped.Load(),
		BufferedBytes: s.mem.Used(), Operations: make(map[string]operationStats),
	}
	st.Retained, st.IdempotencyKeys = s.retained.count(), s.keys.count()
	s.mu.Lock()
	st.Connections = len(s.links)
	for l := range s.links {
		st.Subscriptions += int(l.inputs.Load())
	}
	foreign := make([]*entry, 0, len(s.foreign))
	for _, e := range s.foreign {
		if e != nil {
			foreign = append(foreign, e)
		}
	}
	s.mu.Unlock()
	for _, e := range s.builtin {
		st.Operations[e.op.Name] = e.statsNow()
	}
	for _, e := range foreign {
		st.Operations[e.op.Name] = e.statsNow()
	}
	if h.Registry != nil {
		for name, e := range h.Registry.load() {
			st.Operations[name] = e.statsNow()
		}
	}
	return st
}

// record notes the end of a call that the gate has decided.
func (c *inCall) record(e *Error) {
	c.mu.Lock()
	entry := c.entry
	allowed := c.allowed
	c.mu.Unlock()
	if entry == nil {
		return
	}
	code := ""
	if e != nil {
		code = e.Code
	}
	d := time.Since(c.begun)
	entry.stats.count(code, d)
	if c.h.Audit == nil || !allowed {
		return
	}
	r := c.newRecord("ended", string(c.meta.op))
	r.Code, r.Duration, r.InBytes, r.OutBytes = code, d, int64(len(c.input)), c.outBytes.Load()
	c.writeRecord(r)
}

// audit records a decision. Its error refuses a call that was allowed.
func (c *inCall) audit(err *Error) *Error {
	c.mu.Lock()
	c.allowed = err == nil
	c.mu.Unlock()
	if c.h.Audit == nil {
		return err
	}
	r := c.newRecord("allowed", string(c.meta.op))
	r.InBytes = int64(len(c.input))
	if err != nil {
		r.Decision, r.Code, r.Rule = "refused", err.Code, err.Code+": "+err.Message
	}
	if aerr := c.writeRecord(r); aerr != nil && err == nil {
		return errorf(codes.Unavailable, "the call cannot be recorded").ran(runNo).because(aerr)
	}
	return err
}

func (c *inCall) newRecord(decision, name string) Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Record{
		Time: time.Now(), ID: c.id, Operation: name, Caller: c.who.id.ID, Decision: decision, Internal: c.parent != nil,
	}
	if c.req != nil {
		if r.Path = c.req.Path; c.req.Originator != nil {
			r.Originator = c.req.Originator.ID
		}
	}
	if c.l != nil {
		r.Peer, r.Transport = c.l.conn.SharedIdentity().Peer, c.l.conn.Transport()
	}
	return r
}

func (c *inCall) writeRecord(r Record) error {
	err := c.h.Audit(context.WithoutCancel(&c.ctx), r)
	if err != nil {
		c.h.logger().LogAttrs(context.Background(), slog.LevelError, "call: audit", slog.String("id", c.id), slog.String("err", err.Error()))
	}
	return err
}
