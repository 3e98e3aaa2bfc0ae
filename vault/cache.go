package vault

import (
	"sync"
	"time"
)

// A cacheKey is what a derived key goes by: the same place in another form is
// another key. It is one number, which a map finds sooner than several.
type cacheKey uint64

func cacheKeyOf(at place, f form) cacheKey {
	return cacheKey(f)<<40 | cacheKey(at.branch)<<32 | cacheKey(at.n)
}

// An entry is a key in the page.
type entry struct {
	slot    int
	size    int
	used    uint64 // the cache's clock at the last use
	expires time.Time
}

// A cache holds derived keys in the slots of a page. The least recently used
// one gives way; each is wiped by a timer when its time is over.
type cache struct {
	ttl  time.Duration // negative: nothing is kept
	page *page

	mu      sync.Mutex
	entries map[cacheKey]*entry // guarded by mu
	free    []int               // slots; guarded by mu
	clock   uint64              // counts uses; guarded by mu
	timer   *time.Timer         // runs while entries is not empty; guarded by mu
	closed  bool                // guarded by mu
}

func newCache(p *page, ttl time.Duration) *cache {
	c := &cache{ttl: ttl, page: p, entries: make(map[cacheKey]*entry)}
	for i := range slots {
		c.free = append(c.free, i)
	}
	return c
}

// get copies a key to out and returns its length, 0 if it is not here.
func (c *cache) get(k cacheKey, out *[64]byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil || c.closed {
		return 0
	}
	c.clock++
	e.used = c.clock
	return copy(out[:], c.page.slot(e.slot)[:e.size])
}

// put keeps a copy of key until its time is over.
func (c *cache) put(k cacheKey, key []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.ttl < 0 || c.entries[k] != nil {
		return
	}
	if len(c.free) == 0 {
		c.evictLocked()
	}
	slot := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	copy(c.page.slot(slot), key)
	c.clock++
	c.entries[k] = &entry{slot: slot, size: len(key), used: c.clock, expires: time.Now().Add(c.ttl)}
	if c.timer == nil {
		c.timer = time.AfterFunc(c.ttl, c.expire)
	}
}

// evictLocked makes room for one.
func (c *cache) evictLocked() {
	var oldest cacheKey
	var found *entry
	for k, e := range c.entries {
		if found == nil || e.used < found.used {
			oldest, found = k, e
		}
	}
	c.removeLocked(oldest, found)
}

func (c *cache) removeLocked(k cacheKey, e *entry) {
	clear(c.page.slot(e.slot))
	c.free = append(c.free, e.slot)
	delete(c.entries, k)
}

// expire wipes what is over, and comes back for the next.
func (c *cache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	now := time.Now()
	next := time.Duration(-1)
	for k, e := range c.entries {
		left := e.expires.Sub(now)
		if left <= 0 {
			c.removeLocked(k, e)
		} else if next < 0 || left < next {
			next = left
		}
	}
	if next < 0 {
		c.timer = nil
		return
	}
	c.timer.Reset(next)
}

// close forgets all keys. The page is wiped by whoever owns it.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	clear(c.entries)
	if c.timer != nil {
		c.timer.Stop()
	}
}
