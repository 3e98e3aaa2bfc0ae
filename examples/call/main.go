// Call offers an operation and calls it: over QUIC and, where UDP is blocked,
// over one bare TLS connection.
//
//	go run ./examples/call                         both ends in one process
//	go run ./examples/call serve 127.0.0.1:4433    prints the address to call
//	go run ./examples/call PEERID@127.0.0.1:4433   calls it
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// sum is the input of math/add: its schema is inferred, and inputs are checked.
type sum struct {
	A int `json:"a"`
	B int `json:"b"`
}

func add(_ context.Context, in sum) (int, error) { return in.A + in.B, nil }

// serve offers math/add to every peer that proves a key.
func serve(ctx context.Context, addr string) (*alknet.Endpoint, *alknet.Router) {
	var reg call.Registry
	check(reg.Register(call.Operation{Name: "math/add", Description: "adds two integers", Func: call.QueryFunc(add)}))
	ep, err := alknet.Listen(ctx, addr, nil)
	check(err)
	router := &alknet.Router{}
	check(router.Register(call.Service(&call.Handler{Registry: &reg})))
	return ep, router
}

// ask calls math/add at a peer.
func ask(ctx context.Context, to alknet.Addr) {
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	check(err)
	defer ep.Close()
	c, err := call.Dial(ctx, ep, to, nil)
	check(err)
	defer c.Close()
	five, err := call.Call[int](ctx, c, "math/add", sum{2, 3})
	check(err)
	fmt.Println(c.Conn().Transport(), "2 + 3 =", five)
	_, err = call.Call[int](ctx, c, "math/add", map[string]any{"a": "two", "b": 3})
	fmt.Println(err)
}

func main() {
	ctx := context.Background()
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "serve":
		ep, router := serve(ctx, args[1])
		fmt.Println(ep.Addr())
		check(router.Serve(ep))
	case len(args) == 1:
		to, err := alknet.ParseAddr(args[0])
		check(err)
		ask(ctx, to)
	default:
		ep, router := serve(ctx, "127.0.0.1:0")
		go router.Serve(ep)
		to := ep.Addr()
		ask(ctx, to)
		to.Over = alknet.Raw // as Dial does by itself where UDP is blocked
		ask(ctx, to)
		check(router.Shutdown(ctx))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
