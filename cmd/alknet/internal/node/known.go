package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/peer"
)

// known is who the node knows: the peers of the configuration first, then those
// of the book, which commands write.
type known struct {
	log  *slog.Logger
	file *peer.Book // in memory: [[peer]]
	book *peer.Book // STATE/peers.json

	mu      sync.Mutex
	changed func() // guarded by mu
}

// bookFile is the book's, below the state folder.
const bookFile = "peers.json"

func openKnown(p config.Places, f *config.File, log *slog.Logger) (k *known, err error) {
	k = &known{log: log}
	if k.file, err = peer.OpenBook(""); err != nil {
		return nil, err
	}
	if k.book, err = peer.OpenBook(filepath.Join(p.State, bookFile)); err != nil {
		return nil, errors.Join(err, k.file.Close())
	}
	k.book.OnChange = k.tell
	if err := k.load(f); err != nil {
		k.close()
		return nil, err
	}
	for _, problem := range k.conflicts(f) {
		log.Warn("a peer is in the configuration and in the book", "event", "peer.twice", "key", problem.Key, "what", problem.Message)
	}
	return k, nil
}

// load takes the peers of a configuration, which was checked.
func (k *known) load(f *config.File) error {
	return k.file.Update(func(peers map[string]peer.Peer) error {
		clear(peers)
		for _, c := range f.Peer {
			p, err := entryOf(c, f.Roles)
			if err != nil {
				return err
			}
			peers[p.ID] = p
		}
		return nil
	})
}

// entryOf is a [[peer]] as the book has it.
func entryOf(c config.Peer, roles map[string][]string) (peer.Peer, error) {
	p := peer.Peer{ID: c.ID, Name: c.Name, Resources: c.Resources, Labels: c.Labels, Import: c.Import, Export: c.Export, Disabled: c.Disabled, Note: c.Note}
	for _, text := range c.Keys {
		id, err := alknet.ParsePeerID(text)
		if err != nil {
			return p, fmt.Errorf("peer %s: %w", c.ID, err)
		}
		p.Keys = append(p.Keys, peer.Key{ID: id})
	}
	for _, hostPort := range c.Addrs {
		p.Addrs = append(p.Addrs, alknet.Addr{HostPort: hostPort})
	}
	scopes := make(map[string]bool)
	for _, s := range c.Scopes {
		scopes[s] = true
	}
	for _, r := range c.Roles {
		for _, s := range roles[r] {
			scopes[s] = true
		}
	}
	p.Scopes = slices.Sorted(maps.Keys(scopes))
	return p, nil
}

// onChange says what to do when the book has changed.
func (k *known) onChange(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = f
}

func (k *known) tell() {
	k.mu.Lock()
	f := k.changed
	k.mu.Unlock()
	if f != nil {
		f()
	}
}

// authenticate is the Router's.
func (k *known) authenticate(ctx context.Context, s tls.ConnectionState, alpn string) (alknet.Identity, error) {
	id, err := k.file.Authenticate(ctx, s, alpn)
	if err != nil || id.ID != "" {
		return id, err
	}
	return k.book.Authenticate(ctx, s, alpn)
}

// token is the call handler's.
func (k *known) token(ctx context.Context, conn alknet.Identity, token string) (alknet.Identity, error) {
	if id, err := k.file.Token(ctx, conn, token); err == nil {
		return id, nil
	}
	return k.book.Token(ctx, conn, token)
}

// entryFor is the graph's.
func (k *known) entryFor(id alknet.Identity) (peer.Peer, bool) {
	if p, ok := k.file.Known(id); ok {
		return p, true
	}
	return k.book.Known(id)
}

// imports is the graph's.
func (k *known) imports(i peer.Info) call.Import {
	if _, ok := k.file.Get(i.ID); ok {
		return k.file.Imports(i)
	}
	return k.book.Imports(i)
}

// Lookup makes known a peer.Directory.
func (k *known) Lookup(ctx context.Context, id alknet.PeerID) ([]alknet.Addr, error) {
	return peer.Chain(k.file, k.book).Lookup(ctx, id)
}

func (k *known) close() {
	if k == nil {
		return
	}
	_, _ = k.file.Close(), k.book.Close() // nothing is written any more
}

// get is an entry, of the configuration first.
func (k *known) get(id string) (peer.Peer, bool) {
	if p, ok := k.file.Get(id); ok {
		return p, true
	}
	return k.book.Get(id)
}

// entries are the known peers, by id.
func (k *known) entries() []entry {
	var all []entry
	seen := make(map[string]bool)
	for _, p := range k.file.Peers() {
		seen[p.ID] = true
		all = append(all, entry{Peer: p, source: "file"})
	}
	for _, p := range k.book.Peers() {
		if !seen[p.ID] {
			all = append(all, entry{Peer: p, source: "book"})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return compare(a.ID, b.ID) })
	return all
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// conflicts are the peers of a configuration whose id or key is in the book too.
func (k *known) conflicts(f *config.File) (problems []config.Problem) {
	keys := make(map[string]string)
	for _, p := range k.book.Peers() {
		for _, key := range p.Keys {
			keys[key.ID.String()] = p.ID
		}
	}
	for i, c := range f.Peer {
		at := fmt.Sprintf("peer[%d]", i)
		if _, twice := k.book.Get(c.ID); twice {
			problems = append(problems, f.ProblemAt(at+".id", fmt.Sprintf("%q is in the book too: alknet peer rm %s, or leave it out here", c.ID, c.ID)))
		}
		for j, text := range c.Keys {
			id, err := alknet.ParsePeerID(text)
			if owner := keys[id.String()]; err == nil && owner != "" {
				problems = append(problems, f.ProblemAt(fmt.Sprintf("%s.keys[%d]", at, j), fmt.Sprintf("the key belongs to peer %q of the book", owner)))
			}
		}
	}
	return problems
}
