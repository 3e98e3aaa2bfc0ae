package ssh

import (
	"time"
)

// Limits bound what a peer may hold and how long it may take. In every field
// zero is the default and negative is no limit.
type Limits struct {
	// MaxSessions is how many sessions a connection may have open. 0: 10.
	MaxSessions int
	// MaxChannels is how many channels of any kind, those that we open included.
	// Each may hold 2 MiB of unread data. 0: 64.
	MaxChannels int
	// MaxListeners is how many remote forwards a connection may have. 0: 16.
	MaxListeners int
	// MaxConns is how many connections the listeners hold together. 0: 1,024.
	MaxConns int
	// MaxStartups is how many of them may be without a login yet. 0: 100.
	MaxStartups int
	// MaxStartupsPerAddr is the same for one IPv4 address or IPv6 /56. 0: 10.
	MaxStartupsPerAddr int
	// MaxAuthTries is how many logins a connection may try. 0: 6.
	MaxAuthTries int
	// VersionTimeout is the time until the client has said its version. 0: 10 s.
	VersionTimeout time.Duration
	// LoginTimeout is the time until a login has succeeded. 0: 30 s.
	LoginTimeout time.Duration
	// SessionIdle ends a session through which nothing moved for so long. 0: never.
	SessionIdle time.Duration
	// KeepAlive is how often a connection is asked whether it lives; three
	// unanswered times end it. 0: 15 s.
	KeepAlive time.Duration
	// MaxPenalty is the longest that a source is shut out of the listeners: a
	// failed login costs it 5 s, one that takes too long 10 s, one that makes the
	// server panic 90 s, a connection that leaves without one 1 s; it is shut out
	// while it owes more than 15 s. 0: 10 min; negative: no penalties.
	MaxPenalty time.Duration
}

// The defaults of Limits.
const (
	defaultMaxSessions        = 10
	defaultMaxChannels        = 64
	defaultMaxListeners       = 16
	defaultMaxConns           = 1024
	defaultMaxStartups        = 100
	defaultMaxStartupsPerAddr = 10
	defaultMaxAuthTries       = 6
	defaultVersionTimeout     = 10 * time.Second
	defaultLoginTimeout       = 30 * time.Second
	defaultKeepAlive          = 15 * time.Second
	defaultMaxPenalty         = 10 * time.Minute
)

// orDefault returns def for a zero v, and 0 ("no limit") for a negative one.
func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return max(v, 0)
}

// withDefaults resolves the zero fields; 0 then means no limit.
func (l Limits) withDefaults() Limits {
	return Limits{
		MaxSessions:        orDefault(l.MaxSessions, defaultMaxSessions),
		MaxChannels:        orDefault(l.MaxChannels, defaultMaxChannels),
		MaxListeners:       orDefault(l.MaxListeners, defaultMaxListeners),
		MaxConns:           orDefault(l.MaxConns, defaultMaxConns),
		MaxStartups:        orDefault(l.MaxStartups, defaultMaxStartups),
		MaxStartupsPerAddr: orDefault(l.MaxStartupsPerAddr, defaultMaxStartupsPerAddr),
		MaxAuthTries:       orDefault(l.MaxAuthTries, defaultMaxAuthTries),
		VersionTimeout:     orDefault(l.VersionTimeout, defaultVersionTimeout),
		LoginTimeout:       orDefault(l.LoginTimeout, defaultLoginTimeout),
		SessionIdle:        max(l.SessionIdle, 0),
		KeepAlive:          orDefault(l.KeepAlive, defaultKeepAlive),
		MaxPenalty:         orDefault(l.MaxPenalty, defaultMaxPenalty),
	}
}

// over reports whether n is more than max; max 0 is no limit.
func over(n, max int) bool { return max > 0 && n > max }
