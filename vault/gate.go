package vault

import (
	"sync"
	"sync/atomic"
)

// A gate counts uses of something that can be taken away. The zero gate is open.
// It is small: each Secret has one.
type gate struct {
	word atomic.Int64            // twice the uses, and gateClosed
	wait atomic.Pointer[waiting] // made by the first close that has to wait
}

// A waiting is what closes wait for.
type waiting struct {
	once sync.Once
	idle chan struct{} // closed when no use is under way
}

const (
	gateClosed = 1
	gateUse    = 2
)

// enter begins a use, which ends with leave. It reports whether the gate is open.
func (g *gate) enter() bool {
	if g.word.Add(gateUse)&gateClosed == 0 {
		return true
	}
	g.leave()
	return false
}

// leave ends a use. After a close an enter that fails is one for a moment, so
// there may be several last ones.
func (g *gate) leave() {
	if g.word.Add(-gateUse) != gateClosed {
		return
	}
	if w := g.wait.Load(); w != nil {
		w.once.Do(func() { close(w.idle) })
	}
}

// close refuses new uses and returns when none is under way. Every call waits.
func (g *gate) close() {
	if g.word.Or(gateClosed)&^gateClosed == 0 {
		return
	}
	g.wait.CompareAndSwap(nil, &waiting{idle: make(chan struct{})})
	w := g.wait.Load()
	if g.word.Load() != gateClosed { // a last leave from here on finds w
		<-w.idle
	}
}

// state says whether close was called and whether a use is under way.
func (g *gate) state() (closing, busy bool) {
	word := g.word.Load()
	return word&gateClosed != 0, word >= gateUse
}
