package call_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/delegation"
	"github.com/alkdev/alknet/call/testops"
)

// A node of these tests has a key, and an identity that the others know it by.
type node struct {
	alknet.Identity
	key ed25519.PrivateKey
}

func newNode(t *testing.T, name string, scopes ...string) node {
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return node{alknet.Identity{ID: name, Peer: alknet.PeerID(key.Public().(ed25519.PublicKey)), Scopes: scopes}, key}
}

// dials connects two nodes in memory; each is known to the other by its key.
func (n node) dials(t *testing.T, to node, mine, theirs *call.Handler) *call.Client {
	c, s := alknet.Pipe(call.ALPN, n.Identity, to.Identity)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { defer wg.Done(); _ = theirs.ServeConn(context.Background(), s); _ = s.Close() }()
	client := call.NewClient(c, mine)
	t.Cleanup(func() { _ = client.Close(); wg.Wait() })
	require.NoError(t, client.Settled(t.Context()))
	return client
}

// whoami is the output of test/whoami.
type whoami struct {
	Caller     string   `json:"caller"`
	Originator string   `json:"originator"`
	Claimed    string   `json:"claimed"`
	Path       []string `json:"path"`
}

// TestDelegationProvesWhoAskedFirst: alice calls a worker through a head that has
// no rights of its own there.
func TestDelegationProvesWhoAskedFirst(t *testing.T) {
	alice, head, eve := newNode(t, "alice", "box"), newNode(t, "head", "call:delegate", "call:forward"), newNode(t, "eve", "call:delegate")
	worker := newNode(t, "worker")
	guarded := call.Operation{Name: "box/who", Access: alknet.AccessControl{RequiredScopes: []string{"box"}}}
	for _, op := range testops.Operations(testops.Options{}) {
		if op.Name == "test/whoami" {
			guarded.Func = op.Func
		}
	}
	atWorker := newHandler(t, guarded)
	atWorker.Authenticate = func(_ context.Context, conn alknet.Identity, token string) (alknet.Identity, error) {
		return delegation.Verify(token, delegation.Options{Presenter: conn.Peer, Lookup: func(p alknet.PeerID) (alknet.Identity, bool) {
			return alice.Identity, p == alice.Peer
		}})
	}
	var hub call.Registry
	atHead := newHandler(t)
	atHead.Sources, atHead.Delegate = []call.Source{&hub}, head.key
	toWorker := head.dials(t, worker, atHead, atWorker)
	ops, err := importAll(t, toWorker)
	require.Error(t, err, "the head itself sees nothing")
	require.Empty(t, ops)
	forward := call.Func{Type: call.Query, Serve: func(ctx context.Context, s *call.Stream) error {
		return s.Forward(ctx, toWorker, "box/who", call.Options{})
	}}
	require.NoError(t, hub.Register(call.Operation{Name: "box/who", Func: forward}))

	ask := func(c call.Caller) (w whoami, err error) {
		raw, err := call.Call[json.RawMessage](t.Context(), c, "box/who", struct{}{})
		if err == nil {
			require.NoError(t, json.Unmarshal(raw, &w))
		}
		return w, err
	}
	me := alice.dials(t, head, &call.Handler{Delegate: alice.key}, atHead)
	got, err := ask(me)
	require.NoError(t, err)
	require.Equal(t, whoami{Caller: "alice", Originator: "alice", Claimed: "alice", Path: []string{head.Peer.String()}}, got)

	_, err = ask(toWorker) // the head for itself
	requireCode(t, codes.Forbidden, err)
	plain := alice.dials(t, head, nil, atHead) // who lends nothing
	_, err = ask(plain)
	e := requireCode(t, codes.Forbidden, err)
	require.False(t, e.MayHaveRun, "the worker refused it")
	stranger := eve.dials(t, head, &call.Handler{Delegate: eve.key}, atHead) // whom the worker does not know
	_, err = ask(stranger)
	requireCode(t, codes.Unauthenticated, err)

	// What was made for the head is worth nothing in other hands.
	token, err := delegation.Sign(alice.key, delegation.Claims{Audience: head.Peer, Expires: time.Now().Add(time.Minute)})
	require.NoError(t, err)
	stolen := eve.dials(t, worker, nil, atWorker)
	_, err = ask(call.With(stolen, call.Options{Token: token}))
	requireCode(t, codes.Unauthenticated, err)
	limited, err := delegation.Sign(alice.key, delegation.Claims{Audience: eve.Peer, Operations: []string{"fs/*"}, Expires: time.Now().Add(time.Minute)})
	require.NoError(t, err)
	_, err = ask(call.With(stolen, call.Options{Token: limited}))
	requireCode(t, codes.Unauthenticated, err)
	lent, err := delegation.Sign(alice.key, delegation.Claims{Audience: eve.Peer, Operations: []string{"box/*"}, Expires: time.Now().Add(time.Minute)})
	require.NoError(t, err)
	got, err = ask(call.With(stolen, call.Options{Token: lent}))
	require.NoError(t, err)
	require.Equal(t, "alice", got.Caller)
}

func importAll(t *testing.T, c *call.Client) ([]call.Operation, error) {
	ops, err := c.Import(t.Context(), call.Import{Allow: []string{"box/*"}, Export: true})
	if err == nil && len(ops) == 0 {
		err = errors.New("nothing to import")
	}
	return ops, err
}

// TestLoopOverPeers: a ring of heads ends at the first that finds itself in the path.
func TestLoopOverPeers(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "b")
	var toA, toB *call.Client
	hops := 0
	ring := func(next **call.Client) *call.Handler {
		return newHandler(t, call.Operation{Name: "ring/next", Func: call.Func{Type: call.Query, Serve: func(ctx context.Context, s *call.Stream) error {
			hops++ // one at a time
			return s.Forward(ctx, *next, "ring/next", call.Options{})
		}}})
	}
	atA, atB := ring(&toB), ring(&toA)
	toB = a.dials(t, b, nil, atB)
	toA = b.dials(t, a, nil, atA)
	_, err := call.Call[int](t.Context(), toB, "ring/next", struct{}{})
	e := requireCode(t, codes.LoopDetected, err)
	require.LessOrEqual(t, hops, 3)
	require.False(t, e.MayHaveRun)
}

// pinned is a Source of one operation, under a name with "@peer" too.
type pinned struct{ op *call.Operation }

func (p pinned) Lookup(name string) (*call.Operation, bool) {
	return p.op, name == p.op.Name || name == p.op.Name+"@here"
}
func (p pinned) All() iter.Seq[*call.Operation] {
	return func(yield func(*call.Operation) bool) { yield(p.op) }
}
func (pinned) Changed() <-chan struct{} { return nil }

// TestDelegationLendsTheOperationsThatItNames, wherever they run, and no other.
func TestDelegationLendsTheOperationsThatItNames(t *testing.T) {
	alice, eve, worker := newNode(t, "alice"), newNode(t, "eve", "call:delegate"), newNode(t, "worker")
	who := call.QueryFunc(func(ctx context.Context, _ struct{}) (string, error) {
		r, _ := call.RequestFromContext(ctx)
		return r.Caller.ID, nil
	})
	h := newHandler(t, call.Operation{Name: "box/who", Func: who}, call.Operation{Name: "fs/who", Func: who})
	h.Sources = []call.Source{pinned{&call.Operation{Name: "far/who", Func: who}}}
	h.Authenticate = func(_ context.Context, conn alknet.Identity, token string) (alknet.Identity, error) {
		return delegation.Verify(token, delegation.Options{Presenter: conn.Peer, Lookup: func(p alknet.PeerID) (alknet.Identity, bool) {
			return alice.Identity, p == alice.Peer
		}})
	}
	c := eve.dials(t, worker, nil, h)
	for _, tt := range []struct {
		lent, op string
		ok       bool
	}{
		{"box/who", "box/who", true}, {"box/*", "box/who", true}, {"fs/who", "box/who", false}, {"box/*", "fs/who", false},
		{"far/who", "far/who@here", true}, {"box/*", "far/who@here", false},
	} {
		token, err := delegation.Sign(alice.key, delegation.Claims{Audience: eve.Peer, Operations: []string{tt.lent}, Expires: time.Now().Add(time.Minute)})
		require.NoError(t, err)
		got, err := call.Call[string](t.Context(), call.With(c, call.Options{Token: token}), tt.op, struct{}{})
		if !tt.ok {
			require.False(t, requireCode(t, codes.Unauthenticated, err).MayHaveRun)
			continue
		}
		require.NoError(t, err, "%+v", tt)
		require.Equal(t, "alice", got)
	}
}

// TestCallMadeHereIsAHopWhenItIsHandedOn: it says whom it is for and over whom it
// went, so that the next head does not send it back.
func TestCallMadeHereIsAHopWhenItIsHandedOn(t *testing.T) {
	head, worker := newNode(t, "head", "call:forward"), newNode(t, "worker")
	atWorker := newHandler(t, testops.Operations(testops.Options{})...)
	var toWorker *call.Client
	atHead := newHandler(t, call.Operation{Name: "box/who", Func: call.Func{Type: call.Query, Serve: func(ctx context.Context, s *call.Stream) error {
		return s.Forward(ctx, toWorker, "test/whoami", call.Options{})
	}}})
	toWorker = head.dials(t, worker, atHead, atWorker)
	got, err := call.Call[whoami](t.Context(), atHead.As(alknet.Identity{ID: "web"}), "box/who", struct{}{})
	require.NoError(t, err)
	require.Equal(t, whoami{Caller: "head", Claimed: "web", Path: []string{head.Peer.String()}}, got)
}
