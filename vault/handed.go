package vault

import "runtime"

// A tray is room for Secrets that are handed out together: they share the cost
// of being watched. When no program holds one of them any more, the garbage
// collector says so, and the room is wiped. One that is kept keeps the others'.
type tray struct {
	buffers []buffer
	used    int
	room    []byte // what is free of it
	handed  *handed
}

// Handed is the bytes of a tray. It does not lead to the tray, so that the
// session, which wipes at its end, does not keep that from being collected.
type handed struct {
	bytes func() []byte // a function so that the bytes are not reachable by reflection
}

// The kinds of trays: of short Secrets, and of longer ones. Still longer ones are
// alone.
var trays = [...]struct{ most, buffers, room int }{
	{most: 128, buffers: 64, room: 4 << 10},
	{most: 4096, buffers: 16, room: 64 << 10},
}

// reserve gives a buffer with room for n bytes, which hand makes a Secret of.
// The caller is within the gate.
func (s *session) reserve(n int) *buffer {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := 0
	for kind < len(trays) && n > trays[kind].most {
		kind++
	}
	if kind == len(trays) {
		return s.newTrayLocked(1, n).take(s, n)
	}
	t := s.trays()[kind]
	if t == nil || t.used == len(t.buffers) || len(t.room) < n {
		t = s.newTrayLocked(trays[kind].buffers, trays[kind].room)
		s.trays()[kind] = t
	}
	return t.take(s, n)
}

// newTrayLocked makes a tray that the session wipes at its end.
func (s *session) newTrayLocked(buffers, room int) *tray {
	bytes := make([]byte, room)
	t := &tray{buffers: make([]buffer, buffers), room: bytes, handed: &handed{bytes: func() []byte { return bytes }}}
	s.handed[t.handed] = struct{}{}
	// The buffers are what programs hold; the tray itself may go before them.
	runtime.AddCleanup(&t.buffers[0], s.drop, t.handed)
	return t
}

// take gives the next buffer, empty, with room for n bytes.
func (t *tray) take(s *session, n int) *buffer {
	b := &t.buffers[t.used]
	t.used++
	b.owner, b.data, t.room = s, t.room[:0:n], t.room[n:]
	return b
}

// hand makes a Secret of a copy of data, which is wiped. The caller is within
// the gate.
func (s *session) hand(data []byte) Secret {
	b := s.reserve(len(data))
	b.data = append(b.data, data...)
	clear(data)
	return newBuffer(b)
}

// drop wipes the bytes of Secrets that nobody can use any more.
func (s *session) drop(h *handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(h.bytes())
	delete(s.handed, h)
}
