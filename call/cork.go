package call

// What goes out without waiting.
const (
	maxPush   = 1200    // bytes at once: of more than a packet's worth QUIC makes copies, and another goroutine is worth its while
	maxPushed = 8 << 10 // bytes between two writes that wait until what was before is sent
	maxPushes = 4       // tries before the flusher has to do it
)

// A tryWriter is a stream that can tell whether a write would wait.
type tryWriter interface {
	TryWrite(b []byte) (ok bool, err error)
}

// append appends a frame to a writer, of any connection, for the goroutine that
// reads this lane, and never waits. It is sent when the reader has nothing more
// to read at once. It is false when the writer is closed, or too much waits.
func (ln *lane) append(w *writer, f func(b []byte) []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || len(w.hot) > maxGathered {
		return false
	}
	w.hot = f(w.hot)
	if !w.busy && !w.corked { // else somebody is about to write it
		w.corked = true
		ln.corked = append(ln.corked, w)
	}
	return true
}

// uncork sends what was appended.
func (ln *lane) uncork() {
	for i, w := range ln.corked {
		w.push()
		ln.corked[i] = nil
	}
	ln.corked = ln.corked[:0]
}

// full reports whether so much waits to be written that more has to wait.
func (w *writer) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.hot) > maxGathered
}

// push writes what is hot, as far as that takes no waiting, and leaves the rest
// to the flusher.
func (w *writer) push() {
	w.mu.Lock()
	w.corked = false
	if w.busy || w.err != nil || len(w.hot) == 0 {
		w.mu.Unlock()
		return
	}
	w.busy = true
	for range maxPushes {
		if !w.pushLocked() {
			break
		}
	}
	if w.err == nil && len(w.hot)+w.queuedLocked() > 0 {
		w.kickLocked()
		w.mu.Unlock()
		return
	}
	last := w.restLocked()
	w.mu.Unlock()
	if last != nil {
		last()
	}
}

// pushLocked writes what is hot at once; false: there is nothing, or it has to
// wait.
func (w *writer) pushLocked() bool {
	t, can := w.dst.(tryWriter)
	if !can || w.err != nil || len(w.hot) == 0 || w.queuedLocked() > 0 || len(w.hot) > maxPush || w.pushed+len(w.hot) > maxPushed {
		return false
	}
	out := w.hot
	w.hot, w.spare = w.spare, nil
	w.mu.Unlock()
	ok, err := t.TryWrite(out)
	w.mu.Lock()
	switch {
	case err != nil:
		if w.err == nil {
			w.err = err
		}
	case !ok:
		w.hot = append(out, w.hot...)
		return false
	default:
		w.pushed += len(out)
		if cap(out) <= keptBuffer {
			w.spare = out[:0]
		}
	}
	w.room.Broadcast()
	return err == nil
}
