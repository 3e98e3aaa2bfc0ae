package call

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/alkdev/alknet/call/codes"
)

// A keyTable remembers the calls that had an idempotency key, by identity,
// operation and key.
type keyTable struct {
	lim Limits

	mu    sync.Mutex
	calls map[keyID]*idempotent // guarded by mu
	old   []keyID               // guarded by mu; in order of begin; may hold keys that are gone
	bytes int64                 // guarded by mu; of answers that are kept
}

// keyID is whose key for what.
type keyID struct{ identity, operation, key string }

// An idempotent is one call with a key.
type idempotent struct {
	id    keyID
	input [sha256.Size]byte
	begun time.Time
	done  chan struct{} // closed when it has ended

	// Set before done is closed.
	err     *Error
	answer  []byte
	raw     bool
	dropped bool // the answer was too large to keep
	mine    bool // the call that runs, not one that waits for it
}

func newKeyTable(lim Limits) *keyTable {
	return &keyTable{lim: lim, calls: make(map[keyID]*idempotent)}
}

func (t *keyTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.calls)
}

// claim makes c the call of its key, or answers it with what the first one
// had. done: c is answered, with an error if there is one.
func (t *keyTable) claim(c *inCall) (done bool, err error) {
	id := keyID{c.who.id.ID, c.entry.op.Name, string(c.meta.rare().key)}
	if id.identity == "" {
		c.key = nil // keys of nobody would be everybody's
		return false, nil
	}
	sum := sha256.Sum256(c.input)
	t.mu.Lock()
	first := t.calls[id]
	if first != nil && time.Since(first.begun) > t.lim.IdempotencyWindow && isDone(first.done) {
		t.forgetLocked(first)
		first = nil
	}
	if first == nil {
		err := t.addLocked(c, id, sum)
		t.mu.Unlock()
		if err != nil {
			c.key = nil
			return true, err
		}
		return false, nil
	}
	t.mu.Unlock()
	c.key = nil
	return true, replay(&c.ctx, c, first, sum)
}

// replay answers c with what the first call of its key had.
func replay(ctx context.Context, c *inCall, first *idempotent, sum [sha256.Size]byte) error {
	if first.input != sum {
		e := inputError("", "idempotency_mismatch", "the input of the first call with this key")
		e.Reason = "idempotency_mismatch"
		return e
	}
	select {
	case <-first.done:
	case <-ctx.Done():
		return ctxError(ctx.Err())
	}
	switch {
	case first.err != nil:
		return first.err
	case first.dropped:
		return errorf(codes.Unavailable, "it has run, and its answer is not kept").ran(runYes)
	}
	c.answered, c.reply, c.replyRaw = true, append([]byte(nil), first.answer...), first.raw
	return nil
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// addLocked remembers c, in the place of an old key if there are too many. A
// young key, and one whose call runs, is never forgotten.
func (t *keyTable) addLocked(c *inCall, id keyID, sum [sha256.Size]byte) *Error {
	for len(t.old) > 0 {
		oldest := t.calls[t.old[0]]
		if oldest != nil {
			expired := time.Since(oldest.begun) > t.lim.IdempotencyWindow
			full := len(t.calls) >= t.lim.MaxIdempotencyKeys
			if !isDone(oldest.done) || !expired && (!full || time.Since(oldest.begun) < idempotencyKeepAtLeast) {
				break
			}
			t.forgetLocked(oldest)
		}
		t.old = t.old[1:]
	}
	if len(t.calls) >= t.lim.MaxIdempotencyKeys {
		return limitError("max_idempotency_keys", int64(t.lim.MaxIdempotencyKeys))
	}
	k := c.key
	*k = idempotent{id: id, input: sum, begun: time.Now(), done: make(chan struct{}), mine: true}
	t.calls[id] = k
	t.old = append(t.old, id)
	return nil
}

func (t *keyTable) forgetLocked(k *idempotent) {
	if t.calls[k.id] == k {
		delete(t.calls, k.id)
		t.bytes -= int64(len(k.answer))
	}
}

// settle keeps how the call of a key has ended: what its handler answered, also
// where that came too late for its caller.
func (t *keyTable) settle(c *inCall, err error) {
	k := c.key
	if !k.mine {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		c.mu.Lock()
		k.err = visible(asError(err), c.entry, c.who)
		c.mu.Unlock()
	case t.bytes+int64(len(c.reply)) > idempotencyReplyBytes:
		k.dropped = true
	default:
		k.answer, k.raw = append([]byte(nil), c.reply...), c.replyRaw
		if !c.answered {
			k.answer = append(k.answer, nullValue...)
		}
		t.bytes += int64(len(k.answer))
	}
	if k.err != nil && k.err.executed == runNo {
		t.forgetLocked(k) // it did not run: the next may
	}
	close(k.done)
}
