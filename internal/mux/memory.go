package mux

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-yamux/v5"
)

// memoryManager makes a yamux memory manager of a budget.
func memoryManager(c Config) func() (yamux.MemoryManager, error) {
	if c.Memory == nil && c.MaxBytes <= 0 {
		return nil
	}
	g := &growth{memory: c.Memory, max: c.MaxBytes / 4, unlimited: c.MaxBytes <= 0}
	return func() (yamux.MemoryManager, error) { return &span{growth: g}, nil }
}

// A growth is what the windows of a session's streams have grown, in bytes.
type growth struct {
	memory    Memory // may be nil
	max       int64
	unlimited bool
	used      atomic.Int64
}

// errWindow keeps a window as it is. It never leaves yamux.
var errWindow = errors.New("mux: window at its limit")

func (g *growth) take(n int64, grows bool) error {
	if grows && g.used.Add(n) > g.max && !g.unlimited {
		g.used.Add(-n)
		return errWindow
	}
	if g.memory == nil {
		return nil
	}
	err := g.memory.Reserve(n)
	if err != nil && grows {
		g.used.Add(-n)
	}
	return err
}

// A span is what one stream has reserved.
type span struct {
	growth *growth
	mu     sync.Mutex
	base   int64 // guarded by mu
	grown  int64 // guarded by mu
}

// firstWindow is the priority with which yamux reserves a stream's first window.
const firstWindow = 255

// ReserveMemory reserves a stream's window, or its growth.
func (s *span) ReserveMemory(size int, prio uint8) error {
	grows := prio != firstWindow
	if err := s.growth.take(int64(size), grows); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if grows {
		s.grown += int64(size)
	} else {
		s.base += int64(size)
	}
	return nil
}

// ReleaseMemory is part of yamux's interface; yamux releases by Done alone.
func (s *span) ReleaseMemory(int) {}

// Done gives everything back.
func (s *span) Done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.growth.used.Add(-s.grown)
	if s.growth.memory != nil {
		s.growth.memory.Release(s.base + s.grown)
	}
	s.base, s.grown = 0, 0
}

var _ yamux.MemoryManager = (*span)(nil)
