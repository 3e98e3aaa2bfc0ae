package vault

import (
	"sync"
	"sync/atomic"
	"time"
)

// A session is one unlocked time of a vault, from Unlock to Lock. What is
// handed out belongs to the session and ends with it: a later Unlock does not
// bring it back.
type session struct {
	gate  gate // open while unlocked; each use of a key is a use of the gate
	page  *page
	cache *cache
	event func(kind, subject string, err error) // of the vault; nil: nobody listens
	over  sync.Once                             // wipes
	works sync.Pool                             // of *work, wiped

	lastUse  atomic.Int64 // nanoseconds since began; read by the AutoLock timer
	began    time.Time
	autoLock time.Duration // 0: never
	timer    *time.Timer   // set before the session is shared

	mu     sync.Mutex
	handed map[*handed]struct{} // bytes of Secrets that are in use; guarded by mu
	trays  func() []*tray       // of the next Secrets, by kind; guarded by mu; a function as printers follow pointers
}

// newSession copies a seed to a page of its own.
func newSession(seed *[seedBytes]byte, ttl time.Duration) *session {
	p := newPage()
	copy(p.seed(), seed[:])
	var root [nodeBytes]byte
	defer clear(root[:])
	guarded(func() { derive(seed[:], nil, &root) })
	copy(p.root(), root[:])
	current := make([]*tray, len(trays))
	return &session{
		page: p, cache: newCache(p, ttl), began: time.Now(),
		handed: make(map[*handed]struct{}), trays: func() []*tray { return current },
	}
}

// lockAfter has lock called after a time d without use. It is called before s is shared.
func (s *session) lockAfter(d time.Duration, lock func()) {
	if d <= 0 {
		return
	}
	s.autoLock = d
	ready := make(chan struct{})
	s.timer = time.AfterFunc(d, func() {
		<-ready // s.timer is set
		if left := s.unusedFor(d); left > 0 {
			s.timer.Reset(left)
			return
		}
		lock()
	})
	close(ready)
}

// unusedFor returns how long it takes until s has not been used for d.
func (s *session) unusedFor(d time.Duration) time.Duration {
	if closing, busy := s.gate.state(); busy && !closing {
		return d
	}
	return d - (time.Since(s.began) - time.Duration(s.lastUse.Load()))
}

// enter begins a use, which ends with leave. It is false after the end.
func (s *session) enter() bool {
	s.touch()
	return s.gate.enter()
}

// leave ends a use.
func (s *session) leave() {
	s.touch()
	s.gate.leave()
}

// touch restarts AutoLock.
func (s *session) touch() {
	if s.autoLock > 0 {
		s.lastUse.Store(int64(time.Since(s.began)))
	}
}

// tell reports an event, if anybody listens.
func (s *session) tell(kind, subject string, err error) {
	if s.event != nil {
		s.event(kind, subject, err)
	}
}

// end waits for uses under way and wipes everything. Every call waits.
func (s *session) end() {
	s.gate.close()
	s.over.Do(func() {
		if s.timer != nil {
			s.timer.Stop()
		}
		s.cache.close()
		s.page.free()
		s.mu.Lock()
		defer s.mu.Unlock()
		for h := range s.handed {
			h.wipe()
		}
		clear(s.handed)
		clear(s.trays())
	})
}

// with calls use with the key at a place, as a use of s. The key is a copy that
// is wiped after use; use must not keep it.
func (s *session) with(at place, f form, use func(key []byte) error) error {
	if !s.enter() {
		return ErrLocked
	}
	defer s.leave()
	return s.derived(at, f, use)
}

// A work is memory for the one operation of a key.
type work struct {
	key  [nodeBytes]byte // on the heap: crypto/ed25519 does not work with the page
	head [maxHeadBytes]byte
}

// begin gives the key at a place, in a work that goes back by finish. The caller
// is within the gate.
func (s *session) begin(at place, f form) (w *work, key []byte, err error) {
	w, _ = s.works.Get().(*work)
	if w == nil {
		w = new(work)
	}
	k := cacheKeyOf(at, f)
	n := s.cache.get(k, &w.key)
	if n == 0 {
		numbers, err := parsePath(at.String())
		if err != nil {
			s.finish(w)
			return nil, nil, err
		}
		copy(w.key[:], s.page.root())
		guarded(func() {
			descend(&w.key, numbers)
			n = f.as(&w.key)
		})
		s.cache.put(k, w.key[:n])
	}
	return w, w.key[:n], nil
}

// finish wipes the key.
func (s *session) finish(w *work) {
	clear(w.key[:])
	s.works.Put(w)
}

// derived is with for callers that are within the gate.
func (s *session) derived(at place, f form, use func(key []byte) error) error {
	w, key, err := s.begin(at, f)
	if err != nil {
		return err
	}
	defer s.finish(w)
	guarded(func() { err = use(key) })
	return err
}
