package vault

import "runtime"

// A tray is a number of Secrets that are handed out together: they share the cost
// of being watched. When no program holds one of them any more, the garbage
// collector says so, and their bytes are wiped.
type tray struct {
	buffers []buffer
	used    int
	room    []byte // what is free of the bytes that short Secrets share; nil: each has its own
	handed  *handed
}

// Handed is the bytes of a tray. It does not lead to the tray, so that the
// session, which wipes at its end, does not keep that from being collected.
type handed struct {
	bytes func() [][]byte // a function so that the bytes are not reachable by reflection
}

// wipe clears the bytes. The caller has the session's lock.
func (h *handed) wipe() {
	for _, b := range h.bytes() {
		clear(b)
	}
}

// The kinds of trays: of short Secrets, whose bytes are one piece, so that none of
// them is allocated alone; of longer ones; and of the longest, which are alone so
// that one that is kept keeps nothing else.
var trays = [...]struct{ most, buffers, room int }{
	{most: 128, buffers: 128, room: 8 << 10},
	{most: 16 << 10, buffers: 16},
	{most: maxDataBytes, buffers: 1},
}

// reserve gives a buffer with room for n bytes, which hand makes a Secret of.
// The caller is within the gate.
func (s *session) reserve(n int) *buffer {
	kind := 0
	for n > trays[kind].most {
		kind++
	}
	var own []byte
	if trays[kind].room == 0 {
		own = make([]byte, n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.trays()
	t := current[kind]
	if t == nil || len(t.room) < n && own == nil {
		t = s.newTrayLocked(trays[kind].buffers, trays[kind].room)
		current[kind] = t
	}
	b := &t.buffers[t.used]
	b.owner = s
	if own == nil {
		b.data, t.room = t.room[:0:n], t.room[n:]
	} else {
		b.own = &t.handed.bytes()[t.used]
		b.data, *b.own = own[:0], own
	}
	t.used++
	if t.used == len(t.buffers) {
		current[kind] = nil // the programs' alone, so that the collector sees when it is over
	}
	return b
}

// newTrayLocked makes a tray that the session wipes at its end.
func (s *session) newTrayLocked(buffers, room int) *tray {
	t := &tray{buffers: make([]buffer, buffers)}
	var bytes [][]byte
	if room > 0 {
		t.room = make([]byte, room)
		bytes = [][]byte{t.room}
	} else {
		bytes = make([][]byte, buffers)
	}
	t.handed = &handed{bytes: func() [][]byte { return bytes }}
	s.handed[t.handed] = struct{}{}
	// The buffers are what programs hold; the tray itself may go before them.
	runtime.AddCleanup(&t.buffers[0], s.drop, t.handed)
	return t
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
	h.wipe()
	delete(s.handed, h)
}
