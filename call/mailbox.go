package call

import (
	"context"
	"encoding/binary"
	"sync"
)

// A mailbox holds what arrived for one end of a call until it is read. Items
// lie one behind the other in one buffer, which the reader takes as a whole: a
// burst costs one lock and no allocation.
type mailbox struct {
	mu   sync.Mutex
	in   []byte // guarded by mu; records that arrived
	end  error  // guarded by mu; what follows them: io.EOF or an *Error
	done bool   // guarded by mu; end is set, or nobody reads any more
	wake chan struct{}

	out  []byte // the reader's: records being read
	off  int    // the reader's
	last item   // the reader's
}

// An item is one input or output.
type item struct {
	data  []byte
	raw   bool
	seq   uint64
	token []byte
	frame int // bytes of its frame's body, for credit
}

// A record is a header, the token and the data.
const recordHeader = 1 + 2 + 4 + 4 + 8

const recordRaw = 1 // flag

func newMailbox() mailbox { return mailbox{wake: make(chan struct{}, 1)} }

// reset makes a mailbox whose last reader and writer are done ready for use.
func (m *mailbox) reset() {
	if cap(m.in) > maxPooledBytes {
		m.in = nil
	}
	if cap(m.out) > maxPooledBytes {
		m.out = nil
	}
	m.in, m.out, m.off, m.last = m.in[:0], m.out[:0], 0, item{}
	m.end, m.done = nil, false
	select {
	case <-m.wake:
	default:
	}
}

// put adds an item, unless the mailbox has ended. It returns the bytes that are held.
func (m *mailbox) put(it item) (held int) {
	m.mu.Lock()
	if m.done {
		m.mu.Unlock()
		return 0
	}
	m.in = appendRecord(m.in, it)
	held = len(m.in)
	m.mu.Unlock()
	m.signal()
	return held
}

// finish adds the end, once. It reports whether it did.
func (m *mailbox) finish(err error) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	if m.done {
		m.mu.Unlock()
		return false
	}
	m.done, m.end = true, err
	m.mu.Unlock()
	m.signal()
	return true
}

// putLast is put and finish at once.
func (m *mailbox) putLast(it item, end error) {
	m.mu.Lock()
	if !m.done {
		m.in = appendRecord(m.in, it)
		m.done, m.end = true, end
	}
	m.mu.Unlock()
	m.signal()
}

// discard drops what waits and everything to come. end is what a reader gets.
func (m *mailbox) discard(end error) {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.in, m.done = nil, true
	if m.end == nil {
		m.end = end
	}
	m.mu.Unlock()
	m.signal()
}

func (m *mailbox) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func appendRecord(b []byte, it item) []byte {
	var h [recordHeader]byte
	if it.raw {
		h[0] = recordRaw
	}
	binary.BigEndian.PutUint16(h[1:], uint16(len(it.token)))
	binary.BigEndian.PutUint32(h[3:], uint32(len(it.data)))
	binary.BigEndian.PutUint32(h[7:], uint32(it.frame))
	binary.BigEndian.PutUint64(h[11:], it.seq)
	b = append(append(b, h[:]...), it.token...)
	return append(b, it.data...)
}

// next returns the next item, valid until the next call, or the end. ctx's end
// ends the waiting, not the mailbox.
func (m *mailbox) next(ctx context.Context) (item, error) {
	if m.off < len(m.out) {
		return m.take(), nil
	}
	for {
		m.mu.Lock()
		if len(m.in) > 0 {
			m.in, m.out = m.out[:0], m.in
			if cap(m.in) > keptBuffer {
				m.in = nil
			}
			m.mu.Unlock()
			m.off = 0
			return m.take(), nil
		}
		if m.end != nil {
			defer m.mu.Unlock()
			return item{}, m.end
		}
		m.mu.Unlock()
		if err := m.wait(ctx); err != nil {
			return item{}, err
		}
	}
}

// wait waits until something may have arrived, or ctx has ended.
func (m *mailbox) wait(ctx context.Context) error {
	done := ctx.Done()
	if done == nil { // one channel is cheaper to wait for than two
		<-m.wake
		return nil
	}
	select {
	case <-m.wake:
		return nil
	case <-done:
		return ctx.Err()
	}
}

// take cuts the next record off.
func (m *mailbox) take() item {
	b := m.out[m.off:]
	token := int(binary.BigEndian.Uint16(b[1:]))
	size := int(binary.BigEndian.Uint32(b[3:]))
	it := item{raw: b[0]&recordRaw != 0, frame: int(binary.BigEndian.Uint32(b[7:])), seq: binary.BigEndian.Uint64(b[11:])}
	it.token = b[recordHeader : recordHeader+token]
	end := recordHeader + token + size
	it.data = b[recordHeader+token : end : end]
	m.off += end
	m.last = item{seq: it.seq, token: it.token}
	return it
}
