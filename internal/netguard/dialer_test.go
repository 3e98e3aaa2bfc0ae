package netguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A zone is a name server in memory: the answers to the look-ups of each name,
// one after the other, the last one for ever.
type zone struct {
	mu    sync.Mutex
	names map[string][][]string // guarded by mu
	asked map[string]int        // guarded by mu; questions for IPv4
}

// resolver looks names up in z.
func (z *zone) resolver(t *testing.T) *net.Resolver {
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		wg.Go(func() {
			defer server.Close()
			z.serve(server)
		})
		return client, nil
	}}
}

// serve answers questions as DNS over TCP does, until the client is gone.
func (z *zone) serve(conn net.Conn) {
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer := z.answer(query)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func (z *zone) answer(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	for _, text := range z.lookup(q) {
		addr := netip.MustParseAddr(text)
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
		if addr.Is4() && q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: rh, Body: &dnsmessage.AResource{A: addr.As4()}})
		}
		if addr.Is6() && q.Type == dnsmessage.TypeAAAA {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: rh, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// lookup counts the questions for IPv4 and returns what it is the turn of.
func (z *zone) lookup(q dnsmessage.Question) []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	name := strings.TrimSuffix(q.Name.String(), ".")
	answers := z.names[name]
	if len(answers) == 0 {
		return nil
	}
	if q.Type == dnsmessage.TypeA {
		z.asked[name]++
	}
	return answers[min(max(z.asked[name]-1, 0), len(answers)-1)]
}

func newZone(names map[string][][]string) *zone {
	return &zone{names: names, asked: make(map[string]int)}
}

// listen accepts and closes connections on a loopback address; it returns the
// port and the number of connections.
func listen(t *testing.T, addr string) (uint16, *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 0).String())
	require.NoError(t, err)
	var n atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			conn.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort().Port(), &n
}

// only is an Allow that lets some addresses pass.
func only(addrs ...string) func(context.Context, string, string, netip.AddrPort) error {
	return func(_ context.Context, _, _ string, addr netip.AddrPort) error {
		for _, a := range addrs {
			if netip.MustParseAddr(a) == addr.Addr() {
				return nil
			}
		}
		return errForbidden
	}
}

var errForbidden = errors.New("rule 7 forbids it")

// TestDialContextRefusesLoopbackInEverySpelling dials a port that listens: no
// spelling and no name may reach it, and without the guard they do.
func TestDialContextRefusesLoopbackInEverySpelling(t *testing.T) {
	port, reached := listen(t, "127.0.0.1")
	z := newZone(map[string][][]string{
		"inside.test": {{"127.0.0.1"}}, "mapped.test": {{"::ffff:127.0.0.1"}}, "nat64.test": {{"64:ff9b::7f00:1"}}, "both.test": {{"127.0.0.1", "::1"}},
		"zero.test": {{"0.0.0.0"}}, "long.test": {make127(100)},
	})
	d := &Dialer{Resolver: z.resolver(t)}
	for _, host := range []string{
		"127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1.", "[::ffff:127.0.0.1]",
		"[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::1]", "[::1%lo]", "[::]", "0.0.0.0", "0",
		"localhost", "localhost.", "LOCALHOST", "inside.test", "mapped.test", "nat64.test", "both.test", "zero.test", "long.test", "127.0.0.2", "", "[]",
		"127.0.0.1%lo", "127.0.0.1\x00.example.com", "127。0。0。1", "①②⑦.0.0.1",
	} {
		_, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("%s:%d", host, port))
		require.Error(t, err, "%q", host)
		if !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") { // a name that this machine may lack
			require.ErrorIs(t, err, ErrRefused, "%q", host)
		}
	}
	require.Zero(t, reached.Load())

	d.Allow = only("127.0.0.1")
	for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "inside.test", "both.test", "mapped.test"} {
		conn, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("%s:%d", host, port))
		require.NoError(t, err, host)
		require.Equal(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		conn.Close()
	}
	_, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("127.1:%d", port))
	require.ErrorIs(t, err, ErrRefused, "a rule does not make it an address")
}

// make127 is a list of n loopback addresses.
func make127(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("127.0.1.%d", i))
	}
	return list
}

func TestDialContextJudgesEachAddressOfAName(t *testing.T) {
	port, reached := listen(t, "127.0.0.1")
	z := newZone(map[string][][]string{"mixed.test": {{"127.0.0.2", "10.0.0.1", "127.0.0.1"}}})
	var judged []string
	d := &Dialer{Resolver: z.resolver(t), Allow: func(ctx context.Context, network, name string, addr netip.AddrPort) error {
		require.Equal(t, "tcp", network)
		require.Equal(t, "mixed.test", name)
		require.Equal(t, port, addr.Port())
		_, limited := ctx.Deadline()
		require.True(t, limited)
		judged = append(judged, addr.Addr().String())
		return only("127.0.0.1")(ctx, network, name, addr)
	}}
	conn, err := d.DialContext(t.Context(), "tcp4", fmt.Sprintf("mixed.test:%d", port))
	require.NoError(t, err)
	conn.Close()
	require.ElementsMatch(t, []string{"127.0.0.2", "10.0.0.1", "127.0.0.1"}, judged)
	require.LessOrEqual(t, reached.Load(), int64(1))
}

// A name whose answer changes between a check and the dial that follows it.
func TestDialContextLooksUpOnce(t *testing.T) {
	port, reached := listen(t, "127.0.0.1")
	z := newZone(map[string][][]string{
		"good-then-bad.test": {{"127.0.0.3"}, {"127.0.0.1"}},
		"bad-then-good.test": {{"127.0.0.1"}, {"127.0.0.3"}},
	})
	d := &Dialer{Resolver: z.resolver(t), Allow: only("127.0.0.3")}
	_, err := d.DialContext(t.Context(), "tcp4", fmt.Sprintf("good-then-bad.test:%d", port))
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "nobody listens at the address that was judged")
	require.NotErrorIs(t, err, ErrRefused)
	_, err = d.DialContext(t.Context(), "tcp4", fmt.Sprintf("bad-then-good.test:%d", port))
	require.ErrorIs(t, err, ErrRefused)
	require.Equal(t, map[string]int{"good-then-bad.test": 1, "bad-then-good.test": 1}, z.asked)
	require.Zero(t, reached.Load())
}

func TestDialContextErrors(t *testing.T) {
	z := newZone(map[string][][]string{"inside.test": {{"192.168.1.1", "10.0.0.1"}}})
	tests := []struct{ name, network, target, want string }{
		{"no port", "tcp", "example.com", `netguard: dial "example.com": destination refused: not host:port`},
		{"port 0", "tcp", "1.1.1.1:0", `netguard: dial "1.1.1.1:0": destination refused: a port is a number from 1 to 65535`},
		{"port 65536", "tcp", "1.1.1.1:65536", `netguard: dial "1.1.1.1:65536": destination refused: a port is a number from 1 to 65535`},
		{"port by name", "tcp", "1.1.1.1:http", `netguard: dial "1.1.1.1:http": destination refused: a port is a number from 1 to 65535`},
		{"no host", "tcp", ":80", `netguard: dial ":80": destination refused: a name has 1 to 253 bytes`},
		{"private", "tcp", "10.0.0.1:80", `netguard: dial "10.0.0.1:80": 10.0.0.1:80: destination refused: private address`},
		{"a name that is private", "tcp", "inside.test:80", `netguard: dial "inside.test:80": 192.168.1.1:80: destination refused: private address`},
		{"family", "tcp6", "1.1.1.1:80", `netguard: dial "1.1.1.1:80": destination refused: no address for tcp6`},
		{"other family", "udp4", "[2606:4700::1]:80", `netguard: dial "[2606:4700::1]:80": destination refused: no address for udp4`},
		{"hostile text", "tcp", "a\x1b[2J\u202e:80", `netguard: dial "a\x1b[2J\u202e:80": destination refused: not host:port`},
		{"hostile name", "tcp", "a\x1b\u202e:80", `netguard: dial "a\x1b\u202e:80": destination refused: a name has letters, digits, - and _ only`},
		{"hostile zone", "tcp", "[fe80::1%\x1b]:80", `netguard: dial "[fe80::1%\x1b]:80": destination refused: a zone is the name of an interface`},
		{"network", "unix", "/tmp/x:80", `netguard: dial "/tmp/x:80": unknown network "unix"`},
		{"raw network", "ip4:1", "1.1.1.1:80", `netguard: dial "1.1.1.1:80": unknown network "ip4:1"`},
	}
	d := &Dialer{Resolver: z.resolver(t)}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := d.DialContext(t.Context(), tt.network, tt.target)
			require.EqualError(t, err, tt.want)
		})
	}
	d.Allow = only()
	_, err := d.DialContext(t.Context(), "tcp", "1.1.1.1:80")
	require.ErrorIs(t, err, errForbidden, "the rule's own error is there")
	require.ErrorIs(t, err, ErrRefused)
	_, err = d.DialContext(t.Context(), "tcp", "nobody.test:80")
	dnsErr, ok := errors.AsType[*net.DNSError](err)
	require.True(t, ok, "%v", err)
	require.True(t, dnsErr.IsNotFound)
	require.NotErrorIs(t, err, ErrRefused)
}

func TestDialContextUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	d := &Dialer{Allow: only("127.0.0.1")}
	conn, err := d.DialContext(t.Context(), "udp", pc.LocalAddr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	require.NoError(t, err)
	buf := make([]byte, 10)
	n, _, err := pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "x", string(buf[:n]))
	_, err = new(Dialer).DialContext(t.Context(), "udp", pc.LocalAddr().String())
	require.ErrorIs(t, err, ErrRefused)
}

// The timeout covers a name server that does not answer.
func TestDialContextTimeout(t *testing.T) {
	silent := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	d := &Dialer{Resolver: silent, Timeout: time.Millisecond}
	_, err := d.DialContext(t.Context(), "tcp", "slow.test:80")
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrRefused)

	d.Timeout = -1
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = d.DialContext(ctx, "tcp", "slow.test:80")
	require.Error(t, err, "the context's own limit holds")
}

// ports makes n addresses that differ in their port.
func ports(n int) []netip.AddrPort {
	var list []netip.AddrPort
	for i := range n {
		list = append(list, netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i+1)))
	}
	return list
}

func TestRaceStaggersAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var mu sync.Mutex
		starts := make(map[uint16]time.Duration)
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		conn, err := race(t.Context(), ports(4), func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
			mu.Lock()
			starts[addr.Port()] = time.Since(begin)
			mu.Unlock()
			switch addr.Port() {
			case 1: // never answers
				<-ctx.Done()
				return nil, ctx.Err()
			case 2: // fails after a while
				time.Sleep(100 * time.Millisecond)
				return nil, errors.New("refused")
			}
			time.Sleep(10 * time.Millisecond)
			return client, nil
		})
		require.NoError(t, err)
		require.Equal(t, client, conn)
		require.Equal(t, map[uint16]time.Duration{1: 0, 2: stagger, 3: stagger + 100*time.Millisecond}, starts)
		require.Equal(t, stagger+110*time.Millisecond, time.Since(begin))
	})
}

func TestRaceClosesTheLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pipes []net.Conn
		var mu sync.Mutex
		conn, err := race(t.Context(), ports(2), func(_ context.Context, addr netip.AddrPort) (net.Conn, error) {
			time.Sleep(time.Duration(3-addr.Port()) * time.Second) // both connect, the second first; it does not hear the context
			client, server := net.Pipe()
			mu.Lock()
			defer mu.Unlock()
			pipes = append(pipes, server)
			return client, nil
		})
		require.NoError(t, err)
		require.Len(t, pipes, 2)
		_, err = pipes[1].Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "the loser is closed")
		conn.Close()
		_, err = pipes[0].Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestRaceFailsWithTheFirstError(t *testing.T) { synctest.Test(t, testRaceFailsWithTheFirstError) }
func testRaceFailsWithTheFirstError(t *testing.T) {
	begin := time.Now()
	_, err := race(t.Context(), ports(4), func(_ context.Context, addr netip.AddrPort) (net.Conn, error) {
		return nil, fmt.Errorf("port %d", addr.Port())
	})
	require.EqualError(t, err, "port 1")
	require.Zero(t, time.Since(begin), "a failure does not wait for its turn")

	_, err = race(t.Context(), ports(1), func(context.Context, netip.AddrPort) (net.Conn, error) { panic("dial") })
	require.Error(t, err, "a panic is an error")

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = race(ctx, ports(4), func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, time.Second, time.Since(begin))
}

func TestJudgeTriesFamiliesInTurnAndAFewOnly(t *testing.T) {
	parse := func(list ...string) (out []netip.AddrPort) {
		for _, s := range list {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr(s), 1))
		}
		return out
	}
	all := parse("2a00::1", "2a00::2", "2a00::3", "1.0.0.1", "1.0.0.2", "1.0.0.3")
	got, err := new(Dialer).judge(t.Context(), "tcp", "x", all)
	require.NoError(t, err)
	require.Equal(t, parse("2a00::1", "1.0.0.1", "2a00::2", "1.0.0.2"), got)
	require.Equal(t, parse("1.0.0.1", "2a00::1", "1.0.0.2"), inTurn(parse("1.0.0.1", "1.0.0.2", "2a00::1")))
}
