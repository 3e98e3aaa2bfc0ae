// Package socks is a local proxy in front of any dialer: SOCKS5 (RFC 1928 and
// 1929), SOCKS4 and SOCKS4a CONNECT, and HTTP CONNECT, told apart by the first
// byte. Names are handed to the dialer as they came, so that they are resolved
// where the connection leaves.
//
//	s := &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
//		link, err := keeper.Link(ctx) // of package forward, over ssh or ssh/tunnel
//		if err != nil {
//			return nil, err
//		}
//		return link.DialContext(ctx, network, address)
//	}}
//	err := s.Serve(listener)
//
// Without Auth only loopback is served. UDP ASSOCIATE is off unless UDP is set,
// BIND is refused always, and there is never a direct connection when the dialer
// fails.
package socks
