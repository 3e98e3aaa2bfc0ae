// Package tunnel forwards connections straight over streams, ALPN
// "alknet/tunnel" on QUIC and Mux: local and remote forwards, names that are
// published without a port, and flows of UDP, without SSH and its second
// encryption.
//
//	router.Register(tunnel.Service(&tunnel.Handler{Gate: gate})) // the gate that ssh has too
//
//	c, err := tunnel.Dial(ctx, ep, peer)
//	nc, err := c.DialContext(ctx, "tcp", "db.corp.example:5432") // from the peer
//	l, err := c.Listen(ctx, "tcp", "127.0.0.1:8080")             // at the peer
//	l, err = c.Publish(ctx, "grafana")                           // others dial ("name", "grafana")
//
// A [Client] is a forward.Link: a forward.Keeper keeps its forwards alive. Who
// may do what is the Gate's policy; a zero Handler refuses everything. The
// frames are in docs/protocol.md.
package tunnel
