package peer

import (
	"context"
	"errors"
	"fmt"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/printable"
)

// DialPeer returns what a [Supervisor] dials with: it looks a peer up and tries
// its addresses in order, each with the peer's key pinned, until one answers. h
// serves what the peer calls back and may be nil. Addresses behind a relay
// (Addr.Via) are left out: nothing here can follow them yet.
func DialPeer(e *alknet.Endpoint, d Directory, id alknet.PeerID, h *call.Handler) func(context.Context) (*call.Client, error) {
	if h == nil {
		h = new(call.Handler)
	}
	return func(ctx context.Context) (*call.Client, error) {
		addrs, err := d.Lookup(ctx, id)
		if err != nil {
			return nil, err
		}
		var errs []error
		for _, a := range addrs {
			if a.Via != "" {
				errs = append(errs, fmt.Errorf("peer: dial %s: via a relay: %w", printable.Quote(a.HostPort), errors.ErrUnsupported))
				continue
			}
			a.Peer, a.ServerName = id, ""
			c, err := call.Dial(ctx, e, a, h)
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
		if len(errs) == 0 {
			return nil, fmt.Errorf("peer: dial %v: %w", id, ErrUnknownPeer)
		}
		return nil, errors.Join(errs...)
	}
}
