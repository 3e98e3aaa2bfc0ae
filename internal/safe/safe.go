// Package safe starts goroutines that have an owner: it waits for them, and
// hears of their panics instead of the process dying of them.
package safe

import (
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// A PanicError is a panic that was recovered. Its text says nothing of the
// value, which may hold a secret or a peer's bytes: only the log prints that.
type PanicError struct {
	Value any    // what was passed to panic
	Stack []byte // of the goroutine that panicked
}

// Error never holds Value or Stack.
func (e *PanicError) Error() string { return "internal error: a panic was recovered" }

// errGoexit is a goroutine that ended by runtime.Goexit, as a failing test does.
var errGoexit = errors.New("internal error: a goroutine exited early")

var panics atomic.Int64

// Panics is how many panics were recovered since the process started.
func Panics() int64 { return panics.Load() }

// Go runs f in a goroutine that wg counts. A panic in f is counted and becomes
// fail(*PanicError), called in that goroutine before wg is released; so does an
// early runtime.Goexit. fail must not panic.
func Go(wg *sync.WaitGroup, fail func(error), f func()) {
	wg.Add(1)
	go func() {
		defer wg.Done()
		returned := false
		defer func() {
			if v := recover(); v != nil {
				panics.Add(1)
				fail(&PanicError{Value: v, Stack: debug.Stack()})
			} else if !returned {
				fail(errGoexit)
			}
		}()
		f()
		returned = true
	}()
}
