// Package safe starts goroutines that have an owner: somebody waits for them,
// and hears of their panics instead of the process dying of them.
//
//	safe.Go(&s.wg, s.fail, s.acceptLoop)
//	…
//	s.wg.Wait()
//
// What the runtime calls fatal still ends the process: concurrent use of a map,
// memory that is used up, a deadlock.
package safe

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// A PanicError is a panic that was recovered. No formatter and no encoder of
// text shows its fields, which may hold a secret or a peer's bytes: only the log
// reads them.
type PanicError struct {
	Value any    // what was passed to panic
	Stack []byte // of the goroutine that panicked, as [debug.Stack] has it
}

// Error is the same text for every panic: it never holds Value or Stack.
func (*PanicError) Error() string { return panicText }

// MarshalText is Error: encoding/json and the handlers of slog write it for a
// PanicError that is a part of a value.
func (PanicError) MarshalText() ([]byte, error) { return []byte(panicText), nil }

// Format prints Error for every verb, %#v and %d included, so that the fields
// do not show. An error that wraps this one prints its text the same way.
func (PanicError) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), panicText) // a State has nowhere to report it
}

// panicText is what everybody but the log sees of a panic.
const panicText = "internal error: a panic was recovered"

// errGoexit is a goroutine that ended by runtime.Goexit, as a failing test does.
var errGoexit = errors.New("internal error: a goroutine exited early")

// panics counts what was recovered.
var panics atomic.Int64

// Panics is how many panics were recovered since the process started.
func Panics() int64 { return panics.Load() }

// Go runs f in a goroutine that wg counts. A panic in f is counted and becomes
// fail(*PanicError); an early [runtime.Goexit] becomes fail with another error.
// fail is called in the goroutine of f, before wg is released and never after f
// has returned. A panic in fail is counted and goes no further. Go panics in
// the caller if wg, fail or f is nil: a goroutine without an owner is a bug.
//
// As with [sync.WaitGroup.Add], the first of several calls must not race with
// a Wait.
func Go(wg *sync.WaitGroup, fail func(error), f func()) {
	if wg == nil || fail == nil || f == nil {
		panic("safe: Go needs a wait group, a fail and a function")
	}
	wg.Add(1)
	t := task{wg: wg, fail: fail}
	go func() {
		defer t.end()
		f()
		t.returned = true
	}()
}

// A task is what its goroutine's end needs to know. The goroutine itself holds
// little stack: many of them wait for days.
type task struct {
	wg       *sync.WaitGroup
	fail     func(error)
	returned bool
}

// end reports how a task ended if it did not return. The order of the deferred
// functions matters: wg is released last, also when fail panics or exits the
// goroutine.
func (t *task) end() {
	v := recover()
	defer t.wg.Done()
	defer func() {
		if recover() != nil { // from fail
			panics.Add(1)
		}
	}()
	if v != nil {
		panics.Add(1)
		t.fail(&PanicError{Value: v, Stack: debug.Stack()})
	} else if !t.returned {
		t.fail(errGoexit)
	}
}
