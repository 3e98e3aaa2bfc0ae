// Workers runs a head and two workers, three processes (go run ./examples/workers).
// The head subscribes to the numbers of one; after the fifth that is interrupted, as
// by Ctrl-C, and the numbers go on from the other.
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
)

func main() {
	if len(os.Args) > 1 {
		worker(must(alknet.ParseAddr(os.Args[1])), must(hex.DecodeString(os.Args[2])))
		return
	}
	ctx, book, events, workers := context.Background(), must(peer.OpenBook("")), make(chan string, 100), []*exec.Cmd{}
	graph := &peer.Graph{Imports: book.Imports, Known: book.Known, OnEvent: func(e peer.Event) { events <- e.Kind }}
	router := alknet.Router{Authenticate: book.Authenticate}
	must(0, router.Register(call.Service(&call.Handler{Sources: []call.Source{graph}, OnConnect: graph.Attach})))
	ep := must(alknet.Listen(ctx, "127.0.0.1:0", nil))
	go router.Serve(ep)
	for i, id := range []string{"worker-a", "worker-b"} {
		pub, key, _ := ed25519.GenerateKey(nil)
		entry := peer.Peer{ID: id, Keys: []peer.Key{{ID: alknet.PeerID(pub)}}, Import: []string{"clock/*"}}
		must(0, book.Update(func(peers map[string]peer.Peer) error { peers[id] = entry; return nil }))
		workers = append(workers, exec.Command(os.Args[0], ep.Addr().String(), hex.EncodeToString(key.Seed())))
		must(0, workers[i].Start())
		for <-events != "up" { // worker-a is attached first and gets the call
		}
	}
	told := call.Options{OnNotice: func(name string, detail json.RawMessage) { fmt.Println(name, string(detail)) }}
	for n, err := range call.Subscribe[int](ctx, call.With(graph.To(peer.Ref{Policy: peer.First}), told), "clock/count", 12) {
		must(0, err)
		if fmt.Println(n); n == 5 {
			must(0, workers[0].Process.Signal(os.Interrupt))
		}
	}
	must(0, workers[1].Process.Signal(os.Interrupt))
	fmt.Println("ended:", workers[0].Wait(), workers[1].Wait())
}

// worker serves clock/count to the head until it is interrupted.
func worker(head alknet.Addr, seed []byte) {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
	ep := must(alknet.NewEndpoint(nil, nil, &alknet.Config{Key: ed25519.NewKeyFromSeed(seed)}))
	h := &call.Handler{Registry: new(call.Registry)}
	must(0, h.Registry.Register(call.Operation{Name: "clock/count", Func: call.SubscriptionFunc(count), Resumable: true}))
	go (&peer.Supervisor{Dial: peer.DialPeer(ep, peer.Static{head.Peer: {head}}, head.Peer, h)}).Run(context.Background())
	<-ctx.Done()
	must(0, h.Shutdown(context.Background()))
}

// count can begin in the middle.
func count(ctx context.Context, n int) iter.Seq2[int, error] {
	r, _ := call.RequestFromContext(ctx)
	return func(yield func(int, error) bool) {
		for i := int(r.After) + 1; i <= n && yield(i, nil); i++ {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
