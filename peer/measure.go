package peer

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// staleAfter is how long a measured latency counts: after it a peer that was
// slow is tried again as if it were new.
const staleAfter = 10 * time.Second

// A latency is how long calls take, smoothed.
type latency struct {
	ns   atomic.Int64 // 0: not measured
	when atomic.Int64 // Unix nanoseconds of the last sample
}

// add takes a sample in.
func (l *latency) add(d time.Duration, now time.Time) {
	smooth(&l.ns, d)
	l.when.Store(now.UnixNano())
}

// at is the latency, and whether it is known and fresh.
func (l *latency) at(now int64) (ns int64, ok bool) {
	ns = l.ns.Load()
	return ns, ns > 0 && now-l.when.Load() < int64(staleAfter)
}

// smooth moves an average an eighth of the way to a sample. Of two at once one
// may be lost.
func smooth(avg *atomic.Int64, sample time.Duration) {
	s := max(int64(sample), 1)
	old := avg.Load()
	if old == 0 {
		avg.CompareAndSwap(0, s)
		return
	}
	avg.CompareAndSwap(old, max(old+(s-old)/8, 1))
}

// A histogram counts durations by their binary logarithm.
type histogram struct {
	buckets [64]atomic.Uint32
	count   atomic.Uint64
}

// maxCounted is when a histogram is halved, so that what was long ago fades.
const maxCounted = 4096

func (h *histogram) add(d time.Duration) {
	h.buckets[bits.Len64(uint64(max(d, 1)))&63].Add(1)
	if h.count.Add(1)%maxCounted == 0 {
		for i := range h.buckets {
			b := &h.buckets[i]
			b.Store(b.Load() / 2)
		}
	}
}

// p95 is a bound below which 95 of 100 were; 0: too few to say.
func (h *histogram) p95() time.Duration {
	var n, sum uint64
	for i := range h.buckets {
		n += uint64(h.buckets[i].Load())
	}
	if n < 20 {
		return 0
	}
	for i := range h.buckets {
		if sum += uint64(h.buckets[i].Load()); sum*100 >= n*95 {
			return time.Duration(uint64(1)<<min(i, 62)) - 1
		}
	}
	return 0
}

// budgetMax is how many retries a Graph may make at once, in tenths.
const budgetMax = 100

// A budget bounds retries and hedges, so that a failing cluster is not hammered:
// each costs a token, ten successes bring one back (gRFC A6).
type budget struct{ tokens atomic.Int32 } // in tenths

func (b *budget) success() {
	if n := b.tokens.Load(); n < budgetMax { // two at once may count as one
		b.tokens.CompareAndSwap(n, n+1)
	}
}

// take takes a token; false: there is none.
func (b *budget) take() bool {
	for {
		n := b.tokens.Load()
		if n < 10 {
			return false
		}
		if b.tokens.CompareAndSwap(n, n-10) {
			return true
		}
	}
}
