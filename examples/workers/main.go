// Workers runs a head and two workers, three processes. The head subscribes to a
// worker's numbers; that worker is interrupted, by you with Ctrl-C's signal or
// after the fifth number by the head, and the numbers go on from the other.
//
//	go run ./examples/workers
//	kill -INT PID # of the worker that counts
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"log"
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
		worker(os.Args[1], must(hex.DecodeString(os.Args[2])))
		return
	}
	ctx, book := context.Background(), must(peer.OpenBook(""))
	graph := &peer.Graph{Imports: book.Imports, Known: book.Known}
	router := alknet.Router{Authenticate: book.Authenticate}
	must(0, router.Register(call.Service(&call.Handler{Sources: []call.Source{graph}, OnConnect: graph.Attach})))
	ep := must(alknet.Listen(ctx, "127.0.0.1:0", nil))
	go router.Serve(ep)
	workers := map[string]*exec.Cmd{}
	for _, id := range []string{"worker-a", "worker-b"} {
		pub, key, err := ed25519.GenerateKey(nil)
		must(0, err)
		must(0, book.Update(func(peers map[string]peer.Peer) error {
			peers[id] = peer.Peer{ID: id, Keys: []peer.Key{{ID: alknet.PeerID(pub)}}, Import: []string{"clock/*"}}
			return nil
		}))
		workers[id] = exec.Command(os.Args[0], ep.Addr().String(), hex.EncodeToString(key.Seed()))
		workers[id].Stderr = os.Stderr
		must(0, workers[id].Start())
		fmt.Println(id, "is process", workers[id].Process.Pid)
		for e := range graph.Watch(ctx) { // worker-a is attached first and gets the call
			if e.Kind == "up" && e.Peer == id {
				break
			}
		}
	}
	to := call.With(graph.To(peer.Ref{Policy: peer.First}), call.Options{
		OnNotice: func(name string, detail json.RawMessage) { fmt.Println(name, string(detail)) },
	})
	for n, err := range call.Subscribe[int](ctx, to, "clock/count", 12) {
		must(0, err)
		fmt.Println(n)
		if n == 5 {
			must(0, workers["worker-a"].Process.Signal(os.Interrupt))
		}
	}
	must(0, workers["worker-b"].Process.Signal(os.Interrupt))
	for _, id := range []string{"worker-a", "worker-b"} {
		fmt.Println(id, "ended:", workers[id].Wait())
	}
}

// worker serves clock/count to the head at an address until it is interrupted.
func worker(head string, seed []byte) {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
	ep := must(alknet.NewEndpoint(nil, nil, &alknet.Config{Key: ed25519.NewKeyFromSeed(seed)}))
	to := must(alknet.ParseAddr(head))
	h := &call.Handler{Registry: new(call.Registry)}
	must(0, h.Registry.Register(call.Operation{Name: "clock/count", Func: call.SubscriptionFunc(count), Resumable: true}))
	sup := peer.Supervisor{Dial: peer.DialPeer(ep, peer.Static{to.Peer: {to}}, to.Peer, h)}
	go sup.Run(context.Background())
	<-ctx.Done()
	drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	must(0, h.Shutdown(drain))
}

// count yields the numbers to n, also from the middle.
func count(ctx context.Context, n int) iter.Seq2[int, error] {
	r, _ := call.RequestFromContext(ctx)
	return func(yield func(int, error) bool) {
		for i := int(r.After) + 1; i <= n && yield(i, nil); i++ {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// must returns v, or ends the program with an error.
func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
