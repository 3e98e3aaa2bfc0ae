package peer_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
)

// A head takes the operations of a worker and calls them there.
func ExampleGraph() {
	ctx := context.Background()
	graph := &peer.Graph{Imports: func(peer.Info) call.Import { return call.Import{Allow: []string{"math/*"}} }}
	head := &call.Handler{Sources: []call.Source{graph}, OnConnect: graph.Attach}

	// The worker's end of a connection, and the head's.
	mine, theirs := alknet.Pipe(call.ALPN, alknet.Identity{ID: "worker-3"}, alknet.Identity{ID: "head"})
	served := make(chan error, 1)
	go func() { served <- head.ServeConn(ctx, theirs) }()
	ops := new(call.Registry)
	if err := ops.Register(call.Operation{Name: "math/double", Func: call.QueryFunc(func(_ context.Context, n int) (int, error) { return 2 * n, nil })}); err != nil {
		fmt.Println(err)
	}
	worker := call.NewClient(mine, &call.Handler{Registry: ops})
	for e := range graph.Watch(ctx) {
		if e.Kind == "up" {
			break
		}
	}

	fmt.Println(call.Call[int](ctx, graph.To(peer.Ref{Peer: "worker-3"}), "math/double", 21))
	for r := range peer.All[int](ctx, graph, peer.Ref{}, "math/double", 4) {
		fmt.Println(r.Peer, r.Out, r.Err)
	}
	ex := graph.Explain("math/double", peer.Ref{Policy: peer.First})
	fmt.Println(ex.Winner, ex.Why)
	fmt.Println(worker.Close(), <-served, graph.Close())
	// Output:
	// 42 <nil>
	// worker-3 8 <nil>
	// worker-3 first among 1
	// <nil> <nil> <nil>
}

// A peer changes its key: both keys sign, and whoever carries the statement.
func ExampleSignSuccessor() {
	_, old, _ := ed25519.GenerateKey(nil)
	_, next, _ := ed25519.GenerateKey(nil)
	book, err := peer.OpenBook("")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = book.Update(func(peers map[string]peer.Peer) error {
		key := alknet.PeerID(old.Public().(ed25519.PublicKey))
		peers["worker-3"] = peer.Peer{ID: "worker-3", Keys: []peer.Key{{ID: key}}}
		return nil
	})
	fmt.Println(err)
	statement, err := peer.SignSuccessor(old, next, 24*time.Hour)
	fmt.Println(err)
	fmt.Println(book.Succeed(statement))
	p, _ := book.Get("worker-3")
	fmt.Println(len(p.Keys), "keys, the old one ends:", !p.Keys[0].NotAfter.IsZero())
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// 2 keys, the old one ends: true
}
