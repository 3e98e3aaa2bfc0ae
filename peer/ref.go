package peer

import (
	"time"

	"github.com/alkdev/alknet/call"
)

// A Ref says where a call may go. The zero value is any peer that serves the
// operation, the least loaded first.
type Ref struct {
	// Peer is this peer and no other. "": any that serves the operation.
	Peer string
	// Labels are what a peer must have, all of them.
	Labels map[string]string
	// Policy chooses among those that may get the call.
	Policy Policy
	// Key is for Affinity: equal keys reach the same peer while it is there.
	Key string
	// Wait is how long to wait for a peer to come, or to come back. 0: 2 s, and
	// 10 s for subscriptions, if one was there in the last 30 s. Negative: not at all.
	Wait time.Duration
	// Hedge is for queries and idempotent mutations: they are tried a second time
	// elsewhere after so long, and the first answer counts. 0: not. Negative:
	// after the time in which 95 of 100 calls of the operation answer.
	Hedge time.Duration
	// MaxAttempts is how often a call is sent, hedges included. 0: 3.
	MaxAttempts int
}

// A Policy chooses among the peers that may get a call.
type Policy uint8

const (
	// LeastLoaded draws two and takes the one with less (outstanding calls + 1) ×
	// smoothed latency × (1 + reported load).
	LeastLoaded Policy = iota
	// RoundRobin takes them in the order of their ids, for each operation.
	RoundRobin
	// Affinity takes the one with the highest hash of Ref.Key and its id: equal
	// on every head, and a peer that leaves moves only its own keys.
	Affinity
	// First takes the one that was attached first. A peer keeps its place when it
	// comes back.
	First
)

// String is the policy's name.
func (p Policy) String() string {
	switch p {
	case LeastLoaded:
		return "least-loaded"
	case RoundRobin:
		return "round-robin"
	case Affinity:
		return "affinity"
	case First:
		return "first"
	}
	return "unknown"
}

// The defaults of a Ref.
const (
	defaultWait         = 2 * time.Second
	defaultStreamWait   = 10 * time.Second
	defaultAttempts     = 3
	defaultCallTimeout  = 30 * time.Second // of a unary call whose context has no deadline, as package call has it
	defaultResumeGrace  = 30 * time.Second // as call.Limits.ResumeGrace
	sameInstanceAtLeast = 500 * time.Millisecond
)

func (r *Ref) attempts() int {
	if r.MaxAttempts <= 0 {
		return defaultAttempts
	}
	return r.MaxAttempts
}

func (r *Ref) wait(t call.OpType) time.Duration {
	switch {
	case r.Wait != 0:
		return max(r.Wait, 0)
	case t == call.Subscription:
		return defaultStreamWait
	}
	return defaultWait
}
