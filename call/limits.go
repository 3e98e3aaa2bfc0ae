package call

import (
	"math"
	"time"
)

// Limits bound what peers can make a Handler do and hold. In every field zero
// is the default and negative is none. They are read when the Handler is first
// used.
type Limits struct {
	// MaxFrameBytes is the largest frame that is read before its operation is
	// known, and the largest input and output of an operation that does not say
	// otherwise. 0: 1 MiB, and 64 KiB from anonymous peers. At most 64 MiB.
	MaxFrameBytes int64
	// FrameTimeout is the time from a frame's first byte to its last, and from
	// the opening of a stream to its first frame, to which one second is added
	// for every 64 KiB. 0: 10 s.
	FrameTimeout time.Duration
	// MaxRunningPerConn, MaxRunningPerIdentity and MaxRunning are how many
	// handlers may run for one connection, for one identity, and in all. A
	// handler counts until it has returned. 0: 256, 1,024 and 8,192.
	MaxRunningPerConn, MaxRunningPerIdentity, MaxRunning int
	// MaxSubscriptions is how many streams of items one connection may have
	// running, beside which MaxRunningPerConn counts unary calls only. 0: 1,024.
	MaxSubscriptions int
	// MaxConnBufferedBytes and MaxBufferedBytes are the memory for frames that
	// are being read, held or retained, for one connection and in all.
	// 0: 16 and 256 MiB.
	MaxConnBufferedBytes, MaxBufferedBytes int64
	// Timeout is how long a unary handler may run. 0: 30 s.
	Timeout time.Duration
	// ResumeGrace is how long a subscription whose connection was lost is kept. 0: 30 s.
	ResumeGrace time.Duration
	// IdempotencyWindow is how long an idempotency key is remembered. 0: 10 min.
	IdempotencyWindow time.Duration
	// MaxIdempotencyKeys is how many are remembered. 0: 65,536.
	MaxIdempotencyKeys int
	// WindowBytes is the credit with which a stream of items starts, and
	// MaxWindowBytes what it may grow to. 0: 256 KiB and 4 MiB.
	WindowBytes, MaxWindowBytes int64
	// MaxAborts is how many calls per second a peer may abort, and streams
	// reset, before its connection is closed. 0: 1,000.
	MaxAborts int
	// Rate is how many calls per second one identity may make, with bursts of
	// Burst. 0: no limit. Burst 0: Rate.
	Rate, Burst int
}

// The defaults of Limits, and what is fixed.
const (
	defaultMaxFrameBytes     = 1 << 20
	anonymousMaxFrameBytes   = 64 << 10
	largestFrameBytes        = 64 << 20 // of the protocol
	defaultFrameTimeout      = 10 * time.Second
	defaultTimeout           = 30 * time.Second
	defaultWindowBytes       = 256 << 10
	defaultMaxWindowBytes    = 4 << 20
	baseBufferBytes          = 4 << 20 // held for a stream of a peer without credit
	idempotencyReplyBytes    = 64 << 20
	idempotencyKeepAtLeast   = 30 * time.Second
	helloTimeout             = 5 * time.Second
	maxHops                  = 8
	sharedInputBytes         = 32 << 10 // of a call on a shared stream
	sharedReplyBytes         = 64 << 10
	maxTokenBytes            = 16 << 10
	maxIdempotencyKeyBytes   = 128
	maxResumeTokenBytes      = 1 << 10
	maxSharedStreams         = 4
	maxRetainedPerConnection = 256
)

// orDefault returns def for a zero v and none for a negative one.
func orDefault[T ~int | ~int64](v, def, none T) T {
	switch {
	case v == 0:
		return def
	case v < 0:
		return none
	}
	return v
}

// withDefaults resolves zero and negative fields; a rate of 0 is none.
func (l Limits) withDefaults() Limits {
	const forever = time.Duration(math.MaxInt64 / 4)
	const many = math.MaxInt32
	const huge = int64(math.MaxInt64 / 4)
	l.MaxFrameBytes = min(orDefault(l.MaxFrameBytes, defaultMaxFrameBytes, largestFrameBytes), largestFrameBytes)
	l.FrameTimeout = orDefault(l.FrameTimeout, defaultFrameTimeout, forever)
	l.MaxRunningPerConn = orDefault(l.MaxRunningPerConn, 256, many)
	l.MaxRunningPerIdentity = orDefault(l.MaxRunningPerIdentity, 1024, many)
	l.MaxRunning = orDefault(l.MaxRunning, 8192, many)
	l.MaxSubscriptions = orDefault(l.MaxSubscriptions, 1024, many)
	l.MaxConnBufferedBytes = orDefault(l.MaxConnBufferedBytes, 16<<20, huge)
	l.MaxBufferedBytes = orDefault(l.MaxBufferedBytes, 256<<20, huge)
	l.Timeout = orDefault(l.Timeout, defaultTimeout, forever)
	l.ResumeGrace = orDefault(l.ResumeGrace, 30*time.Second, 0)
	l.IdempotencyWindow = orDefault(l.IdempotencyWindow, 10*time.Minute, forever)
	l.MaxIdempotencyKeys = orDefault(l.MaxIdempotencyKeys, 65536, many)
	l.WindowBytes = orDefault(l.WindowBytes, defaultWindowBytes, defaultMaxWindowBytes)
	l.MaxWindowBytes = max(orDefault(l.MaxWindowBytes, defaultMaxWindowBytes, 64<<20), l.WindowBytes)
	l.MaxAborts = orDefault(l.MaxAborts, 1000, many)
	l.Rate = max(l.Rate, 0)
	l.Burst = orDefault(l.Burst, l.Rate, l.Rate)
	return l
}
