// Package alknet serves many protocols on one port. A service is an ALPN: the
// TLS handshake, on QUIC or on TCP where UDP is blocked, names the service and
// a [Router] hands the connection to the [ProtocolHandler] registered for it.
// A node is one Ed25519 key, and every connection is proven by the keys of both
// ends, or by a name of the public web.
//
// A server:
//
//	ep, err := alknet.Listen(ctx, ":4433", &alknet.Config{Key: key})
//	var router alknet.Router
//	router.Handle("example.com/echo", alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
//		_, err := io.Copy(s, s)
//		return err
//	}))
//	err = router.Serve(ep)
//
// A client:
//
//	conn, err := ep.Dial(ctx, addr, "example.com/echo")
//	stream, err := conn.OpenStream(ctx)
//
// Safe by default: peers without a key that [Router.Authenticate] knows reach
// only services that say AllowAnonymous, every loop that a peer drives has a
// limit ([Limits]), 0-RTT is off, and nothing contacts a public service.
//
// The specifications: QUIC (RFC 9000, 9001, 9221), TLS 1.3 (RFC 8446), ALPN
// (RFC 7301), Happy Eyeballs (RFC 8305), Ed25519 in X.509 (RFC 8410). The
// formats that are alknet's own are in docs/protocol.md.
package alknet
