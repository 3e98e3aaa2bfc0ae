package peer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/alkdev/alknet"
)

// ErrUnknownPeer is in the error of a [Directory] that knows no address of a peer.
var ErrUnknownPeer = errors.New("unknown peer")

// A Directory says where a peer can be reached. What it says proves nothing: the
// dial pins the peer's key.
type Directory interface {
	// Lookup returns the addresses of a peer, the best first, or an error that
	// wraps ErrUnknownPeer.
	Lookup(ctx context.Context, id alknet.PeerID) ([]alknet.Addr, error)
}

// Static is a Directory that does not change.
type Static map[alknet.PeerID][]alknet.Addr

// Lookup returns the addresses of a peer, with its key as Addr.Peer.
func (s Static) Lookup(_ context.Context, id alknet.PeerID) ([]alknet.Addr, error) {
	return pinned(s[id], id)
}

// pinned are addresses that only id may answer.
func pinned(addrs []alknet.Addr, id alknet.PeerID) ([]alknet.Addr, error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("peer: look up %v: %w", id, ErrUnknownPeer)
	}
	addrs = slices.Clone(addrs)
	for i := range addrs {
		addrs[i].Peer, addrs[i].ServerName = id, ""
	}
	return addrs, nil
}

// Chain asks directories in order: the first answer wins, an error or an empty
// answer falls through. Nil directories are left out. If all fail, the error
// holds theirs.
func Chain(dirs ...Directory) Directory {
	return chain(slices.DeleteFunc(slices.Clone(dirs), func(d Directory) bool { return d == nil }))
}

type chain []Directory

// Lookup asks them.
func (c chain) Lookup(ctx context.Context, id alknet.PeerID) ([]alknet.Addr, error) {
	var errs []error
	for _, d := range c {
		addrs, err := d.Lookup(ctx, id)
		if err == nil && len(addrs) > 0 {
			return addrs, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return pinned(nil, id)
	}
	return nil, errors.Join(errs...)
}

// A Catalog is a Directory that also knows which head each peer hangs on. No
// implementation is in this module yet.
type Catalog interface {
	Directory
	// Publish creates or refreshes an attachment. It vanishes when it is not
	// refreshed.
	Publish(ctx context.Context, a Attachment) error
	// Withdraw takes back an attachment, of that generation only.
	Withdraw(ctx context.Context, a Attachment) error
	// Watch yields all attachments, then changes. Gone marks an end.
	Watch(ctx context.Context) iter.Seq2[Attachment, error]
}

// An Attachment is a peer that hangs on a head.
type Attachment struct {
	// Peer is the peer's id.
	Peer string
	// Key is the peer's, Head that of the head.
	Key, Head alknet.PeerID
	// HeadAddrs are where the head can be reached.
	HeadAddrs []alknet.Addr
	// Generation is the head's for the peer's newest link.
	Generation uint64
	// Operations are what the head takes from the peer.
	Operations []string
	// Labels are for choosing.
	Labels map[string]string
	// Draining: the peer gets no new calls. Gone: it has left.
	Draining, Gone bool
}
