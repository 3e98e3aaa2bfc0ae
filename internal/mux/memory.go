package mux

import (
	"errors"
	"sync"

	"github.com/libp2p/go-yamux/v5"
)

// memoryManager makes a yamux memory manager of a budget.
func memoryManager(m Memory) func() (yamux.MemoryManager, error) {
	return func() (yamux.MemoryManager, error) { return &span{memory: m}, nil }
}

// A span is what one stream has reserved.
type span struct {
	memory Memory // may be nil
	mu     sync.Mutex
	used   int64 // guarded by mu
}

// firstWindow is the priority with which yamux reserves a stream's first window.
const firstWindow = 255

// errFixed keeps a window as it is. It never leaves yamux.
var errFixed = errors.New("mux: windows do not grow")

// ReserveMemory reserves a stream's window and refuses every growth: go-yamux
// 5.1.0 forgets to announce the credit that was due at the moment in which it
// grows a window, so that after some growth sender and receiver wait for each
// other for ever.
func (s *span) ReserveMemory(size int, prio uint8) error {
	if prio != firstWindow {
		return errFixed
	}
	if s.memory == nil {
		return nil
	}
	if err := s.memory.Reserve(int64(size)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += int64(size)
	return nil
}

// ReleaseMemory is part of yamux's interface; yamux releases by Done alone.
func (s *span) ReleaseMemory(int) {}

// Done gives everything back.
func (s *span) Done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory != nil {
		s.memory.Release(s.used)
	}
	s.used = 0
}

var _ yamux.MemoryManager = (*span)(nil)
