package vault

import "sync"

// A gate counts uses of something that can be taken away. The zero gate is open.
type gate struct {
	mu     sync.Mutex
	uses   int32         // guarded by mu
	closed bool          // guarded by mu
	idle   chan struct{} // guarded by mu; made by a close that has to wait, closed when uses is 0
}

// enter begins a use, which ends with leave. It reports whether the gate is open.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.uses++
	return true
}

// leave ends a use.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.uses--
	if g.closed && g.uses == 0 && g.idle != nil {
		close(g.idle)
	}
}

// close refuses new uses and returns when none is under way. Every call waits.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	if g.uses == 0 {
		g.mu.Unlock()
		return
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	<-idle
}

// state says whether close was called and whether a use is under way.
func (g *gate) state() (closing, busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed, g.uses > 0
}
