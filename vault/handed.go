package vault

import "runtime"

const (
	// trayBuffers is how many small Secrets share the cost of being watched.
	trayBuffers = 16

	// smallBytes is the longest Secret that shares: one that is kept keeps the
	// bytes of the others of its tray.
	smallBytes = 4096
)

// A tray is buffers of Secrets that were handed out. When no program holds one of
// them any more, the garbage collector says so, and the bytes are wiped.
type tray struct {
	buffers []buffer
	used    int
	handed  *handed
}

// Handed is the bytes of a tray's Secrets. It does not lead to the tray, so that
// the session, which wipes at its end, does not keep that from being collected.
type handed struct {
	data func() [][]byte // a function so that the bytes are not reachable by reflection
}

func (h *handed) wipe() {
	for _, b := range h.data() {
		clear(b)
	}
}

// hand makes a Secret of data, which it takes over. The caller is within the gate.
func (s *session) hand(data []byte) Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tray
	if len(data) > smallBytes || t == nil || t.used == len(t.buffers) {
		t = s.newTrayLocked(len(data))
	}
	b := &t.buffers[t.used]
	b.data, b.owner, b.handed, b.at = data, s, t.handed, t.used
	t.handed.data()[t.used] = data
	t.used++
	return newBuffer(b)
}

// newTrayLocked makes a tray for a Secret of size bytes, and for small ones that
// follow it.
func (s *session) newTrayLocked(size int) *tray {
	n := 1
	if size <= smallBytes {
		n = trayBuffers
	}
	data := make([][]byte, n)
	t := &tray{buffers: make([]buffer, n), handed: &handed{data: func() [][]byte { return data }}}
	s.handed[t.handed] = struct{}{}
	// The buffers are what programs hold; the tray itself may go before them.
	runtime.AddCleanup(&t.buffers[0], s.dropAll, t.handed)
	if n > 1 {
		s.tray = t
	}
	return t
}

// drop wipes the bytes of one Secret.
func (s *session) drop(b *buffer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(b.data)
	b.handed.data()[b.at] = nil
}

// dropAll wipes the bytes of Secrets that nobody can use any more.
func (s *session) dropAll(h *handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.wipe()
	delete(s.handed, h)
}
