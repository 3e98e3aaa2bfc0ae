package call

import (
	"container/heap"
	"time"
)

// A due is a call that ends at a time of its link's clock.
type due struct {
	at    time.Duration
	index int    // in the heap, from 1; 0: not in it
	fire  expiry // called without the link's lock
}

// An expiry is a call whose time can be up.
type expiry interface {
	// claimLocked reports whether the call is still to be ended; whatever becomes
	// of its object after the link's lock is released, that was this call.
	claimLocked() bool
	// expire ends it, without the lock.
	expire()
}

// deadlines are the calls of a link by their time, one timer for all of them: a
// call that ends in time, as nearly all do, moves no timer.
type deadlines []*due

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i+1, j+1
}

// Push is for package heap.
func (d *deadlines) Push(x any) {
	e := x.(*due)
	*d = append(*d, e)
	e.index = len(*d)
}

// Pop is for package heap.
func (d *deadlines) Pop() any {
	old := *d
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	e.index = 0
	return e
}

// scheduleLocked has e expire at a time of the link's clock.
func (l *link) scheduleLocked(e *due, at time.Duration) {
	e.at = at
	if e.index > 0 {
		heap.Fix(&l.due, e.index-1)
	} else {
		heap.Push(&l.due, e)
	}
	l.armLocked()
}

// armLocked sees to it that the timer fires when the first call expires. A timer
// that fires too early finds nothing and is set again.
func (l *link) armLocked() {
	if len(l.due) == 0 || l.err != nil {
		return
	}
	at := l.due[0].at
	if l.armed != 0 && l.armed <= at {
		return
	}
	l.armed = max(at, 1)
	wait := max(at-l.since(), 0)
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.expireDue)
	} else {
		l.timer.Reset(wait)
	}
}

// unscheduleLocked forgets e.
func (l *link) unscheduleLocked(e *due) {
	if e.index > 0 {
		heap.Remove(&l.due, e.index-1)
	}
}

// expireDue ends the calls whose time has come.
func (l *link) expireDue() {
	var over []expiry
	l.mu.Lock()
	l.armed = 0
	now := l.since()
	for len(l.due) > 0 && l.due[0].at <= now {
		if e := heap.Pop(&l.due).(*due).fire; e.claimLocked() {
			over = append(over, e)
		}
	}
	l.armLocked()
	l.mu.Unlock()
	for _, e := range over {
		e.expire()
	}
}
