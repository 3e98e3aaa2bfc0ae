package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/safe"
)

// A Peer is an entry of a [Book].
type Peer struct {
	// ID is the stable name: up to 63 of a-z, 0-9, ".", "_" and "-", the first of
	// them a letter or digit, and none of local, any, all, self, alk_….
	ID string
	// Name is what people call it.
	Name string
	// Keys may prove that it is this peer; several during a rotation.
	Keys []Key
	// Tokens may do so for single calls.
	Tokens []Token
	// Scopes are what it may do here.
	Scopes []string
	// Resources are what it may do it with: actions or ids by type.
	Resources map[string][]string
	// Labels are for choosing among peers, never for access.
	Labels map[string]string
	// Addrs are where it can be reached.
	Addrs []alknet.Addr
	// Import are globs of the operations that we take from it. Empty: nothing.
	Import []string
	// Export: our callers may use what we took.
	Export bool
	// Disabled: it is refused, with CodeRevoked.
	Disabled bool
	// RevokedBefore: delegations and tickets older than this are void.
	RevokedBefore time.Time
	// Note is for people.
	Note string
}

// A Key is a public key that proves who a peer is.
type Key struct {
	// ID is the key.
	ID alknet.PeerID
	// NotAfter is when it ends; zero: never.
	NotAfter time.Time

	successor alknet.PeerID // that a statement has named; zero: none
}

// A Token is a secret that proves who a peer is, as auth_token of a call.
type Token struct {
	// Hash is "sha256:" and the hexadecimal SHA-256 of the token, which has at
	// least 128 random bits.
	Hash string
	// Label is for people.
	Label string
	// NotAfter is when it ends; zero: never.
	NotAfter time.Time
}

// ended reports whether a time limit has passed.
func ended(notAfter, now time.Time) bool { return !notAfter.IsZero() && !now.Before(notAfter) }

// A Book is the list of known peers, in memory or in a file. It is the policy of
// a Router, the tokens of a Handler, the imports of a Graph, and a [Directory].
// All methods may be called concurrently.
type Book struct {
	// OnChange is called after the list changed, here or on disk; usually it
	// calls Router.Reauthenticate. It is to be set before the Book is used.
	OnChange func()

	path string
	dir  *os.Root // of path; nil: in memory
	file string   // its name in dir
	now  func() time.Time

	index atomic.Pointer[index]
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex // held while the list is changed
	seen  stamp      // guarded by mu; of the file that was read
	fired *index     // guarded by mu; what OnChange was last called for
}

// An index is a list of peers, and who has which key and token. It is never
// changed.
type index struct {
	peers  map[string]*Peer
	keys   map[alknet.PeerID]*Peer
	tokens map[string]*Peer // by hash, in hexadecimal
}

// pollEvery is how often the file is looked at: as seldom as half a second allows,
// since it wakes a process that may have nothing else to do.
const pollEvery = 450 * time.Millisecond

// untilPoll is how long it is until the next moment at which what idles looks whether
// there is something to do. All of a process look at the same moments: a wake-up costs
// more than the look.
func untilPoll(now time.Time) time.Duration {
	return pollEvery - time.Duration(now.UnixNano()%int64(pollEvery))
}

// OpenBook opens the list in a file, or an empty one in memory for path "". A
// missing file is an empty list. A file that is not right is an error that says
// where, and names the copy of the list before (path + ".bak"). Changes of the
// file are seen within half a second; one that is not right is not taken, and
// [Book.Reload] says why. The caller closes the Book.
func OpenBook(path string) (*Book, error) {
	b := &Book{path: path, now: time.Now}
	b.index.Store(&index{})
	if path == "" {
		return b, nil
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("peer: book %q: %w", path, err)
	}
	b.dir, b.file = dir, filepath.Base(path)
	b.mu.Lock()
	err = b.readLocked()
	b.fired = b.index.Load()
	b.mu.Unlock()
	if err != nil {
		return nil, errors.Join(b.withBackup(err), dir.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	safe.Go(&b.wg, func(error) {}, func() { b.poll(ctx) })
	return b, nil
}

// Close stops looking at the file.
func (b *Book) Close() error {
	if b.dir == nil {
		return nil
	}
	b.stop()
	b.wg.Wait()
	return b.dir.Close()
}

func (b *Book) poll(ctx context.Context) {
	t := time.NewTimer(untilPoll(time.Now()))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = b.reload(false) // Reload says what is wrong
			t.Reset(untilPoll(time.Now()))
		case <-ctx.Done():
			return
		}
	}
}

// Reload reads the file now. An error says what is wrong with it, also where
// that was found before, and the old list is kept. In memory it does nothing.
func (b *Book) Reload() error {
	if b.dir == nil {
		return nil
	}
	return b.reload(true)
}

func (b *Book) reload(always bool) error {
	b.mu.Lock()
	var err error
	if always || b.changedLocked() {
		err = b.readLocked()
	}
	changed := b.changedListLocked()
	b.mu.Unlock()
	if changed && b.OnChange != nil {
		b.OnChange()
	}
	return err
}

// changedListLocked reports, once, whether the list is another than at the last
// call of OnChange.
func (b *Book) changedListLocked() bool {
	now := b.index.Load()
	changed := now != b.fired
	b.fired = now
	return changed
}

// Update changes the list: f gets a copy as a map by id. If f returns nil and
// the result is right, it is on the disk and in force when Update returns;
// otherwise nothing changes. Updates of several processes come one after the
// other. f may be called again when the file changed meanwhile.
func (b *Book) Update(f func(peers map[string]Peer) error) error {
	b.mu.Lock()
	err := b.updateLocked(f)
	changed := b.changedListLocked()
	b.mu.Unlock()
	if changed && b.OnChange != nil {
		b.OnChange()
	}
	if err != nil {
		return fmt.Errorf("peer: update the book: %w", err)
	}
	return nil
}

func (b *Book) updateLocked(f func(peers map[string]Peer) error) error {
	if b.dir != nil {
		unlock, err := lockFile(b.dir, b.file+".lock")
		if err != nil {
			return err
		}
		defer unlock()
		if err := b.readLocked(); err != nil { // what another process wrote
			return b.withBackup(err)
		}
	}
	old := b.index.Load()
	peers := make(map[string]Peer, len(old.peers))
	for id, p := range old.peers {
		peers[id] = p.clone()
	}
	if err := f(peers); err != nil {
		return err
	}
	list := make([]Peer, 0, len(peers))
	for _, id := range slices.Sorted(maps.Keys(peers)) {
		p := peers[id]
		if p.ID != id {
			return fmt.Errorf("entry %q has the id %q", id, p.ID)
		}
		list = append(list, p.clone())
	}
	next, err := indexOf(list, nil)
	if err != nil {
		return err
	}
	if b.dir != nil {
		if err := b.writeLocked(list); err != nil {
			return err
		}
	}
	b.index.Store(next)
	return nil
}

// Get returns an entry.
func (b *Book) Get(id string) (Peer, bool) {
	p := b.index.Load().peers[id]
	if p == nil {
		return Peer{}, false
	}
	return p.clone(), true
}

// Peers are all entries, sorted by id.
func (b *Book) Peers() []Peer {
	ix := b.index.Load()
	list := make([]Peer, 0, len(ix.peers))
	for _, id := range slices.Sorted(maps.Keys(ix.peers)) {
		list = append(list, ix.peers[id].clone())
	}
	return list
}

// revoked is what a peer hears that was known.
func revoked(why string) error { return &alknet.Error{Code: alknet.CodeRevoked, Reason: why} }

// Authenticate is a Router's: who has the key that the handshake proved. A key
// that is not in the list is an Identity without an ID, which only services with
// AllowAnonymous take; one that is disabled or has ended is refused with
// CodeRevoked.
func (b *Book) Authenticate(_ context.Context, s tls.ConnectionState, _ string) (alknet.Identity, error) {
	if len(s.PeerCertificates) == 0 {
		return alknet.Identity{}, nil
	}
	pub, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return alknet.Identity{}, nil
	}
	return b.identify(alknet.PeerID(pub))
}

// identify says whose key it is.
func (b *Book) identify(key alknet.PeerID) (alknet.Identity, error) {
	p := b.index.Load().keys[key]
	if p == nil {
		return alknet.Identity{Peer: key}, nil
	}
	if p.Disabled {
		return alknet.Identity{}, revoked("disabled")
	}
	for _, k := range p.Keys {
		if k.ID == key && ended(k.NotAfter, b.now()) {
			return alknet.Identity{}, revoked("the key has ended")
		}
	}
	return p.identity(key), nil
}

func (p *Peer) identity(key alknet.PeerID) alknet.Identity {
	return alknet.Identity{ID: p.ID, Peer: key, Scopes: slices.Clone(p.Scopes), Resources: cloneResources(p.Resources)}
}

// errToken is every token that means nobody.
var errToken = errors.New("peer: no such token")

// Token is a Handler's Authenticate: whom an auth_token or a delegation means.
func (b *Book) Token(_ context.Context, conn alknet.Identity, token string) (alknet.Identity, error) {
	if strings.HasPrefix(token, delegationPrefix) {
		return b.delegated(conn, token)
	}
	sum := sha256.Sum256([]byte(token))
	hash := hex.EncodeToString(sum[:])
	p := b.index.Load().tokens[hash]
	if p == nil || p.Disabled {
		return alknet.Identity{}, errToken
	}
	for _, t := range p.Tokens {
		if t.Hash == tokenPrefix+hash && !ended(t.NotAfter, b.now()) {
			return p.identity(conn.Peer), nil
		}
	}
	return alknet.Identity{}, errToken
}

// Known is a Graph's: the entry of a connected peer, by its id or by the key
// that it has proven.
func (b *Book) Known(id alknet.Identity) (Peer, bool) {
	ix := b.index.Load()
	p := ix.keys[id.Peer]
	if p == nil {
		p = ix.peers[id.ID]
	}
	if p == nil || p.Disabled {
		return Peer{}, false
	}
	return p.clone(), true
}

// Imports is a Graph's: what the entry of a peer says that we take from it.
func (b *Book) Imports(i Info) call.Import {
	p := b.index.Load().peers[i.ID]
	if p == nil || p.Disabled {
		return call.Import{}
	}
	return call.Import{Allow: slices.Clone(p.Import), Export: p.Export}
}

// Lookup makes the Book a [Directory].
func (b *Book) Lookup(_ context.Context, id alknet.PeerID) ([]alknet.Addr, error) {
	p := b.index.Load().keys[id]
	if p == nil || p.Disabled {
		return pinned(nil, id)
	}
	return pinned(p.Addrs, id)
}

// clone shares nothing with p.
func (p *Peer) clone() Peer {
	c := *p
	c.Keys, c.Tokens, c.Scopes = slices.Clone(p.Keys), slices.Clone(p.Tokens), slices.Clone(p.Scopes)
	c.Addrs, c.Import = slices.Clone(p.Addrs), slices.Clone(p.Import)
	c.Resources, c.Labels = cloneResources(p.Resources), maps.Clone(p.Labels)
	return c
}

func cloneResources(m map[string][]string) map[string][]string {
	if m == nil {
		return nil
	}
	c := make(map[string][]string, len(m))
	for k, v := range m {
		c[k] = slices.Clone(v)
	}
	return c
}

var _ Directory = (*Book)(nil)
