package vault

import (
	"runtime"

	"github.com/awnumar/memcall"
)

// The layout of a page: the seed, the root of the tree, then cached keys.
const (
	pageBytes = 8192
	seedBytes = 64
	slotBytes = 64
	slots     = 64
	slotsAt   = seedBytes + nodeBytes
)

// A page is the memory of a vault's seed and cached keys. It lies outside the
// Go heap, where the garbage collector copies nothing, and is kept from swap
// and core dumps where the system allows. crypto/ed25519 must never see it: a
// key outside the heap ends the process there.
type page struct {
	bytes         func() []byte // a function so that printers do not reach the memory
	mlock, noDump bool          // what holds
	mapped        bool          // the memory is from memcall
	problem       error         // why mlock or mapped is false
}

// newPage always gives a usable page.
func newPage() *page {
	p := &page{}
	b, err := memcall.Alloc(pageBytes)
	if err != nil {
		p.problem = err
		b = make([]byte, pageBytes)
	} else {
		p.mapped = true
		p.problem = memcall.Lock(b) // sets no-dump too, which has no reason to fail
		p.mlock = p.problem == nil
		p.noDump = runtime.GOOS == "linux" || runtime.GOOS == "freebsd"
	}
	p.bytes = func() []byte { return b }
	return p
}

// A protection is what the system does for a page.
type protection struct{ mlock, noDump bool }

func (p *page) holds() protection { return protection{p.mlock, p.noDump} }

func (p *page) seed() []byte      { return p.bytes()[:seedBytes] }
func (p *page) root() []byte      { return p.bytes()[seedBytes:slotsAt] }
func (p *page) slot(i int) []byte { return p.bytes()[slotsAt+i*slotBytes:][:slotBytes] }
func (p *page) wipe()             { clear(p.bytes()) }

// free gives the memory back. The page must not be used any more.
func (p *page) free() {
	p.wipe()
	if !p.mapped {
		return
	}
	b := p.bytes()
	p.bytes = nil // a use from here on is a panic, not a fault
	if p.mlock {
		_ = memcall.Unlock(b) // unmapping unlocks too
	}
	_ = memcall.Free(b) // fails only for memory that is not ours
}
