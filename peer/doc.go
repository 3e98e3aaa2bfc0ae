// Package peer keeps the graph of connected peers and the operations that each
// serves, and routes calls to one of them, to any, or to all. Workers dial out
// from behind NAT, come, go and restart, and callers do not notice.
//
// A head:
//
//	book, err := peer.OpenBook("peers.json")
//	graph := &peer.Graph{Imports: book.Imports, Known: book.Known}
//	h := &call.Handler{Registry: &reg, Sources: []call.Source{graph}, OnConnect: graph.Attach, Authenticate: book.Token}
//	router := alknet.Router{Authenticate: book.Authenticate}
//	err = router.Register(call.Service(h))
//
//	out, err := call.Call[Result](ctx, graph.To(peer.Ref{Peer: "worker-3"}), "container/exec", cmd)
//	for r := range peer.All[string](ctx, graph, peer.Ref{}, "sys/uptime", struct{}{}) { … }
//
// A worker behind NAT:
//
//	sup := peer.Supervisor{Dial: peer.DialPeer(ep, dir, headID, &call.Handler{Registry: &ops})}
//	err = sup.Run(ctx)
//
// The name of an operation may say where it runs: "box/start@worker-a" is that
// peer and no other, "box/start@any" is the graph even where a local operation
// has the name, and "box/start" is the local one, else Graph.Default.
//
// Safe by default: nothing is taken from a peer unless Graph.Imports says so;
// what is taken is Internal unless it is exported; a local name can never be
// taken by a peer; a peer's labels and load choose among peers and open nothing;
// a call is repeated elsewhere only if it surely did not run, or if it may run
// twice.
//
// The files and messages are in docs/protocol.md, section "Peers".
package peer
