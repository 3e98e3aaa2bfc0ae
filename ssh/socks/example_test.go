package socks_test

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
)

// A proxy whose connections leave through a link that a Keeper keeps.
func ExampleServer() {
	keeper := &forward.Keeper{ /* Connect: over ssh or ssh/tunnel */ }
	s := &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		link, err := keeper.Link(ctx)
		if err != nil {
			return nil, err
		}
		return link.DialContext(ctx, network, address)
	}}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Serve(l))
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	fmt.Println(s.Shutdown(context.Background()))
	fmt.Println(errors.Is(<-served, net.ErrClosed))
	// Output:
	// socks: a listener that is not on loopback needs Server.Auth
	// <nil>
	// true
}
