package call

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

// The bounds of what a writer gathers, in bytes.
const (
	maxGathered = 256 << 10 // then who sends items waits
	maxTurn     = 64 << 10  // of items in one write, so that answers are not behind them for long
)

// A writer combines what many goroutines send on one stream: the first of them
// writes, and what the others append meanwhile goes out with the next write.
// Control frames and small answers overtake items.
type writer struct {
	dst io.Writer

	mu       sync.Mutex
	hot      []byte        // guarded by mu; control frames and answers
	bulk     []byte        // guarded by mu; items and what must not overtake them
	written  int           // guarded by mu; of bulk
	spare    []byte        // guarded by mu; a buffer to take the place of one that is written
	busy     bool          // guarded by mu; somebody writes, or is about to
	corked   bool          // guarded by mu; a reader is about to push
	pushed   int           // guarded by mu; bytes that went out since a write that waited
	err      error         // guarded by mu; writing has failed, or the writer is closed
	room     sync.Cond     // something was written, or err is set
	finished bool          // guarded by mu; finish was called
	last     func()        // guarded by mu; what finish asked for
	kick     chan struct{} // guarded by mu; tells the flusher that it writes next; nil: none runs
	wg       *sync.WaitGroup
}

func newWriter(dst io.Writer, wg *sync.WaitGroup) *writer {
	w := &writer{dst: dst, wg: wg}
	w.room.L = &w.mu
	return w
}

// begin locks the buffer for control frames and answers. The caller appends
// whole frames to w.hot and calls end.
func (w *writer) begin() error {
	w.mu.Lock()
	for len(w.hot) > maxGathered && w.err == nil {
		w.room.Wait()
	}
	if w.err != nil {
		defer w.mu.Unlock()
		return w.err
	}
	return nil
}

// end sees to the writing of what was appended since begin: this goroutine
// writes, unless another is about to. With inline false it never blocks. others
// is how many calls there are beside, whose frames may be about to follow.
func (w *writer) end(inline bool, others int) {
	if w.busy {
		w.mu.Unlock()
		return
	}
	w.busy = true
	if !inline {
		w.kickLocked()
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	if others > 0 {
		runtime.Gosched() // who is about to send as well appends now: one write for all
	}
	w.flush()
}

// beginBulk is begin for items, which are appended to w.bulk; it waits while
// much of them has gathered, unless their call is over, which wake must follow.
// endBulk must follow.
func (w *writer) beginBulk(over *atomic.Bool) error {
	w.mu.Lock()
	for w.queuedLocked() >= maxGathered && w.err == nil && !over.Load() {
		w.room.Wait()
	}
	err := w.err
	if err == nil && over.Load() {
		err = errCallOver
	}
	if err != nil {
		w.mu.Unlock()
	}
	return err
}

// errCallOver is an item that nobody wants any more.
var errCallOver = errors.New("the call is over")

// waitWritten waits until what was appended is written, most at the longest.
func (w *writer) waitWritten(most time.Duration) {
	end := time.Now().Add(most)
	defer time.AfterFunc(most, w.wake).Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && (w.busy || len(w.hot) > 0) && time.Now().Before(end) {
		w.room.Wait()
	}
}

// wake lets those look again who wait in beginBulk.
func (w *writer) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room.Broadcast()
}

// endBulk has another goroutine write, so that who sends many items goes on.
func (w *writer) endBulk() {
	defer w.mu.Unlock()
	if !w.busy {
		w.busy = true
		w.kickLocked()
	}
}

// kickLocked has the flusher write. busy is set.
func (w *writer) kickLocked() {
	if w.kick == nil {
		w.kick = make(chan struct{}, 1)
		kick := w.kick
		safe.Go(w.wg, w.fail, func() { w.flusher(kick) })
	}
	w.kick <- struct{}{} // never full: busy was not set
}

// flusher writes what was left to it, until the writer is closed.
func (w *writer) flusher(kick chan struct{}) {
	for range kick {
		runtime.Gosched()
		w.flush()
	}
}

// flush writes until nothing is left: what is hot as a whole, then a turn of items,
// and again. It is called by who has set busy.
func (w *writer) flush() {
	w.mu.Lock()
	for w.err == nil && (len(w.hot) > 0 || w.queuedLocked() > 0) {
		items := len(w.hot) == 0
		var out []byte
		if items { // appended to meanwhile, but not moved
			out = w.bulk[w.written : w.written+turn(w.bulk[w.written:])]
		} else {
			out = w.hot
			w.hot, w.spare = w.spare, nil
		}
		w.mu.Unlock()
		_, err := w.dst.Write(out)
		w.mu.Lock()
		w.pushed = 0
		if items {
			w.advanceLocked(len(out))
		} else if cap(out) <= keptBuffer {
			w.spare = out[:0]
		}
		if err != nil && w.err == nil {
			w.err = err
		}
		w.room.Broadcast()
	}
	last := w.restLocked()
	w.mu.Unlock()
	if last != nil {
		last()
	}
}

// restLocked is the end of the writing: last is what finish asked for.
func (w *writer) restLocked() (last func()) {
	w.busy = false
	last, w.last = w.last, nil
	if last != nil && w.err == nil {
		w.err = net.ErrClosed
	}
	if w.err != nil {
		w.dropLocked()
	}
	return last
}

// keptBuffer is the largest buffer that is used again, in bytes.
const keptBuffer = 1 << 20

// queuedLocked is how many bytes of items wait.
func (w *writer) queuedLocked() int { return len(w.bulk) - w.written }

// advanceLocked notes that n bytes of items were written.
func (w *writer) advanceLocked(n int) {
	if w.bulk == nil { // dropped meanwhile
		return
	}
	w.written += n
	switch {
	case w.written == len(w.bulk) && cap(w.bulk) > keptBuffer:
		w.bulk, w.written = nil, 0
	case w.written == len(w.bulk):
		w.bulk, w.written = w.bulk[:0], 0
	case w.written > len(w.bulk)/2:
		w.bulk = w.bulk[:copy(w.bulk, w.bulk[w.written:])]
		w.written = 0
	}
}

// turn is how many bytes of b are whole frames within maxTurn, at least one.
func turn(b []byte) int {
	n := 0
	for n < len(b) {
		size := 4 + int(uint32(b[n])<<24|uint32(b[n+1])<<16|uint32(b[n+2])<<8|uint32(b[n+3]))
		if n > 0 && n+size > maxTurn {
			break
		}
		n += size
	}
	return n
}

// finish closes the writer once everything was written, or has failed, and then
// calls last. It is false, and does nothing, if that was asked before.
func (w *writer) finish(last func()) bool {
	w.mu.Lock()
	if w.finished {
		w.mu.Unlock()
		return false
	}
	w.finished = true
	if !w.busy && w.err == nil && len(w.hot) > 0 { // of a reader that has not yet pushed it
		w.busy = true
		w.kickLocked()
	}
	if w.busy {
		w.last = last
		w.mu.Unlock()
		return true
	}
	if w.err == nil {
		w.err = net.ErrClosed
	}
	w.dropLocked()
	w.mu.Unlock()
	last()
	return true
}

// pending is how many bytes wait.
func (w *writer) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.hot) + w.queuedLocked()
}

// fail drops what is not yet written and refuses more.
func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.room.Broadcast()
	if !w.busy {
		w.dropLocked()
	}
}

// dropLocked frees the buffers and ends the flusher.
func (w *writer) dropLocked() {
	w.hot, w.bulk, w.spare, w.written = nil, nil, nil, 0
	if w.kick != nil {
		close(w.kick)
		w.kick = nil
	}
	w.room.Broadcast()
}

// tryAppend appends a control frame that f makes, behind items if last is set,
// and never waits. It is false when the writer is closed.
func (w *writer) tryAppend(last bool, f func(b []byte) []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return false
	}
	if last && w.queuedLocked() > 0 {
		w.bulk = f(w.bulk)
	} else {
		w.hot = f(w.hot)
	}
	if !w.busy {
		w.busy = true
		w.kickLocked()
	}
	return true
}

// tryAppendBulk appends whole frames behind all items and never waits. It reports
// whether much has gathered.
func (w *writer) tryAppendBulk(frames []byte) (full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return false
	}
	w.bulk = append(w.bulk, frames...)
	if !w.busy {
		w.busy = true
		w.kickLocked()
	}
	return w.queuedLocked() >= maxGathered
}

// awaitRoom waits until less has gathered, or a call is over.
func (w *writer) awaitRoom(over *atomic.Bool) {
	if w.beginBulk(over) == nil {
		w.mu.Unlock()
	}
}

// busyNow reports whether something is being written, or waits.
func (w *writer) busyNow() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busy || len(w.hot)+w.queuedLocked() > 0
}
