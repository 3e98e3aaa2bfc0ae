package tunnel

import (
	"context"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh/forward"
)

const (
	maxNameBytes = 63
	reserved     = 30 * time.Second // for who published a name, after its connection was lost
)

// Published is a name that a peer offers.
type Published struct {
	Name     string          // as peers dial it
	Identity alknet.Identity // of who offers it
	Since    time.Time       // when the offer began
	Flows    int             // open now
}

// names are what peers publish.
type names struct {
	mu    sync.Mutex
	offer map[string]*offer // guarded by mu
}

// An offer is a published name, or one that is kept for who published it.
type offer struct {
	Published
	conn  *alknet.Conn
	id    uint32
	until time.Time              // kept until then; zero: it is offered
	flows map[*nameFlow]struct{} // that use it
	cut   bool                   // it is no longer allowed
}

// validName reports whether a name is [a-z0-9-]{1,63}.
func validName(s string) bool {
	return len(s) >= 1 && len(s) <= maxNameBytes && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	})
}

// who is whom a name belongs to.
func who(id *alknet.Identity) string {
	if id.ID != "" {
		return id.ID
	}
	return id.Peer.String()
}

// add offers a name, unless somebody else has it.
func (n *names) add(o *offer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for name, old := range n.offer { // few, and nothing else looks at them
		if !old.until.IsZero() && now.After(old.until) {
			delete(n.offer, name)
		}
	}
	old := n.offer[o.Name]
	switch {
	case old == nil:
	case old.until.IsZero(), who(&old.Identity) != who(&o.Identity):
		return &forward.Error{Code: forward.CodeFailed, Reason: "the name is taken"}
	}
	if n.offer == nil {
		n.offer = make(map[string]*offer)
	}
	n.offer[o.Name] = o
	return nil
}

// end ends an offer. It is kept for its peer for a while if the connection was
// lost, and free at once if the peer took it back.
func (n *names) end(o *offer, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.offer[o.Name] != o {
		return
	}
	if lost {
		o.until = time.Now().Add(reserved)
		o.conn = nil
		return
	}
	delete(n.offer, o.Name)
}

// use returns the offer of a name, for a flow until done; nil: there is none.
func (n *names) use(name string, f *nameFlow) *offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.offer[name]
	if o == nil || !o.until.IsZero() || o.cut {
		return nil
	}
	if o.flows == nil {
		o.flows = make(map[*nameFlow]struct{})
	}
	o.flows[f] = struct{}{}
	return o
}

func (n *names) done(o *offer, f *nameFlow) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(o.flows, f)
}

// cut ends the flows of an offer that is no longer allowed, and lets none begin.
func (n *names) cut(o *offer) {
	n.mu.Lock()
	o.cut = true
	list := slices.Collect(maps.Keys(o.flows))
	n.mu.Unlock()
	for _, f := range list {
		f.cut()
	}
}

// Published are the names that peers offer now, in order.
func (h *Handler) Published() []Published {
	h.names.mu.Lock()
	defer h.names.mu.Unlock()
	var list []Published
	for _, o := range h.names.offer {
		if o.until.IsZero() {
			p := o.Published
			p.Flows = len(o.flows)
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Published) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// publish offers a name until the peer's stream ends.
func (r *request) publish(ctx context.Context) error {
	if !validName(r.header.address) {
		return r.refuse(&forward.Error{Code: forward.CodeAddress, Reason: "a name has 1 to 63 of a-z, 0-9 and -"})
	}
	if err := r.take(); err != nil {
		return r.refuse(err)
	}
	defer r.give()
	o := &offer{Published: Published{Name: r.header.address, Identity: *r.id, Since: time.Now()}, conn: r.s.Conn(), id: r.header.id}
	cut := make(chan struct{})
	release, err := r.h.Gate.Admit(ctx, r.id, forward.OpPublish, o.Name, func() {
		close(cut)
		r.h.names.cut(o)
	})
	if err != nil {
		return r.refuse(err)
	}
	defer release()
	if err := r.h.names.add(o); err != nil {
		return r.refuse(err)
	}
	if err := r.answer(answer{text: r.header.address}); err != nil {
		r.h.names.end(o, true)
		return err
	}
	lost := r.hold(ctx, cut)
	r.h.names.end(o, lost)
	return nil
}

// dialName connects to a name that another peer has published.
func (r *request) dialName(ctx context.Context) error {
	nc, err := r.h.DialName(ctx, r.id, r.header.address)
	if err != nil {
		return r.refuse(err)
	}
	if err := r.answer(answer{}); err != nil {
		_ = nc.Close() // the peer is gone
		return err
	}
	return splice(ctx, r.s, nc)
}

// DialName connects id to a name that a peer has published, for services of this
// node as for peers: the policy decides. The error is a *[forward.Error].
func (h *Handler) DialName(ctx context.Context, id *alknet.Identity, name string) (net.Conn, error) {
	if h.Gate == nil {
		return nil, errNoGate
	}
	f := &nameFlow{}
	release, err := h.Gate.Admit(ctx, id, forward.OpDial, name, f.cut)
	if err != nil {
		return nil, err
	}
	o := h.names.use(name, f)
	if o == nil {
		release()
		return nil, &forward.Error{Code: forward.CodeHostUnreachable, Reason: "no such name"}
	}
	f.release = sync.OnceFunc(func() { h.names.done(o, f); release() })
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	s, err := openFlow(ctx, o.conn, header{kind: kindAccepted, network: networkNumber("name"), id: o.id, address: who(id)})
	if err != nil {
		f.release()
		return nil, err
	}
	if !f.set(s) {
		f.release()
		return nil, &forward.Error{Code: forward.CodeDenied, Reason: "it is no longer allowed"}
	}
	return f, nil
}

// A nameFlow is a stream to a publisher that may be cut.
type nameFlow struct {
	*alknet.Stream
	release func()

	mu   sync.Mutex
	dead bool // guarded by mu
}

// resetPolicy is the code of what is no longer allowed.
const resetPolicy alknet.ErrorCode = 2

func (f *nameFlow) set(s *alknet.Stream) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		s.Reset(resetPolicy)
		return false
	}
	f.Stream = s
	return true
}

func (f *nameFlow) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	if f.Stream != nil {
		f.Stream.Reset(resetPolicy)
	}
}

// denied makes the error of a flow that was cut say so.
func (f *nameFlow) denied(err error) error {
	if err == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return &forward.Error{Code: forward.CodeDenied, Reason: "it is no longer allowed", Err: err}
	}
	return err
}

func (f *nameFlow) Read(b []byte) (int, error) {
	n, err := f.Stream.Read(b)
	if err != io.EOF {
		err = f.denied(err)
	}
	return n, err
}

func (f *nameFlow) Write(b []byte) (int, error) {
	n, err := f.Stream.Write(b)
	return n, f.denied(err)
}

func (f *nameFlow) Close() error {
	f.release()
	return f.Stream.Close()
}

// Reset ends both directions at once.
func (f *nameFlow) Reset(code alknet.ErrorCode) {
	f.release()
	f.Stream.Reset(code)
}
