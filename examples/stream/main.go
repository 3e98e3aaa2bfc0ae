// Stream subscribes, uploads, exchanges and is called back, on one connection.
//
//	go run ./examples/stream
package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// numbers yields 1, 2, 3 … until nobody wants more.
func numbers(ctx context.Context, _ struct{}) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := 1; yield(i, nil); i++ {
		}
		fmt.Println("server: the subscriber has left:", ctx.Err())
	}
}

func total(_ context.Context, in iter.Seq2[int, error]) (sum int, err error) {
	for n, e := range in {
		sum, err = sum+n, e
	}
	return sum, err
}

func echo(_ context.Context, in iter.Seq2[int, error]) iter.Seq2[int, error] { return in }

func main() {
	ctx := context.Background()
	var ops, mine call.Registry
	check(ops.Register(
		call.Operation{Name: "num/all", Func: call.SubscriptionFunc(numbers)},
		call.Operation{Name: "num/total", Func: call.UploadFunc(total)},
		call.Operation{Name: "num/echo", Func: call.ExchangeFunc(echo)},
	))
	check(mine.Register(call.Operation{Name: "user/name", Func: call.QueryFunc(func(context.Context, struct{}) (string, error) { return "alice", nil })}))
	asked := make(chan string)
	conn, server := alknet.Pipe(call.ALPN, alknet.Identity{ID: "client"}, alknet.Identity{ID: "server"})
	h := &call.Handler{Registry: &ops, OnConnect: func(ctx context.Context, c *call.Client) error {
		name, err := call.Call[string](ctx, c, "user/name", struct{}{}) // on the connection that the client dialled
		asked <- name
		return err
	}}
	go h.ServeConn(ctx, server)
	c := call.NewClient(conn, &call.Handler{Registry: &mine})
	fmt.Println("server: my client is", <-asked)
	for n, err := range call.Subscribe[int](ctx, c, "num/all", struct{}{}) {
		check(err)
		if fmt.Println("subscribed:", n); n == 3 {
			break // stops the handler
		}
	}
	sum, err := call.Upload[int](ctx, c, "num/total", upTo(100))
	check(err)
	fmt.Println("uploaded 1 to 100, total", sum)
	for n, err := range call.Exchange[int](ctx, c, "num/echo", upTo(3)) {
		fmt.Println("exchanged:", n, err)
	}
	check(errors.Join(c.Close(), h.Shutdown(ctx))) // every handler has returned
}

func upTo(n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := 1; i <= n && yield(i, nil); i++ {
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
