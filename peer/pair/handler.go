package pair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
	"github.com/alkdev/alknet/peer"
)

// ALPN is the name of the protocol.
const ALPN = "alknet/pair"

// A Handler lets strangers in that have a ticket. Set the fields before use.
type Handler struct {
	// Book gets the entries of who joins.
	Book *peer.Book
	// Dir is the folder of invites.json. "": invites are kept in memory.
	Dir string
	// Head is our key, which the tickets name.
	Head alknet.PeerID
	// Addrs are where we can be reached, "host:port", for tickets and joiners.
	Addrs func() []string
	// OnJoin is called after somebody has joined, with the entry. It must not
	// block.
	OnJoin func(peer.Peer)
	// Logger gets joins and refusals. Nil: silent.
	Logger *slog.Logger

	once  sync.Once
	inner *call.Handler
	clock func() time.Time // nil: the system's

	fileMu sync.Mutex
	memory inviteFile // guarded by fileMu; where Dir is ""

	mu      sync.Mutex
	pending map[string]*waiter // guarded by mu; by code
	guesses meter              // guarded by mu
}

// A Joining is who wants to join. Name, Addrs and Labels are what it says of
// itself: Labels that the invite does not have are dropped.
type Joining struct {
	// Name is what people call it, at most 128 bytes.
	Name string
	// Addrs are where it can be reached, at most 16.
	Addrs []string
	// Labels are for choosing among peers. The invite's win.
	Labels map[string]string
	// Code is what both ends show: eight digits. It is set by Pending, and given
	// to OnCode at the joiner.
	Code string
	// Key is the joiner's. It is set by Pending.
	Key alknet.PeerID
	// OnCode is called at the joiner when the head waits for somebody to approve
	// Code. Nil: it just waits.
	OnCode func(code string)
}

// A Joined is what a joiner has become.
type Joined struct {
	// ID is its id at the head.
	ID string
	// Scopes are what it may do there.
	Scopes []string
	// Head is the entry of the head for the joiner's own Book. Its ID is what the
	// head calls itself, or "head".
	Head peer.Peer
}

// Service serves h on QUIC and on bare TLS connections, to anybody: it is the
// door for strangers.
func Service(h *Handler) alknet.Service {
	return alknet.Service{ALPN: ALPN, Handler: h, Over: alknet.QUIC | alknet.Raw, AllowAnonymous: true}
}

func (h *Handler) now() time.Time {
	if h.clock != nil {
		return h.clock()
	}
	return time.Now()
}

func (h *Handler) log() *slog.Logger {
	if h.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Logger
}

// serves returns the operations as a Handler of package call.
func (h *Handler) serves() *call.Handler {
	h.once.Do(func() {
		h.pending = make(map[string]*waiter)
		h.guesses = newMeter()
		var reg call.Registry
		err := reg.Register(
			call.Operation{
				Name: "pair/join", Description: "uses an invite", AllowAnonymous: true, Timeout: confirmTime, Idempotent: true,
				Func: call.MutationFunc(h.join),
			},
			call.Operation{
				Name: "pair/succeed", Description: "takes a successor statement", AllowAnonymous: true, Idempotent: true,
				Func: call.MutationFunc(h.succeed),
			},
		)
		if err != nil {
			panic(err) // ours
		}
		h.inner = &call.Handler{Registry: &reg, Logger: h.Logger, Limits: call.Limits{
			MaxFrameBytes: 16 << 10, MaxRunningPerConn: 4, MaxRunning: 1024, MaxSubscriptions: 1, Timeout: confirmTime,
			MaxConnBufferedBytes: 256 << 10, MaxBufferedBytes: 16 << 20,
		}}
	})
	return h.inner
}

// ServeConn serves one connection.
func (h *Handler) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	return h.serves().ServeConn(ctx, conn)
}

// Shutdown drains: joins that wait for approval end.
func (h *Handler) Shutdown(ctx context.Context) error { return h.serves().Shutdown(ctx) }

// joinInput is the input of pair/join.
type joinInput struct {
	Secret string            `json:"secret"`
	Name   string            `json:"name,omitzero"`
	Addrs  []string          `json:"addrs,omitzero"`
	Labels map[string]string `json:"labels,omitzero"`
}

// joinOutput is what a joiner has become.
type joinOutput struct {
	ID     string   `json:"id"`
	Scopes []string `json:"scopes"`
	Head   joinHead `json:"head"`
}

type joinHead struct {
	ID    string   `json:"id"`
	Keys  []string `json:"keys"`
	Addrs []string `json:"addrs"`
}

// forbidden is the one answer to secrets that are wrong, used up or too old.
func forbidden() *call.Error {
	return (&call.Error{Code: codes.Forbidden, Message: "no such invite"}).NotRun()
}

// The bounds of what a joiner says of itself.
const (
	maxName       = 128
	maxLabels     = 32
	maxLabelBytes = 256
)

func (in *joinInput) check() error {
	ok := validSecret(in.Secret) && len(in.Name) <= maxName && len(in.Addrs) <= maxTicketAddrs && len(in.Labels) <= maxLabels
	for _, a := range in.Addrs {
		ok = ok && validAddr(a)
	}
	for k, v := range in.Labels {
		ok = ok && k != "" && len(k) <= maxLabelBytes && len(v) <= maxLabelBytes
	}
	if !ok {
		return (&call.Error{Code: codes.InvalidInput, Message: "secret, name, addrs or labels are not right"}).NotRun()
	}
	return nil
}

// join is pair/join.
func (h *Handler) join(ctx context.Context, in joinInput) (joinOutput, error) {
	r, ok := call.RequestFromContext(ctx)
	if !ok || r.Client == nil || r.Caller.Peer.IsZero() {
		return joinOutput{}, (&call.Error{Code: codes.Forbidden, Message: "a key is needed to join"}).NotRun()
	}
	from := place(r.Client.Conn().RemoteAddr())
	if err := h.mayGuess(from); err != nil {
		return joinOutput{}, err
	}
	if err := in.check(); err != nil {
		h.guessed(from)
		return joinOutput{}, err
	}
	key := r.Caller.Peer
	inv, err := h.find(hashOf(in.Secret), key)
	if err != nil {
		return joinOutput{}, err
	}
	if inv == nil {
		h.guessed(from)
		h.log().Warn("pair: a join was refused", "key", key, "addr", from)
		return joinOutput{}, forbidden()
	}
	if inv.Confirm && inv.user(key) == nil {
		if err := h.confirmed(ctx, r, &in); err != nil {
			return joinOutput{}, err
		}
	}
	p, err := h.admit(hashOf(in.Secret), key, &in)
	if err != nil {
		return joinOutput{}, err
	}
	h.log().Info("pair: joined", "id", p.ID, "name", quoted(in.Name), "key", key)
	if h.OnJoin != nil {
		h.OnJoin(p)
	}
	return h.answer(p), nil
}

// find is the invite of a secret that key may use, or has used.
func (h *Handler) find(hash string, key alknet.PeerID) (*fileInvite, error) {
	var found *fileInvite
	err := h.read(func(f *inviteFile) {
		if inv := f.find(hash); inv != nil && (inv.open(h.now()) || inv.user(key) != nil) {
			found = new(*inv)
		}
	})
	return found, err
}

// admit takes a place in the invite for the key, then writes the entry, then
// notes that it did: each on the disk before the next. If it is cut off, the same
// joiner finishes it, and nobody else can take its place.
func (h *Handler) admit(hash string, key alknet.PeerID, in *joinInput) (peer.Peer, error) {
	var p peer.Peer
	var done bool
	err := h.change(func(f *inviteFile) error {
		inv := f.find(hash)
		if inv == nil {
			return forbidden()
		}
		var e entry
		if err := strictjson.DecodeExact(inv.Entry, &e); err != nil {
			return err
		}
		p = e.peer()
		if j := inv.user(key); j != nil {
			p.ID, done = j.ID, j.Done
			return nil
		}
		if !inv.open(h.now()) {
			return forbidden()
		}
		switch nth := len(inv.Joined); {
		case p.ID == "":
			p.ID = idFor(in.Name, key)
		case nth > 0:
			p.ID = fmt.Sprintf("%s-%d", p.ID, nth+1)
		}
		if err := h.untaken(p.ID, key); err != nil {
			return err
		}
		inv.Joined = append(slices.Clone(inv.Joined), fileJoined{Key: key, ID: p.ID})
		return nil
	})
	if err != nil {
		return p, err
	}
	if done { // it is asked again: an entry that was removed since stays so
		had, ok := h.Book.Get(p.ID)
		if !ok || !has(had, key) {
			return p, forbidden()
		}
		return had, nil
	}
	if p, err = h.enter(p, key, in); err != nil {
		return p, err
	}
	return p, h.change(func(f *inviteFile) error {
		if inv := f.find(hash); inv != nil {
			inv.Joined = slices.Clone(inv.Joined)
			inv.user(key).Done = true
		}
		return nil
	})
}

// untaken refuses a key that another entry has.
func (h *Handler) untaken(id string, key alknet.PeerID) error {
	for _, p := range h.Book.Peers() {
		if p.ID != id && has(p, key) {
			return (&call.Error{Code: codes.Forbidden, Message: "the key is known here under another name"}).NotRun()
		}
	}
	return nil
}

// has reports whether an entry has a key.
func has(p peer.Peer, key alknet.PeerID) bool {
	return slices.ContainsFunc(p.Keys, func(k peer.Key) bool { return k.ID == key })
}

// enter adds the joiner to the Book.
func (h *Handler) enter(p peer.Peer, key alknet.PeerID, in *joinInput) (peer.Peer, error) {
	if p.Name == "" {
		p.Name = in.Name
	}
	labels := maps.Clone(in.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	maps.Copy(labels, p.Labels)
	p.Labels = labels
	for _, a := range in.Addrs {
		p.Addrs = append(p.Addrs, alknet.Addr{HostPort: a})
	}
	p.Keys = []peer.Key{{ID: key}}
	err := h.Book.Update(func(peers map[string]peer.Peer) error {
		if had, ok := peers[p.ID]; ok {
			if !has(had, key) {
				had.Keys = append(had.Keys, peer.Key{ID: key})
			}
			p = had
		}
		peers[p.ID] = p
		return nil
	})
	return p, err
}

// answer is what a joiner hears.
func (h *Handler) answer(p peer.Peer) joinOutput {
	out := joinOutput{ID: p.ID, Scopes: append([]string{}, p.Scopes...), Head: joinHead{ID: "head", Keys: []string{h.Head.String()}, Addrs: []string{}}}
	if h.Addrs != nil {
		out.Head.Addrs = append(out.Head.Addrs, h.Addrs()...)
	}
	return out
}

// succeedInput is the input of pair/succeed.
type succeedInput struct {
	Statement string `json:"statement"`
}

// succeed is pair/succeed: from anybody, since the statement proves itself.
func (h *Handler) succeed(ctx context.Context, in succeedInput) (struct{}, error) {
	r, ok := call.RequestFromContext(ctx)
	if !ok || r.Client == nil {
		return struct{}{}, forbidden()
	}
	from := place(r.Client.Conn().RemoteAddr())
	if err := h.mayGuess(from); err != nil {
		return struct{}{}, err
	}
	err := h.Book.Succeed(in.Statement)
	if errors.Is(err, peer.ErrSuccessor) {
		h.guessed(from)
		h.log().Warn("pair: a successor statement was refused", "err", quoted(err.Error()), "addr", from)
		return struct{}{}, (&call.Error{Code: codes.Forbidden, Message: "the statement is not taken"}).NotRun()
	}
	return struct{}{}, err
}

var (
	_ alknet.ProtocolHandler = (*Handler)(nil)
	_ alknet.Shutdowner      = (*Handler)(nil)
)
