// Package budget counts the memory that peers make us hold, so that it is
// refused before it is spent.
package budget

import (
	"fmt"
	"sync/atomic"
)

// A Budget is a number of bytes of which parts are reserved and released. All
// methods may be called concurrently and take no lock.
type Budget struct {
	setting string
	max     int64
	parent  *Budget
	used    atomic.Int64
}

// A LimitError is a reservation that did not fit.
type LimitError struct {
	Setting string // what to raise: "limits.conn_bytes"
	Max     int64  // its value, in bytes
}

// Error names the setting and its value.
func (e *LimitError) Error() string { return fmt.Sprintf("limit reached: %s = %d", e.Setting, e.Max) }

// New makes a Budget of maxBytes, which may not be negative. What is reserved
// from it is reserved from parent too, unless that is nil. setting is what the
// error names.
func New(setting string, maxBytes int64, parent *Budget) *Budget {
	return &Budget{setting: setting, max: max(maxBytes, 0), parent: parent}
}

// Reserve takes n bytes, here and from every parent, or none and returns a
// *LimitError of the first that has not got them. A negative n is refused by a panic.
func (b *Budget) Reserve(n int64) error {
	if n < 0 {
		panic("budget: negative reservation")
	}
	for {
		used := b.used.Load()
		if n > b.max-used {
			return &LimitError{Setting: b.setting, Max: b.max}
		}
		if b.used.CompareAndSwap(used, used+n) {
			break
		}
	}
	if b.parent == nil {
		return nil
	}
	if err := b.parent.Reserve(n); err != nil {
		b.used.Add(-n)
		return err
	}
	return nil
}

// Release gives n bytes back. Giving back more than was taken is a bug of the
// caller's and panics.
func (b *Budget) Release(n int64) {
	if n < 0 || b.used.Add(-n) < 0 {
		panic("budget: released more than was reserved")
	}
	if b.parent != nil {
		b.parent.Release(n)
	}
}

// Used is what is reserved now, in bytes.
func (b *Budget) Used() int64 { return b.used.Load() }
