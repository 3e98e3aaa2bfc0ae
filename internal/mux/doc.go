// Package mux carries many streams in one TLS connection on TCP. Streams and
// their flow control are go-yamux's; what yamux has no frames for goes over one
// control stream, the first that the client opens: how many streams the other
// end may open, STOP_SENDING, reset codes of 62 bits, and why a connection was
// closed. Both ends speak it, so it needs no negotiation (docs/protocol.md,
// section "Mux").
//
// Not given, unlike on QUIC: streams share one ordered byte stream, so a lost
// packet delays all of them, and a connection does not survive a change of address.
package mux
