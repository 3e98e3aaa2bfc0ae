// Whole-node assembles what "alknet serve" does: one phrase, one port, calls, a
// graph of peers, invites, ssh and tunnels. Then a guest joins it and calls it.
//
//	go run ./examples/whole-node
package main

import (
	"context"
	"crypto"
	"fmt"
	"log"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/peer/pair"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
	"github.com/alkdev/alknet/vault"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	v := must(vault.New(must(vault.NewPhrase(12)), vault.Secret{}, nil))
	defer v.Close()
	key := must(v.Identity(0))
	ep := must(alknet.Listen(ctx, "127.0.0.1:0", &alknet.Config{Key: key}))

	book := must(peer.OpenBook("")) // in memory; a path keeps it
	router := &alknet.Router{Authenticate: book.Authenticate}
	book.OnChange = func() { check(router.Reauthenticate(ctx)) }
	graph := &peer.Graph{Imports: book.Imports, Known: book.Known}
	reg := &call.Registry{}
	check(reg.Register(call.Operation{Name: "greet/me", Func: call.QueryFunc(greet)}))
	check(reg.Register(graph.Operations()...))
	gate := &forward.Gate{}
	gate.SetPolicy(must(forward.ParsePolicy("allow ssh:forward dial tcp 127.0.0.1:*")))
	invites := &pair.Handler{Book: book, Head: ep.ID(), Addrs: func() []string { return []string{ep.Addr().HostPort} }}
	calls := &call.Handler{Registry: reg, Sources: []call.Source{graph}, OnConnect: graph.Attach, Authenticate: book.Token}
	shells := &ssh.Handler{HostKeys: []crypto.Signer{must(v.SSHHostKey(0))}, Node: key, Accounts: ssh.OwnAccount, Gate: gate}
	for _, s := range []alknet.Service{call.Service(calls), pair.Service(invites), ssh.Service(shells), tunnel.Service(&tunnel.Handler{Gate: gate})} {
		check(router.Register(s))
		fmt.Println("serves", s.ALPN)
	}
	go router.Serve(ep)

	ticket := must(invites.Invite(pair.Invite{Peer: peer.Peer{ID: "bob", Scopes: []string{ssh.ScopeShell}}}))
	guest := must(alknet.NewEndpoint(nil, nil, nil))
	joined := must(pair.Join(ctx, guest, ticket, pair.Joining{Name: "bob"}))
	fmt.Println("joined as", joined.ID, joined.Scopes)
	c := must(call.Dial(ctx, guest, ep.Addr(), nil))
	fmt.Println(must(call.Call[string](ctx, c, "greet/me", struct{}{})))

	check(c.Close())
	check(guest.Close())
	fmt.Println("drained:", router.Shutdown(ctx))
	check(graph.Close())
	check(book.Close())
	check(ep.Close())
}

func greet(ctx context.Context, _ struct{}) (string, error) {
	r, _ := call.RequestFromContext(ctx)
	return "hello " + r.Caller.ID, nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](v T, err error) T { check(err); return v }
