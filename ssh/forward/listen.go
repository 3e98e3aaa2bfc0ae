package forward

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/alkdev/alknet"
)

// maxPortTries bounds the search for a free port in the range of a rule.
const maxPortTries = 64

// listenTCP binds a literal address, or every address of the families that the
// policy allows.
func (g *Gate) listenTCP(ctx context.Context, id *alknet.Identity, address string) (net.Listener, error) {
	var ranges [][2]uint16
	q := query{op: OpListen, network: "tcp", ranges: &ranges}
	if _, err := splitTarget(&q, address); err != nil {
		return nil, err
	}
	network := "tcp"
	switch {
	case !q.addr.IsValid():
		var err error
		if network, err = g.wildcard(ctx, id, &q, address); err != nil {
			return nil, err
		}
	default:
		if err := g.decide(ctx, id, q, address); err != nil {
			return nil, err
		}
		network = family(q.addr)
	}
	host := q.addr.String()
	if network == "tcp" {
		host = ""
	}
	nl, err := bind(ctx, network, host, ports(q.port, ranges))
	if err != nil {
		return nil, dialError(err)
	}
	q.port = nl.Addr().(*net.TCPAddr).AddrPort().Port()
	return g.trackListener(ctx, id, q, nl, nl.Close)
}

// family is the network that binds an address and nothing else.
func family(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// wildcard judges both families of "every address".
func (g *Gate) wildcard(ctx context.Context, id *alknet.Identity, q *query, asked string) (string, error) {
	four, six := *q, *q
	four.addr, six.addr = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	err4 := g.decide(ctx, id, four, asked)
	err6 := g.decide(ctx, id, six, asked)
	switch {
	case err4 == nil && err6 == nil:
		q.addr, q.other = six.addr, four.addr
		return "tcp", nil
	case err4 == nil:
		q.addr = four.addr
		return "tcp4", nil
	case err6 == nil:
		q.addr = six.addr
		return "tcp6", nil
	}
	return "", err4
}

// ports are what may be bound: the one that was asked for, or ranges for 0.
func ports(port uint16, ranges [][2]uint16) [][2]uint16 {
	if port != 0 || len(ranges) == 0 {
		return [][2]uint16{{port, port}}
	}
	return ranges
}

// bind takes the first port that is free, beginning anywhere in each range.
func bind(ctx context.Context, network, host string, ranges [][2]uint16) (net.Listener, error) {
	var lc net.ListenConfig
	var first error
	tries := 0
	for _, r := range ranges {
		span := int(r[1]) - int(r[0]) + 1
		start, err := random(span)
		if err != nil {
			return nil, err
		}
		for i := 0; i < span && tries < maxPortTries; i++ {
			tries++
			port := int(r[0]) + (start+i)%span
			nl, err := lc.Listen(ctx, network, net.JoinHostPort(host, strconv.Itoa(port)))
			if err == nil {
				return nl, nil
			}
			if first == nil {
				first = err
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
		}
	}
	return nil, first
}

func random(n int) (int, error) {
	if n <= 1 {
		return 0, nil
	}
	v, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		return 0, err
	}
	return int(v.Int64()), nil
}

// listenUnix binds a socket that nobody else can connect to, at a path where
// nothing is. It is bound in a folder of its own and then linked to its place:
// between a bind and a chmod everybody could connect.
func (g *Gate) listenUnix(ctx context.Context, id *alknet.Identity, address string) (net.Listener, error) {
	resolved, found, err := resolvePath(OpListen, address)
	if err != nil {
		return nil, err
	}
	q := query{op: OpListen, network: "unix", name: resolved}
	if err := g.decide(ctx, id, q, address); err != nil {
		return nil, err
	}
	if !found {
		return nil, &Error{Code: CodeHostUnreachable, Reason: "no such folder"}
	}
	nl, berr := bindSocket(resolved)
	if berr != nil {
		return nil, dialError(berr)
	}
	nl.path = resolved
	return g.trackListener(ctx, id, q, nl, func() error {
		return errors.Join(nl.Listener.Close(), os.Remove(resolved))
	})
}

// A socketListener has the path at which its clients find it.
type socketListener struct {
	net.Listener
	path string
}

func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func bindSocket(path string) (*socketListener, error) {
	var name [4]byte
	_, _ = rand.Read(name[:]) // never fails
	dir := filepath.Join(filepath.Dir(path), ".s"+hex.EncodeToString(name[:]))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it holds the socket's first name only
	first := filepath.Join(dir, "s")
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: first, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ul.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(first, 0o600), os.Link(first, path)); err != nil {
		return nil, errors.Join(err, ul.Close())
	}
	return &socketListener{Listener: ul, path: path}, nil
}

// trackListener makes nl a flow, or closes it.
func (g *Gate) trackListener(ctx context.Context, id *alknet.Identity, q query, nl net.Listener, end func() error) (net.Listener, error) {
	l := &flowListener{Listener: nl, conns: make(map[*flowConn]struct{})}
	f := newFlow(ctx, id, q, l.cut)
	l.close = sync.OnceValue(func() error {
		g.release(f)
		return end()
	})
	if err := g.open(f); err != nil {
		_ = end() // nobody has used it
		return nil, err
	}
	return l, nil
}
