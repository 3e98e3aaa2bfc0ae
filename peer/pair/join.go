package pair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
)

// Join uses a ticket: it dials the head with its key pinned, tries its addresses
// in order, and returns what we have become there. With an invite that asks for
// it, Join waits until the code is approved at the head (me.OnCode gets it). The
// head's entry is for our own Book. The same ticket may be used again by the same
// key, after a crash or a lost reply, and gives the same answer.
func Join(ctx context.Context, e *alknet.Endpoint, t Ticket, me Joining) (Joined, error) {
	if len(t.Addrs) == 0 {
		return Joined{}, errors.New("pair: join: the ticket has no address")
	}
	var errs []error
	for _, a := range t.Addrs {
		conn, err := e.Dial(ctx, alknet.Addr{HostPort: a, Peer: t.Head, Over: alknet.QUIC | alknet.Raw}, ALPN)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		j, err := JoinConn(ctx, conn, t, me)
		if err != nil {
			return j, fmt.Errorf("pair: join: %w", err)
		}
		return j, nil
	}
	return Joined{}, fmt.Errorf("pair: join: %w", errors.Join(errs...))
}

// JoinConn is [Join] over a connection of [ALPN] to the head, which it closes.
func JoinConn(ctx context.Context, conn *alknet.Conn, t Ticket, me Joining) (Joined, error) {
	c := call.NewClient(conn, nil)
	defer c.Close()
	o := call.Options{}
	if me.OnCode != nil {
		code := codeOf(t.Head, conn.LocalID(), t.Secret)
		o.OnNotice = func(name string, _ json.RawMessage) {
			if name == "confirm" {
				me.OnCode(code) // our own: what the head shows has to be the same
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	if err := c.Settled(ctx); err != nil { // a notice needs it
		return Joined{}, err
	}
	in := joinInput{Secret: t.Secret, Name: me.Name, Addrs: me.Addrs, Labels: me.Labels}
	out, err := call.Call[joinOutput](ctx, call.With(c, o), "pair/join", in)
	if err != nil {
		return Joined{}, err
	}
	return out.joined(t)
}

// joined is what the head says, as far as the ticket proves it.
func (out *joinOutput) joined(t Ticket) (Joined, error) {
	j := Joined{ID: out.ID, Scopes: out.Scopes, Head: peer.Peer{ID: out.Head.ID, Name: out.Head.ID, Keys: []peer.Key{{ID: t.Head}}}}
	for _, k := range out.Head.Keys {
		id, err := alknet.ParsePeerID(k)
		if err != nil {
			return Joined{}, errors.New("the head names a key that is none")
		}
		if id != t.Head {
			j.Head.Keys = append(j.Head.Keys, peer.Key{ID: id})
		}
	}
	addrs := out.Head.Addrs
	if len(addrs) == 0 {
		addrs = t.Addrs
	}
	if len(addrs) > maxTicketAddrs || len(j.Head.Keys) > maxTicketAddrs {
		return Joined{}, errors.New("the head names too many addresses or keys")
	}
	for _, a := range addrs {
		if !validAddr(a) {
			return Joined{}, errors.New("the head names an address that is none")
		}
		j.Head.Addrs = append(j.Head.Addrs, alknet.Addr{HostPort: a})
	}
	return j, nil
}

// SubmitSuccessor hands a successor statement to a head at [ALPN], for a node
// that has switched to its new key already. It closes conn.
func SubmitSuccessor(ctx context.Context, conn *alknet.Conn, statement string) error {
	c := call.NewClient(conn, nil)
	defer c.Close()
	_, err := call.Call[struct{}](ctx, c, "pair/succeed", succeedInput{Statement: statement})
	return err
}

// read hands the invites to f, for reading.
func (h *Handler) read(f func(*inviteFile)) error {
	h.fileMu.Lock()
	defer h.fileMu.Unlock()
	if h.Dir == "" {
		f(&h.memory)
		return nil
	}
	dir, err := os.OpenRoot(h.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	file, err := readInvites(dir) // whole at any time: it is replaced, not changed
	if err != nil {
		return err
	}
	f(file)
	return nil
}
