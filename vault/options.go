package vault

import (
	"fmt"
	"time"
)

const (
	defaultCacheTTL  = time.Hour
	defaultScryptLog = 17
	minScryptLog     = 15 // in what is written
	maxScryptLog     = 20 // in what is written and what is read
)

// Options are the settings of a Vault. Nil means all defaults.
type Options struct {
	// AutoLock locks after so long without use of a key or secret; 0: never. Time
	// in which the machine sleeps does not count on most systems.
	AutoLock time.Duration

	// CacheTTL is how long a derived key stays in memory; 0: an hour; negative:
	// every key is derived each time.
	CacheTTL time.Duration

	// ScryptLog is the work factor of passphrase slots that are made, 15 to 20;
	// 0: 17, which takes 128 MiB and about half a second.
	ScryptLog int

	// Recover makes Unlock take the newest whole secrets.json or secrets.json.old
	// there is, or none, where secrets.json is damaged, missing or an older one,
	// and believe a slot where vault.json is missing, instead of refusing. What
	// was lost is an event of kind "warning". Whoever can write the folder and
	// knows a recipient can make a slot of another vault: look at the check value.
	Recover bool

	// Events is told of what happens, from the goroutine in which it happens: it
	// must not block. Nil: nobody is told.
	Events func(Event)

	// Now is the time of events and of what is created; nil: [time.Now].
	Now func() time.Time
}

// An Event is something that happened to a vault. It never holds a secret.
type Event struct {
	// Time is when, by Options.Now.
	Time time.Time

	// Kind is "unlock" (with Err: it was refused), "lock", "key" (handed out or
	// used), "read", "write" and "delete" of a secret, "rotate", "slot" (made or
	// removed) or "warning".
	Kind string

	// Subject is a derivation path, the name of a secret or a slot, or a way in.
	Subject string

	// Err is why it did not succeed, nil if it did; of a warning, what is wrong.
	Err error
}

// The kinds of events.
const (
	eventUnlock  = "unlock"
	eventLock    = "lock"
	eventKey     = "key"
	eventRead    = "read"
	eventWrite   = "write"
	eventDelete  = "delete"
	eventRotate  = "rotate"
	eventSlot    = "slot"
	eventWarning = "warning"
)

// scryptLog is the work factor of passphrase slots.
func (o *Options) scryptLog() (int, error) {
	if o == nil || o.ScryptLog == 0 {
		return defaultScryptLog, nil
	}
	if o.ScryptLog < minScryptLog || o.ScryptLog > maxScryptLog {
		return 0, fmt.Errorf("%w: Options.ScryptLog is %d, not 0 or %d to %d", ErrMalformed, o.ScryptLog, minScryptLog, maxScryptLog)
	}
	return o.ScryptLog, nil
}
