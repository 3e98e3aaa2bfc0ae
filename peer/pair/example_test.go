package pair_test

import (
	"context"
	"fmt"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/peer/pair"
)

// Two nodes get to know each other with nothing but a printed ticket.
func Example() {
	ctx := context.Background()
	head, err := alknet.Listen(ctx, "127.0.0.1:0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	book, _ := peer.OpenBook("") // in memory it does not fail
	h := &pair.Handler{Book: book, Head: head.ID(), Addrs: func() []string { return []string{head.Addr().HostPort} }}
	router := &alknet.Router{Authenticate: book.Authenticate}
	if err := router.Register(pair.Service(h)); err != nil {
		fmt.Println(err)
	}
	served := make(chan error, 1)
	go func() { served <- router.Serve(head) }()

	ticket, err := h.Invite(pair.Invite{Peer: peer.Peer{ID: "worker-3", Scopes: []string{"box:use"}}})
	fmt.Println(err)
	printed := ticket.String()

	worker, err := alknet.NewEndpoint(nil, nil, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	read, err := pair.ParseTicket(printed)
	fmt.Println(err)
	joined, err := pair.Join(ctx, worker, read, pair.Joining{Name: "worker 3"})
	fmt.Println(joined.ID, joined.Scopes, joined.Head.Keys[0].ID == head.ID(), err)

	_ = worker.Close()
	_ = router.Close()
	<-served
	_ = head.Close()
	// Output:
	// <nil>
	// <nil>
	// worker-3 [box:use] true <nil>
}
