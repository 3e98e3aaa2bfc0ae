package node

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/peer/pair"
)

// A PeerEntry is a known peer as commands show it.
type PeerEntry struct {
	ID        string              `json:"id"`                 // of the peer or node
	Name      string              `json:"name,omitzero"`      // what people call it
	Source    string              `json:"source"`             // "file" or "book"
	Keys      []string            `json:"keys"`               // as text
	Addrs     []string            `json:"addrs"`              // HOST:PORT
	Scopes    []string            `json:"scopes"`             // what it may do
	Resources map[string][]string `json:"resources,omitzero"` // by type
	Labels    map[string]string   `json:"labels,omitzero"`    // for choosing among peers
	Import    []string            `json:"import,omitzero"`    // globs of operations that are taken
	Export    bool                `json:"export,omitzero"`    // callers may use what was taken
	Disabled  bool                `json:"disabled,omitzero"`  // refused
	Note      string              `json:"note,omitzero"`      // for people
	State     string              `json:"state,omitzero"`     // of a running node
}

// InviteIn is the input of node/peers/invite.
type InviteIn struct {
	Name      string              `json:"name,omitzero"`      // what people call it
	Scopes    []string            `json:"scopes,omitzero"`    // what it may do
	Resources map[string][]string `json:"resources,omitzero"` // by type
	Labels    map[string]string   `json:"labels,omitzero"`    // for choosing among peers
	Import    []string            `json:"import,omitzero"`    // globs of operations that are taken
	Export    bool                `json:"export,omitzero"`    // callers may use what was taken
	Uses      int                 `json:"uses,omitzero"`      // how many may join; 0: 1
	ForMS     int64               `json:"for_ms,omitzero"`    // 0: an hour
	Confirm   bool                `json:"confirm,omitzero"`   // somebody has to approve
}

// InviteOut is its output.
type InviteOut struct {
	Ticket  string    `json:"ticket"`  // alknet://…
	Expires time.Time `json:"expires"` // when the ticket ends
}

// JoinIn is the input of node/peers/join.
type JoinIn struct {
	Ticket string            `json:"ticket"`          // alknet://…
	Name   string            `json:"name,omitzero"`   // what people call it
	As     string            `json:"as,omitzero"`     // what the head is called here
	Labels map[string]string `json:"labels,omitzero"` // for choosing among peers
}

// JoinOut is its output: what we are there, and what the head is called here.
type JoinOut struct {
	ID     string   `json:"id"`     // of the peer or node
	Head   string   `json:"head"`   // what the head is called here
	Scopes []string `json:"scopes"` // what it may do
}

// RequestOut is somebody who waits to be let in.
type RequestOut struct {
	Code string `json:"code"` // a word that is never changed
	Name string `json:"name"` // what people call it
	Key  string `json:"key"`  // as text
}

// PeerIn names a peer.
type PeerIn struct {
	Peer string `json:"peer"` // its id, or empty
}

// PingOut is how a peer answered.
type PingOut struct {
	Transport string  `json:"transport"` // QUIC, Mux or Raw
	Remote    string  `json:"remote"`    // its address
	RTTMillis float64 `json:"rtt_ms"`    // 0: not measured
	Load      float64 `json:"load"`      // 0 nothing to do, 1 all it can
}

// peerOperations are about the book and the graph.
func (n *Node) peerOperations() []call.Operation {
	list := func(context.Context, struct{}) ([]PeerEntry, error) { return n.peerEntries(), nil }
	sync := func(context.Context, struct{}) (string, error) { return "ok", remote(n.syncBook()) }
	requests := func(context.Context, struct{}) ([]RequestOut, error) { return n.requests() }
	approve := func(_ context.Context, in struct {
		Code string `json:"code"`
	}) (string, error) {
		h := n.pairHandler()
		if h == nil {
			return "", noPair()
		}
		return "approved", remote(h.Approve(in.Code))
	}
	drain := func(ctx context.Context, in PeerIn) (string, error) {
		if n.graph.Graph == nil {
			return "", remote(fault.New(fault.Config, "this node has no [graph]", ""))
		}
		return "drained", n.graph.Drain(ctx, in.Peer)
	}
	return []call.Operation{
		{Name: "node/peers/list", Description: "who is known", Func: call.QueryFunc(list)},
		{Name: "node/peers/sync", Description: "reads the book again", Func: call.MutationFunc(sync)},
		{Name: "node/peers/invite", Description: "makes a ticket for a new peer", Func: call.MutationFunc(n.invite), Errors: nodeErrors},
		{Name: "node/peers/requests", Description: "who waits to be let in", Func: call.QueryFunc(requests), Errors: nodeErrors},
		{Name: "node/peers/approve", Description: "lets in who shows this code", Func: call.MutationFunc(approve), Errors: nodeErrors},
		{Name: "node/peers/drain", Description: "gives a peer no new calls", Func: call.MutationFunc(drain), Errors: nodeErrors},
	}
}

// operatorPeerOperations are for the control socket only.
func (n *Node) operatorPeerOperations() []call.Operation {
	join := func(ctx context.Context, in JoinIn) (JoinOut, error) {
		out, err := Join(ctx, n.dialer, n.known.book, in, n.joining(in))
		if err == nil {
			n.reconnect()
		}
		return out, remote(err)
	}
	return []call.Operation{
		{Name: "node/peers/join", Description: "joins a head with a ticket", Func: call.MutationFunc(join), Errors: nodeErrors, Timeout: 10 * time.Minute},
		{Name: "node/peers/ping", Description: "asks a peer whether it lives", Func: call.QueryFunc(n.ping), Errors: nodeErrors},
		{Name: "node/all", Description: "calls an operation on every peer that serves it", Func: call.SubscriptionFunc(n.callAll), Errors: nodeErrors},
		{Name: "node/policy", Description: "what the node would decide, step by step", Func: call.QueryFunc(n.policy), Errors: nodeErrors},
		{Name: "node/route", Description: "who would get a call", Func: call.QueryFunc(n.route), Errors: nodeErrors},
	}
}

func (n *Node) peerEntries() []PeerEntry {
	states := make(map[string]string)
	for _, p := range n.peers() {
		states[p.ID] = p.State
	}
	all := n.known.peerEntries()
	for i := range all {
		all[i].State = states[all[i].ID]
	}
	return all
}

func (k *known) peerEntries() []PeerEntry {
	all := []PeerEntry{}
	for _, e := range k.entries() {
		r := e.resolved()
		all = append(all, PeerEntry{ID: e.ID, Name: e.Name, Source: e.source, Keys: r.Keys, Addrs: r.Addrs, Scopes: append([]string{}, e.Scopes...),
			Resources: e.Resources, Labels: e.Labels, Import: e.Import, Export: e.Export, Disabled: e.Disabled, Note: e.Note})
	}
	return all
}

// syncBook reads the book again, after a command has written it.
func (n *Node) syncBook() error {
	if err := n.known.book.Reload(); err != nil {
		return err
	}
	n.reauthenticate()
	n.reconnect()
	return nil
}

func (n *Node) pairHandler() *pair.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pairs
}

func noPair() error {
	return remote(fault.New(fault.Config, "this node invites nobody: its configuration has no [pair]", ""))
}

// invite makes a ticket. It grants at most what its maker has.
func (n *Node) invite(ctx context.Context, in InviteIn) (InviteOut, error) {
	h := n.pairHandler()
	if h == nil {
		return InviteOut{}, noPair()
	}
	if r, ok := call.RequestFromContext(ctx); ok && r.Caller.ID != LocalID {
		for _, s := range in.Scopes {
			if !slices.Contains(r.Caller.Scopes, s) {
				return InviteOut{}, &call.Error{Code: codes.Forbidden, Message: "you do not have " + s + " yourself"}
			}
		}
	}
	if len(n.advertised()) == 0 {
		return InviteOut{}, remote(fault.New(fault.Config, "nobody could reach this node: it does not listen; set node.listen or node.advertise", ""))
	}
	p := peer.Peer{ID: in.Name, Name: in.Name, Scopes: in.Scopes, Resources: in.Resources, Labels: in.Labels, Import: in.Import, Export: in.Export}
	ttl := time.Duration(in.ForMS) * time.Millisecond
	t, err := h.Invite(pair.Invite{Peer: p, Uses: in.Uses, TTL: ttl, Confirm: in.Confirm})
	if err != nil {
		return InviteOut{}, remote(err)
	}
	if ttl == 0 {
		ttl = time.Hour
	}
	return InviteOut{Ticket: t.String(), Expires: time.Now().Add(ttl).UTC()}, nil
}

func (n *Node) requests() ([]RequestOut, error) {
	h := n.pairHandler()
	if h == nil {
		return nil, noPair()
	}
	all := []RequestOut{}
	for _, j := range h.Pending() {
		all = append(all, RequestOut{Code: j.Code, Name: j.Name, Key: j.Key.String()})
	}
	return all, nil
}

// joining is what we say of ourselves.
func (n *Node) joining(in JoinIn) pair.Joining {
	me := pair.Joining{Name: in.Name, Labels: in.Labels}
	if f := n.File().Node; me.Name == "" && f != nil {
		me.Name = f.Name
	}
	me.Addrs = append(me.Addrs, n.advertised()...)
	return me
}

// Join joins a head with a ticket and writes the head into the book.
func Join(ctx context.Context, ep *alknet.Endpoint, book *peer.Book, in JoinIn, me pair.Joining) (JoinOut, error) {
	t, err := pair.ParseTicket(in.Ticket)
	if err != nil {
		return JoinOut{}, fault.New(fault.Usage, err.Error(), "")
	}
	j, err := pair.Join(ctx, ep, t, me)
	if err != nil {
		return JoinOut{}, err
	}
	head := j.Head
	if in.As != "" {
		head.ID = in.As
	}
	err = book.Update(func(peers map[string]peer.Peer) error {
		for id, p := range peers { // the same head again keeps its name and rights here
			if slices.ContainsFunc(p.Keys, func(k peer.Key) bool { return k.ID == t.Head }) {
				p.Addrs = head.Addrs
				head.ID = id
				peers[id] = p
				return nil
			}
		}
		if _, taken := peers[head.ID]; taken {
			return fault.New(fault.Failed, "there is another peer called "+head.ID, "alknet join TICKET --as NAME")
		}
		peers[head.ID] = head
		return nil
	})
	return JoinOut{ID: j.ID, Head: head.ID, Scopes: append([]string{}, j.Scopes...)}, err
}

// ping asks a peer over a connection of its own.
func (n *Node) ping(ctx context.Context, in PeerIn) (PingOut, error) {
	r, err := n.known.resolve(in.Peer)
	if err != nil {
		return PingOut{}, remote(err)
	}
	conn, err := DialAny(ctx, n.dialer, r, alknet.QUIC|alknet.Raw, call.ALPN)
	if err != nil {
		return PingOut{}, remote(err)
	}
	c := call.NewClient(conn, nil)
	defer c.Close()
	rtt, load, err := c.Ping(ctx)
	if err != nil {
		return PingOut{}, err
	}
	return PingOut{Transport: conn.Transport().String(), Remote: conn.RemoteAddr().String(), RTTMillis: float64(rtt.Microseconds()) / 1000, Load: load}, nil
}

// AllIn is the input of node/all.
type AllIn struct {
	Operation string            `json:"operation"`       // its name
	Input     json.RawMessage   `json:"input"`           // JSON
	Labels    map[string]string `json:"labels,omitzero"` // for choosing among peers
}

// AllOut is one peer's answer.
type AllOut struct {
	Peer   string          `json:"peer"`            // its id, or empty
	Output json.RawMessage `json:"output,omitzero"` // JSON
	Code   string          `json:"code,omitzero"`   // a word that is never changed
	Error  string          `json:"error,omitzero"`  // why it failed
}

func (n *Node) callAll(ctx context.Context, in AllIn) iter.Seq2[AllOut, error] {
	return func(yield func(AllOut, error) bool) {
		if n.graph.Graph == nil {
			yield(AllOut{}, remote(fault.New(fault.Config, "this node has no [graph]", "")))
			return
		}
		for r := range peer.All[json.RawMessage](ctx, n.graph.Graph, peer.Ref{Labels: in.Labels}, in.Operation, in.Input) {
			out := AllOut{Peer: r.Peer, Output: r.Out}
			if ce, ok := errors.AsType[*call.Error](r.Err); ok {
				out.Code, out.Error = ce.Code, ce.Message
			} else if r.Err != nil {
				out.Code, out.Error = codes.Internal, r.Err.Error()
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// RouteIn is the input of node/route.
type RouteIn struct {
	Operation string            `json:"operation"`       // its name
	Labels    map[string]string `json:"labels,omitzero"` // for choosing among peers
}

// RouteOut is who would get a call, and who would not.
type RouteOut struct {
	Operation  string         `json:"operation"`  // its name
	Winner     string         `json:"winner"`     // who gets the call
	Why        string         `json:"why"`        // the rule that decides
	Candidates []CandidateOut `json:"candidates"` // who serves it
}

// CandidateOut is a peer that serves an operation.
type CandidateOut struct {
	Peer string `json:"peer"` // its id, or empty
	OK   bool   `json:"ok"`   // it may
	Why  string `json:"why"`  // the rule that decides
}

func (n *Node) route(_ context.Context, in RouteIn) (RouteOut, error) {
	if op, ok := n.registry.Lookup(in.Operation); ok {
		return RouteOut{Operation: op.Name, Winner: LocalID, Why: "the node's own", Candidates: []CandidateOut{}}, nil
	}
	if n.graph.Graph == nil {
		return RouteOut{}, remote(fault.New(fault.Config, "this node has no [graph]", ""))
	}
	e := n.graph.Explain(in.Operation, peer.Ref{Labels: in.Labels})
	out := RouteOut{Operation: e.Operation, Winner: e.Winner, Why: e.Why, Candidates: []CandidateOut{}}
	for _, c := range e.Candidates {
		out.Candidates = append(out.Candidates, CandidateOut{c.Peer, c.OK, c.Why})
	}
	return out, nil
}
