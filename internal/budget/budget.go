// Package budget counts the memory that peers make us hold, so that it is
// refused before it is spent: a budget for each connection, below one for all
// of them.
package budget

import (
	"fmt"
	"sync/atomic"
)

// A Budget is a number of bytes of which parts are reserved and released. All
// methods may be called concurrently; they take no lock, allocate nothing and
// cost one atomic operation for the Budget and one for each parent.
type Budget struct {
	setting string
	max     int64
	parent  *Budget
	used    atomic.Int64 // from 0 to max
}

// A LimitError is a reservation that did not fit.
type LimitError struct {
	Setting string // what to raise: "limits.conn_bytes"
	Max     int64  // its value, in bytes
}

// Error names the setting and its value.
func (e *LimitError) Error() string { return fmt.Sprintf("limit reached: %s = %d", e.Setting, e.Max) }

// New makes a Budget of maxBytes; a negative number is none at all. What is
// reserved from it is reserved from parent too, unless that is nil. setting is
// what the error names. "No limit" is a Budget of [math.MaxInt64].
func New(setting string, maxBytes int64, parent *Budget) *Budget {
	return &Budget{setting: setting, max: max(maxBytes, 0), parent: parent}
}

// Reserve takes n bytes, here and from every parent, or none at all and returns
// a *LimitError of the first that has not got them. It never waits. While one
// reservation is being refused by a parent, another may find less here than
// there will be: a refusal is of this moment. A negative n is a bug of the
// caller's and panics.
func (b *Budget) Reserve(n int64) error {
	if n < 0 {
		panic("budget: a negative reservation")
	}
	for at := b; at != nil; at = at.parent {
		if !at.take(n) {
			b.giveBack(n, at)
			return &LimitError{Setting: at.setting, Max: at.max}
		}
	}
	return nil
}

// take reserves n bytes of b alone, if it has them.
func (b *Budget) take(n int64) bool {
	for {
		used := b.used.Load()
		if n > b.max-used {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// giveBack releases n bytes of b and its parents, up to but without end.
func (b *Budget) giveBack(n int64, end *Budget) {
	for at := b; at != end; at = at.parent {
		if at.used.Add(-n) < 0 {
			at.used.Add(n) // what others hold still counts
			panic("budget: " + at.setting + ": released more than was reserved")
		}
	}
}

// Release gives n bytes back, here and to every parent. Giving back a negative
// number or more than was taken is a bug of the caller's: it panics, and the
// bytes stay reserved.
func (b *Budget) Release(n int64) {
	if n < 0 {
		panic("budget: a negative release")
	}
	b.giveBack(n, nil)
}

// Used is what is reserved now, in bytes.
func (b *Budget) Used() int64 { return b.used.Load() }
