package vault

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Vault is a folder ([Create], [Open]) or in memory only ([New], [FromSeed],
// [Vault.Child]). It is locked or unlocked; what needs keys returns [ErrLocked]
// while it is locked. All methods may be called concurrently.
type Vault struct {
	opts    Options
	root    *os.Root // nil: in memory only
	release func()   // gives up the folder

	writing sync.Mutex // held during changes of the folder; before mu
	touched bool       // a change has begun to write files; guarded by writing

	session atomic.Pointer[session] // nil while locked; set under mu

	mu       sync.Mutex
	ending   []*session // those that are not wiped yet, as a use is under way; guarded by mu
	contents contents   // guarded by mu; replaced as a whole
	shown    bool       // the phrase was checked in this process; guarded by mu
	closed   bool       // guarded by mu
	holds    protection // of the last session's page, or of one like it; guarded by mu
}

// newVault makes a locked vault.
func newVault(o *Options) (*Vault, error) {
	v := &Vault{}
	if o != nil {
		v.opts = *o
	}
	if v.opts.CacheTTL == 0 {
		v.opts.CacheTTL = defaultCacheTTL
	}
	if v.opts.Now == nil {
		v.opts.Now = time.Now
	}
	if _, err := v.opts.scryptLog(); err != nil {
		return nil, err
	}
	p := newPage()
	defer p.free()
	v.holds = p.holds()
	v.warn(p)
	return v, nil
}

// warn tells of a page that is not protected as it should be. The caller holds no lock.
func (v *Vault) warn(p *page) {
	if p.problem != nil {
		v.tell(eventWarning, "memory", fmt.Errorf("vault: keys may be swapped out: %w", p.problem))
	}
}

// tell reports an event. The caller holds no lock.
func (v *Vault) tell(kind, subject string, err error) {
	if v.opts.Events != nil {
		v.opts.Events(Event{Time: v.opts.Now(), Kind: kind, Subject: subject, Err: err})
	}
}

// New makes a vault in memory, unlocked.
func New(p Phrase, passphrase Secret, o *Options) (*Vault, error) {
	var seed [seedBytes]byte
	defer clear(seed[:])
	if err := seedOf(p, passphrase, &seed); err != nil {
		return nil, err
	}
	return inMemory(&seed, o)
}

// FromSeed makes a vault in memory, unlocked, of what [Vault.ExportSeed] gave:
// a process that takes over from another has its keys before it has the folder.
func FromSeed(seed Secret, o *Options) (*Vault, error) {
	var v *Vault
	err := useSeed(seed, func(b *[seedBytes]byte) (err error) {
		v, err = inMemory(b, o)
		return err
	})
	return v, err
}

// useSeed calls f with a copy of a seed that is wiped after f.
func useSeed(seed Secret, f func(b *[seedBytes]byte) error) error {
	var b [seedBytes]byte
	defer clear(b[:])
	err := seed.Use(func(data []byte) error {
		if len(data) != len(b) {
			return fmt.Errorf("%w: a seed of %d bytes, not %d", ErrMalformed, len(data), len(b))
		}
		copy(b[:], data)
		return nil
	})
	if err != nil {
		return err
	}
	return f(&b)
}

func inMemory(seed *[seedBytes]byte, o *Options) (*Vault, error) {
	v, err := newVault(o)
	if err != nil {
		return nil, err
	}
	check := checkOf(seed[:])
	v.contents.state = v.freshState(check)
	if err := v.adopt(&opened{*seed, check, "memory"}, ErrWrongPhrase); err != nil {
		return nil, err
	}
	return v, nil
}

// freshState is the state of a vault that begins.
func (v *Vault) freshState(check string) state {
	return state{Check: check, KeyVersion: firstKeyVersion, Created: v.opts.Now().UTC().Truncate(time.Second)}
}

// Create makes a vault in a folder, which is made unless it is there without a
// vault. The vault is unlocked; [Vault.Seal] makes ways in without the phrase.
// Close it.
func Create(dir string, p Phrase, passphrase Secret, o *Options) (*Vault, error) {
	var seed [seedBytes]byte
	defer clear(seed[:])
	if err := seedOf(p, passphrase, &seed); err != nil {
		return nil, err
	}
	v, err := newVault(o)
	if err != nil {
		return nil, err
	}
	if err := v.create(dir, &seed); err != nil {
		return nil, err
	}
	return v, nil
}

// create makes the folder of v, which is new.
func (v *Vault) create(dir string, seed *[seedBytes]byte) error {
	if err := v.claim(dir, makeFolder); err != nil {
		return err
	}
	held, err := holdsVault(v.root)
	if err == nil && held {
		err = fmt.Errorf("%w: %s", ErrExists, dir)
	}
	check := checkOf(seed[:])
	if err == nil {
		s := newSession(seed, -1)
		defer s.end()
		st := v.freshState(check)
		err = st.write(v.root, s)
		v.contents.state = st
	}
	if err == nil {
		err = v.adopt(&opened{*seed, check, "new"}, ErrWrongPhrase)
	}
	if err != nil {
		return errors.Join(err, v.Close())
	}
	return nil
}

// claim opens a folder and takes its lock.
func (v *Vault) claim(dir string, open func(string) (*os.Root, error)) error {
	root, err := open(dir)
	if err != nil {
		return err
	}
	release, err := lockFolder(root)
	if err == nil {
		if err = removeTemps(root); err != nil {
			release()
		}
	}
	if err != nil {
		return errors.Join(err, root.Close())
	}
	v.root, v.release = root, release
	return nil
}

// Open opens the vault in a folder, locked. A folder without one is
// [ErrNotFound], one that is open elsewhere [ErrInUse]. Close it.
func Open(dir string, o *Options) (*Vault, error) {
	v, err := newVault(o)
	if err != nil {
		return nil, err
	}
	if err := v.claim(dir, openVault); err != nil {
		return nil, err
	}
	c, bad, err := readContents(v.root)
	if err == nil && !v.opts.Recover {
		err = bad
	}
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	v.contents = c
	return v, nil
}

// openVault is openFolder of a folder with a vault, so that nothing is made in
// another one.
func openVault(dir string) (*os.Root, error) {
	root, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	held, err := holdsVault(root)
	if err == nil && !held {
		err = fmt.Errorf("%w: no vault in %s", ErrNotFound, dir)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// UnlockPhrase unlocks with the phrase. Another one than this vault's, or another
// passphrase, is [ErrWrongPhrase].
func (v *Vault) UnlockPhrase(p Phrase, passphrase Secret) error {
	if err := v.lockedOnly(); err != nil {
		return err
	}
	found := &opened{way: "phrase"}
	defer clear(found.seed[:])
	err := v.openPhrase(p, passphrase, found)
	if err == nil {
		err = v.adopt(found, ErrWrongPhrase)
	}
	if err != nil {
		v.tell(eventUnlock, "phrase", err)
	}
	return err
}

// UnlockSeed unlocks with what [Vault.ExportSeed] gave. The seed of another vault
// is [ErrWrongPhrase].
func (v *Vault) UnlockSeed(seed Secret) error {
	err := useSeed(seed, func(b *[seedBytes]byte) error {
		found := &opened{*b, checkOf(b[:]), "seed"}
		defer clear(found.seed[:])
		if err := v.known(found.check); err != nil {
			return err
		}
		return v.adopt(found, ErrWrongPhrase)
	})
	if err != nil {
		v.tell(eventUnlock, "seed", err)
	}
	return err
}

// CheckPhrase says whether this is the phrase of the vault, locked or not, and
// changes nothing: a test of the copy on paper. If it is not, the error is a
// [*PhraseError] or [ErrWrongPhrase].
func (v *Vault) CheckPhrase(p Phrase, passphrase Secret) error {
	found := new(opened)
	defer clear(found.seed[:])
	return v.openPhrase(p, passphrase, found)
}

// openPhrase fills found if the phrase is this vault's.
func (v *Vault) openPhrase(p Phrase, passphrase Secret, found *opened) error {
	if err := seedOf(p, passphrase, &found.seed); err != nil {
		return err
	}
	found.check = checkOf(found.seed[:])
	if err := v.known(found.check); err != nil {
		return err
	}
	v.mu.Lock()
	v.shown = true
	v.mu.Unlock()
	return nil
}

// known compares a check value with vault.json's.
func (v *Vault) known(check string) error {
	v.mu.Lock()
	want := v.contents.state.Check
	v.mu.Unlock()
	if want == "" {
		return errLost
	}
	if !sameCheck(check, want) {
		return ErrWrongPhrase
	}
	return nil
}

// errLost is a vault whose vault.json is missing: nothing says which phrase is
// its own, and a slot is believed only with Options.Recover.
var errLost = fmt.Errorf("%w: %s, which says whose this is: Options.Recover takes a slot's word for it", ErrNotFound, stateName)

// sameCheck compares in constant time.
func sameCheck(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// lockedOnly refuses to unlock what is not locked, before any work is done.
func (v *Vault) lockedOnly() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return ErrLocked
	}
	if v.session.Load() != nil {
		return ErrUnlocked
	}
	return nil
}

// An opened is a seed and how it was come by.
type opened struct {
	seed  [seedBytes]byte
	check string // of seed
	way   string // for the event
}

// adopt begins a session with a seed, if the vault is its own: foreign is the
// error if it is not. It wipes the seed.
func (v *Vault) adopt(found *opened, foreign error) error {
	defer clear(found.seed[:])
	s, problem, err := v.begin(found, foreign)
	if err != nil {
		return err
	}
	v.warn(s.page)
	if problem != nil {
		v.tell(eventWarning, storeName, problem)
	}
	v.tell(eventUnlock, found.way, nil)
	return nil
}

// begin is adopt without its events. problem is what recovery had to put up with.
func (v *Vault) begin(found *opened, foreign error) (s *session, problem, err error) {
	v.writing.Lock()
	defer v.writing.Unlock()
	if err := v.lockedOnly(); err != nil {
		return nil, nil, err
	}
	s = newSession(&found.seed, v.opts.CacheTTL)
	c, problem, err := v.verified(s, found.check, foreign)
	if err != nil {
		s.end()
		return nil, nil, err
	}
	if v.opts.Events != nil {
		s.event = v.tell
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed { // writing does not keep Close away
		s.end()
		return nil, nil, ErrLocked
	}
	if s.page.holds() == v.holds {
		s.page.problem = nil // it was told
	}
	s.lockAfter(v.opts.AutoLock, func() { v.lock(s) })
	v.session.Store(s)
	v.contents, v.holds = c, s.page.holds()
	return s, problem, nil
}

// verified gives what a session may work with. The caller has writing.
func (v *Vault) verified(s *session, check string, foreign error) (c contents, problem, err error) {
	v.mu.Lock()
	c = v.contents
	v.mu.Unlock()
	if v.root != nil {
		lost := v.freshState(check)
		if c, problem, err = s.load(v.root, lost, v.opts.Recover); err != nil {
			return c, nil, err
		}
	}
	if !sameCheck(check, c.state.Check) {
		return c, nil, foreign
	}
	if v.root == nil || c.state.Version != 0 && problem == nil {
		return c, problem, nil
	}
	if c.state.Version == 0 {
		problem = errors.Join(problem, fmt.Errorf("vault: %s was lost: the rotation index of the identity is 0", stateName))
	}
	c.change = max(c.change, c.state.Change) + 1
	return c, problem, v.save(s, &c)
}

// Lock waits for uses of keys and secrets under way, wipes everything and makes
// every signer and Secret that was handed out fail. It does nothing while the
// vault is locked. It must not be called from a function given to [Secret.Use]
// with a Secret of this vault, which it would wait for.
func (v *Vault) Lock() { v.lock(nil) }

// lock ends the session, or only a certain one, and waits for those before it
// whose end still waits for a use.
func (v *Vault) lock(only *session) {
	v.mu.Lock()
	s := v.session.Load()
	if only != nil && s != only {
		v.mu.Unlock()
		return
	}
	if s != nil {
		v.session.Store(nil)
		v.ending = append(v.ending, s)
	}
	ending := slices.Clone(v.ending)
	v.mu.Unlock()
	for _, e := range slices.Backward(ending) { // the one without uses is not kept waiting
		e.end()
	}
	v.mu.Lock()
	v.ending = slices.DeleteFunc(v.ending, func(e *session) bool { return slices.Contains(ending, e) })
	v.mu.Unlock()
	if s != nil {
		v.tell(eventLock, "", nil)
	}
}

// Close locks and gives up the folder. After it the vault cannot be unlocked.
// Later calls do nothing.
func (v *Vault) Close() error {
	v.mu.Lock()
	was := v.closed
	v.closed = true
	v.mu.Unlock()
	v.Lock()
	if was || v.root == nil {
		return nil
	}
	v.writing.Lock()
	defer v.writing.Unlock()
	v.release()
	return v.root.Close()
}

// current is the session, nil while locked.
func (v *Vault) current() *session { return v.session.Load() }

// use calls f within the session.
func (v *Vault) use(f func(s *session) error) error {
	s := v.current()
	if s == nil || !s.enter() {
		return ErrLocked
	}
	defer s.leave()
	return f(s)
}
