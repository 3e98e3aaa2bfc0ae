package tunnel_test

import (
	"context"
	"fmt"
	"io"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// A name that one peer publishes and another dials: no port is open.
func ExampleClient_Publish() {
	policy, err := forward.ParsePolicy("allow peer:worker publish name greeter\nallow * dial name greeter")
	if err != nil {
		fmt.Println(err)
		return
	}
	h := &tunnel.Handler{Gate: &forward.Gate{}}
	h.Gate.SetPolicy(policy)
	ctx := context.Background()
	connect := func(name, scope string) (*tunnel.Client, func()) {
		c, s := alknet.Pipe(tunnel.ALPN, alknet.Identity{ID: name, Scopes: []string{scope}}, alknet.Identity{})
		done := make(chan error)
		go func() { done <- h.ServeConn(ctx, s) }()
		client := tunnel.NewClient(c)
		return client, func() { _ = client.Close(); <-done }
	}
	worker, stopWorker := connect("worker", forward.ScopeListen)
	defer stopWorker()
	l, err := worker.Publish(ctx, "greeter")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		nc, err := l.Accept()
		if err == nil {
			fmt.Fprintf(nc, "hello %v", nc.RemoteAddr())
			_ = nc.Close()
		}
	}()
	bob, stopBob := connect("bob", forward.ScopeDial)
	defer stopBob()
	nc, err := bob.DialContext(ctx, "name", "greeter")
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := io.ReadAll(nc)
	fmt.Println(string(text), err)
	_, err = bob.DialContext(ctx, "name", "other")
	fmt.Println(err)
	// Output:
	// hello bob <nil>
	// denied: said the peer: "denied: no rule allows it"
}
