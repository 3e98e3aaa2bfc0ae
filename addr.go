package alknet

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/alkdev/alknet/internal/printable"
)

// Transport is what carries a connection; values may be combined where a set
// is asked for.
//
// QUIC gives everything. Mux, the fallback on TCP, has the same streams, but a
// lost packet delays all of them and a connection does not survive a change of
// address; it has no datagrams. Raw has one stream; a reset carries no code and
// a close no reason, so a peer sees that something was cut off, not why.
type Transport uint8

// The transports.
const (
	QUIC Transport = 1 << iota // streams are QUIC streams
	Mux                        // streams multiplexed in one TLS connection on TCP; both ends are alknet
	Raw                        // one TLS connection on TCP whose bytes are the only stream; foreign clients
)

// String is the name, or the names joined by "|".
func (t Transport) String() string {
	var names []string
	for i, name := range [...]string{"QUIC", "Mux", "Raw"} {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}

// check refuses sets that cannot be served or dialled.
func (t Transport) check() error {
	switch {
	case t == 0 || t&^(QUIC|Mux|Raw) != 0:
		return fmt.Errorf("transport %#x is unknown", uint8(t))
	case t&Mux != 0 && t&Raw != 0:
		return errors.New("transports Mux and Raw exclude each other: the ALPN does not tell them apart")
	}
	return nil
}

// Addr says where a peer is and who must answer there.
type Addr struct {
	// HostPort is where to dial: "host:port" or "ip:port".
	HostPort string
	// Peer is the only key that may answer. Zero: the host's name must be
	// proven by a certificate that Config.Roots trusts.
	Peer PeerID
	// Over are the transports to try. 0: QUIC|Mux; a package's Dial then takes
	// its Service's (docs/protocol.md, section "ALPNs").
	Over Transport
	// ServerName is the name to prove where HostPort holds an IP address; only
	// without Peer.
	ServerName string
	// Via is the text form of a relay's Addr. Endpoint.Dial does not follow it
	// and wraps errors.ErrUnsupported; package peer's dialer does.
	Via string
}

// errAddr is a text that is no Addr.
var errAddr = errors.New("alknet: not an address")

// ParseAddr reads "host:port" or "peerid@host:port". The port is a number from
// 1 to 65535 or 0; an IPv6 address stands in brackets.
func ParseAddr(s string) (Addr, error) {
	bad := func(why string) (Addr, error) {
		return Addr{}, fmt.Errorf("%w: %s: %s", errAddr, printable.Quote(s), why)
	}
	var a Addr
	if len(s) > maxAddr {
		return bad("too long")
	}
	rest := s
	if id, after, ok := strings.Cut(s, "@"); ok {
		peer, err := ParsePeerID(id)
		if err != nil {
			return bad("what stands before @ is no peer id")
		}
		a.Peer, rest = peer, after
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return bad("want host:port or peerid@host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return bad("the port is no number from 0 to 65535")
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("@/[]\"\\", r) }) {
		return bad("the host holds a character that no host name has")
	}
	a.HostPort = net.JoinHostPort(host, port)
	if a.HostPort != rest {
		return bad("not in its shortest form")
	}
	return a, nil
}

// maxAddr bounds the text of an address, in bytes: a name of 253, a key, a port.
const maxAddr = 320

// String is "peerid@host:port", or "host:port" without a Peer. It leaves out
// Over, ServerName and Via.
func (a Addr) String() string {
	if a.Peer.IsZero() {
		return a.HostPort
	}
	return a.Peer.String() + "@" + a.HostPort
}

// MarshalText is String as bytes.
func (a Addr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is [ParseAddr].
func (a *Addr) UnmarshalText(text []byte) error {
	v, err := ParseAddr(string(text))
	if err == nil {
		*a = v
	}
	return err
}
