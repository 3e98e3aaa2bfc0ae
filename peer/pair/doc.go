// Package pair makes two nodes know each other with nothing but a printed
// ticket: one-time invites, ALPN "alknet/pair", on QUIC and on one bare TLS
// connection (Raw), in the frames of package call.
//
// A head that invites:
//
//	h := &pair.Handler{Book: book, Dir: "/var/lib/alknet", Addrs: func() []string { return []string{"head.example:4433"} }}
//	err := router.Register(pair.Service(h))
//	ticket, err := h.Invite(pair.Invite{Peer: peer.Peer{ID: "worker-3", Import: []string{"container/*"}}})
//	fmt.Println(ticket) // alknet://…
//
// A node that joins:
//
//	t, err := pair.ParseTicket(os.Args[1])
//	joined, err := pair.Join(ctx, ep, t, pair.Joining{Name: "worker 3"})
//
// The ticket pins the head's key, so nobody can stand in between, and the
// handshake proves the joiner's. An invite is for one use and one hour unless it
// says otherwise; only the hash of its secret is kept, and both the use of the
// invite and the entry are on the disk before the joiner hears of them. What the
// joiner may do is what the invite says and never what the joiner asks for.
//
// The messages are in docs/protocol.md, section "Peers".
package pair
