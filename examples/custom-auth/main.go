// Custom-auth decides who peers are from a list of keys in memory: names and
// scopes, a stranger who is refused, and a peer that is cut when it is revoked.
//
//	go run ./examples/custom-auth
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"sync"

	"github.com/alkdev/alknet"
)

const alpn = "example.com/whoami"

// A Book holds the known peers: a PeerID's Identity.
type Book struct{ sync.Map }

// Authenticate is asked once per connection. An empty Identity is anonymous.
func (b *Book) Authenticate(_ context.Context, state tls.ConnectionState, _ string) (id alknet.Identity, err error) {
	if len(state.PeerCertificates) > 0 {
		key, _ := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
		known, _ := b.Load(alknet.PeerID(key))
		id, _ = known.(alknet.Identity)
	}
	return id, nil
}

func main() {
	ctx := context.Background()
	alice, bob := must(alknet.NewEndpoint(nil, nil, nil)), must(alknet.NewEndpoint(nil, nil, nil))
	book := &Book{}
	book.Store(alice.ID(), alknet.Identity{ID: "alice", Scopes: []string{"whoami"}})
	book.Store(bob.ID(), alknet.Identity{ID: "bob"})
	server := must(alknet.Listen(ctx, "127.0.0.1:0", nil))
	served := make(chan string)
	router := &alknet.Router{Authenticate: book.Authenticate}
	handler := alknet.HandlerFunc(func(_ context.Context, c *alknet.Conn) error {
		served <- c.Identity().ID
		<-c.Done()
		return nil
	})
	access := alknet.AccessControl{RequiredScopes: []string{"whoami"}}
	must(0, router.Register(alknet.Service{ALPN: alpn, Access: access, Handler: handler}))
	go router.Serve(server)

	_, err := must(bob.Dial(ctx, server.Addr(), alpn)).AcceptStream(ctx)
	fmt.Println("bob:", code(err))
	_, err = must(must(alknet.NewEndpoint(nil, nil, nil)).Dial(ctx, server.Addr(), alpn)).AcceptStream(ctx)
	fmt.Println("a stranger:", code(err))
	conn := must(alice.Dial(ctx, server.Addr(), alpn))
	fmt.Println("served:", <-served)
	book.Delete(alice.ID())
	fmt.Println("list changed:", router.Reauthenticate(ctx))
	_, err = conn.AcceptStream(ctx)
	fmt.Println("alice:", code(err))
	fmt.Println("drained:", router.Shutdown(ctx))
}

// code is what the other end closed the connection with.
func code(err error) (c alknet.ErrorCode) {
	if e, ok := errors.AsType[*alknet.Error](err); ok {
		c = e.Code
	}
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
