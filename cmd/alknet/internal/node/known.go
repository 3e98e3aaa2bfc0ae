package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
)

// known is who the node knows: the peers of the configuration first, then those
// of the book.
type known struct {
	log *slog.Logger

	mu      sync.Mutex
	byKey   map[alknet.PeerID]*configured // guarded by mu; replaced whole
	byID    map[string]*configured        // guarded by mu; replaced whole
	changed func()                        // guarded by mu
}

// A configured peer is one of [[peer]].
type configured struct {
	config.Peer
	keys     []alknet.PeerID
	addrs    []alknet.Addr
	identity alknet.Identity
}

func openKnown(_ config.Places, f *config.File, log *slog.Logger) (*known, error) {
	k := &known{log: log}
	return k, k.load(f)
}

// load takes the peers of a configuration, which was checked.
func (k *known) load(f *config.File) error {
	byKey, byID := make(map[alknet.PeerID]*configured), make(map[string]*configured)
	for _, p := range f.Peer {
		c := &configured{Peer: p, identity: alknet.Identity{ID: p.ID, Resources: p.Resources}}
		for _, text := range p.Keys {
			id, err := alknet.ParsePeerID(text)
			if err != nil {
				return err
			}
			c.keys = append(c.keys, id)
			byKey[id] = c
		}
		for _, hostPort := range p.Addrs {
			for _, id := range c.keys {
				c.addrs = append(c.addrs, alknet.Addr{HostPort: hostPort, Peer: id})
			}
		}
		scopes := make(map[string]bool)
		for _, s := range p.Scopes {
			scopes[s] = true
		}
		for _, r := range p.Roles {
			for _, s := range f.Roles[r] {
				scopes[s] = true
			}
		}
		c.identity.Scopes = slices.Sorted(maps.Keys(scopes))
		byID[p.ID] = c
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byKey, k.byID = byKey, byID
	return nil
}

// onChange says what to do when the list has changed.
func (k *known) onChange(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = f
}

// authenticate is the Router's.
func (k *known) authenticate(_ context.Context, s tls.ConnectionState, _ string) (alknet.Identity, error) {
	if len(s.PeerCertificates) == 0 {
		return alknet.Identity{}, nil
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return alknet.Identity{}, nil
	}
	return k.identity(alknet.PeerID(key))
}

// identity is who holds a key; anonymous for a stranger's.
func (k *known) identity(key alknet.PeerID) (alknet.Identity, error) {
	k.mu.Lock()
	c := k.byKey[key]
	k.mu.Unlock()
	if c == nil {
		return alknet.Identity{Peer: key}, nil
	}
	if c.Disabled {
		return alknet.Identity{}, &alknet.Error{Code: alknet.CodeRevoked, Reason: "this peer is disabled"}
	}
	id := c.identity
	id.Peer = key
	return id, nil
}

// token is the call handler's: there are no tokens without a book.
func (k *known) token(context.Context, alknet.Identity, string) (alknet.Identity, error) {
	return alknet.Identity{}, errors.New("no tokens are known")
}

func (k *known) close() {}

// entries are the known peers, by id.
func (k *known) entries() []entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []entry
	for _, id := range slices.Sorted(maps.Keys(k.byID)) {
		c := k.byID[id]
		all = append(all, entry{id: id, source: "file", keys: c.keys, addrs: c.Addrs, scopes: c.identity.Scopes, disabled: c.Disabled})
	}
	return all
}

func (k *known) conflicts(*config.File) []config.Problem { return nil }
