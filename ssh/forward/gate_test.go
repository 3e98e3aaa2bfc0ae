package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
)

func portOf(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

// resolver answers names by a function, through a name server in memory.
func resolver(answer func(name string) []string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			var size [2]byte
			for {
				if _, err := io.ReadFull(there, size[:]); err != nil {
					return
				}
				buf := make([]byte, int(size[0])<<8|int(size[1]))
				if _, err := io.ReadFull(there, buf); err != nil {
					return
				}
				out := answerDNS(buf, answer)
				if _, err := there.Write(append([]byte{byte(len(out) >> 8), byte(len(out))}, out...)); err != nil {
					return
				}
			}
		}()
		return here, nil
	}}
}

func answerDNS(in []byte, answer func(name string) []string) []byte {
	var m dnsmessage.Message
	if m.Unpack(in) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	for _, s := range answer(strings.TrimSuffix(q.Name.String(), ".")) {
		a := netip.MustParseAddr(s)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, Type: q.Type}
		if a.Is4() && q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		}
		if a.Is6() && q.Type == dnsmessage.TypeAAAA {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	out, _ := m.Pack()
	return out
}

// S5: with a rule for names of the public internet no spelling of an address, no
// answer of the resolver and no second look-up leads to a local one.
func TestNoSpellingLeadsInside(t *testing.T) {
	l := testenv.Echo(t, "tcp", "127.0.0.1:0")
	port := portOf(l)
	var mu sync.Mutex
	asked := 0
	g := &Gate{Resolver: resolver(func(name string) []string {
		mu.Lock()
		defer mu.Unlock()
		switch name {
		case "local.test", "localhost":
			return []string{"127.0.0.1", "::1"}
		case "mapped.test":
			return []string{"::ffff:127.0.0.1"}
		case "nat64.test":
			return []string{"64:ff9b::7f00:1"}
		case "changes.test": // public when it is judged, local when it is asked again
			if asked++; asked <= 2 {
				return []string{"192.0.2.1"}
			}
			return []string{"127.0.0.1"}
		}
		return nil
	}), DialTimeout: 300 * time.Millisecond}
	g.SetPolicy(mustPolicy(t, "allow * dial tcp,udp *:*"))
	for _, host := range []string{
		"127.0.0.1", "127.1", "127.0.1", "0x7f000001", "0x7f.1", "017700000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
		"[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[::]", "0.0.0.0", "0", "169.254.169.254", "[fe80::1%lo]", "[fd00:ec2::254]",
		"100.64.0.1", "10.0.0.1", "224.0.0.1", "255.255.255.255", "localhost", "localhost.", "LOCALHOST", "local.test", "mapped.test", "nat64.test", "changes.test",
		strings.Repeat("a", 256), "a\x00b", "", "a b", "bücher", "①②⑦.0.0.1",
	} {
		for _, network := range []string{"tcp", "udp"} {
			_, err := g.DialContext(t.Context(), bob, network, host+":"+port)
			var e *Error
			require.ErrorAs(t, err, &e, host)
			require.NotContains(t, err.Error(), port, host)
			require.NotEqual(t, CodeOK, e.Code)
			require.NotEqual(t, CodeRefused, e.Code, "%s was dialled", host)
		}
	}
	for _, p := range []string{"0", "65536", "-1", "x", "", "080000", "1e3", " 80"} {
		_, err := g.DialContext(t.Context(), bob, "tcp", "127.0.0.1:"+p)
		var e *Error
		require.ErrorAs(t, err, &e, p)
		require.Equal(t, CodeAddress, e.Code, p)
	}
	// With one rule exactly that target is reached.
	g.SetPolicy(mustPolicy(t, "allow * dial tcp 127.0.0.1:"+port))
	for host, ok := range map[string]bool{
		"127.0.0.1": true, "[::ffff:127.0.0.1]": true, "local.test": true, "127.0.0.2": false, "[::1]": false, "127.1": false, "[64:ff9b::7f00:1]": false,
	} {
		nc, err := g.DialContext(t.Context(), bob, "tcp", host+":"+port)
		require.Equal(t, ok, err == nil, "%s: %v", host, err)
		if err == nil {
			require.Equal(t, "127.0.0.1:"+port, nc.RemoteAddr().String())
			require.NoError(t, nc.Close())
		}
	}
}

// Of a name with an allowed and a forbidden address the allowed one is dialled.
func TestOnlyAllowedAddressesOfANameAreDialled(t *testing.T) {
	l := testenv.Echo(t, "tcp", "127.0.0.2:0")
	other := testenv.Echo(t, "tcp", "127.0.0.3:"+portOf(l))
	g := &Gate{Resolver: resolver(func(string) []string { return []string{"127.0.0.3", "127.0.0.2"} })}
	g.SetPolicy(mustPolicy(t, "allow * dial tcp *.test:* in 127.0.0.2/32"))
	for range 5 {
		nc, err := g.DialContext(t.Context(), bob, "tcp", "two.test:"+portOf(l))
		require.NoError(t, err)
		require.Equal(t, l.String(), nc.RemoteAddr().String())
		require.NotEqual(t, other.String(), nc.RemoteAddr().String())
		require.NoError(t, nc.Close())
	}
}

// A name that no rule could allow is not looked up: a resolver is a way out.
func TestForbiddenNamesAreNotLookedUp(t *testing.T) {
	asked := false
	g := &Gate{Resolver: resolver(func(string) []string { asked = true; return nil })}
	g.SetPolicy(mustPolicy(t, "deny * dial tcp *.secret.test:*\nallow * dial tcp *.ok.test:443"))
	for _, target := range []string{"x.secret.test:443", "x.ok.test:80", "leak.elsewhere.test:443"} {
		_, err := g.DialContext(t.Context(), bob, "tcp", target)
		require.ErrorContains(t, err, "denied")
	}
	require.False(t, asked)
}

func TestSetPolicyCutsWhatItForbids(t *testing.T) {
	a, b := testenv.Echo(t, "tcp", "127.0.0.1:0"), testenv.Echo(t, "tcp", "127.0.0.1:0")
	g := &Gate{}
	g.SetPolicy(mustPolicy(t, "allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*"))
	stays, err := g.DialContext(t.Context(), bob, "tcp", a.String())
	require.NoError(t, err)
	goes, err := g.DialContext(t.Context(), bob, "tcp", b.String())
	require.NoError(t, err)
	l, err := g.Listen(t.Context(), bob, "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	out, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	in, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, 3, g.Flows())
	cutAt := time.Now()
	g.SetPolicy(mustPolicy(t, "allow * dial tcp 127.0.0.1:"+portOf(a)))
	require.Less(t, time.Since(cutAt), time.Second)
	for _, c := range []net.Conn{goes, in} {
		_, err = c.Read(make([]byte, 1))
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, CodeDenied, e.Code)
	}
	_, err = l.Accept()
	require.Error(t, err)
	_, err = stays.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(stays, make([]byte, 1))
	require.NoError(t, err)
	for _, c := range []io.Closer{stays, goes, in, out, l} {
		_ = c.Close()
	}
	require.Zero(t, g.Flows())
}

// A policy that changes between the judgement and the connection decides.
func TestSetPolicyWhileItIsDialled(t *testing.T) {
	l := testenv.Echo(t, "tcp", "127.0.0.1:0")
	g := &Gate{}
	g.Audit = func(context.Context, *alknet.Identity, Decision) { g.SetPolicy(nil) }
	for _, open := range []func() error{
		func() error { _, err := g.DialContext(t.Context(), bob, "tcp", l.String()); return err },
		func() error { _, err := g.Listen(t.Context(), bob, "tcp", "127.0.0.1:0"); return err },
		func() error { _, err := g.Admit(t.Context(), bob, OpDial, "x", func() {}); return err },
	} {
		g.SetPolicy(mustPolicy(t, "allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*\nallow * dial name x"))
		var e *Error
		require.ErrorAs(t, open(), &e)
		require.Equal(t, CodeDenied, e.Code)
		require.Zero(t, g.Flows())
	}
}

// Policies that change while flows begin and end leave nothing behind.
func TestSetPolicyWhileFlowsBegin(t *testing.T) {
	l := testenv.Echo(t, "tcp", "127.0.0.1:0")
	g := &Gate{MaxFlows: -1}
	on := mustPolicy(t, "allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*\nallow * dial name x")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			default:
				g.SetPolicy(on)
				g.SetPolicy(nil)
			}
		}
	}()
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 100 {
				if nc, err := g.DialContext(context.Background(), bob, "tcp", l.String()); err == nil {
					_ = nc.Close()
				}
				if nl, err := g.Listen(context.Background(), bob, "tcp", "127.0.0.1:0"); err == nil {
					_ = nl.Close()
				}
				if release, err := g.Admit(context.Background(), bob, OpDial, "x", func() {}); err == nil {
					release()
				}
			}
		}()
	}
	time.AfterFunc(300*time.Millisecond, func() { close(stop) })
	wg.Wait()
	require.Zero(t, g.Flows())
}

func TestMaxFlows(t *testing.T) {
	l := testenv.Echo(t, "tcp", "127.0.0.1:0")
	alice := &alknet.Identity{ID: "alice", Scopes: bob.Scopes}
	for _, limit := range []int{3, -1} {
		g := &Gate{MaxFlows: limit}
		g.SetPolicy(mustPolicy(t, "allow * dial tcp 127.0.0.1:*"))
		var open []net.Conn
		for i := range 5 {
			nc, err := g.DialContext(t.Context(), bob, "tcp", l.String())
			if limit > 0 && i >= limit {
				require.ErrorContains(t, err, "limit MaxFlows 3")
				continue
			}
			require.NoError(t, err)
			open = append(open, nc)
		}
		nc, err := g.DialContext(t.Context(), alice, "tcp", l.String())
		require.NoError(t, err, "another identity has its own")
		for _, c := range append(open, nc) {
			require.NoError(t, c.Close())
			_ = c.Close()
		}
		require.Zero(t, g.Flows())
	}
}

func TestListenTakesAPortOfTheRule(t *testing.T) {
	g := &Gate{}
	g.SetPolicy(mustPolicy(t, "allow * listen tcp 127.0.0.1:47000-47063"))
	var open []net.Listener
	for range 20 {
		l, err := g.Listen(t.Context(), bob, "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		port := l.Addr().(*net.TCPAddr).Port
		require.True(t, port >= 47000 && port <= 47063, port)
		open = append(open, l)
	}
	_, err := g.Listen(t.Context(), bob, "tcp", "127.0.0.1:"+portOf(open[0].Addr()))
	require.ErrorContains(t, err, "address in use")
	for _, target := range []string{"0.0.0.0:47000", "[::]:47000", ":47000", "127.0.0.1:46999", "localhost:47000", "127.0.0.2:47000"} {
		_, err := g.Listen(t.Context(), bob, "tcp", target)
		require.Error(t, err, target)
	}
	for _, l := range open {
		require.NoError(t, l.Close())
	}
	require.Zero(t, g.Flows())
}

func TestListenEverywhere(t *testing.T) {
	g := &Gate{}
	g.SetPolicy(mustPolicy(t, "allow * listen tcp *:* in 0.0.0.0/0"))
	l, err := g.Listen(t.Context(), bob, "tcp", ":0")
	require.NoError(t, err)
	require.Equal(t, "0.0.0.0", l.Addr().(*net.TCPAddr).IP.String())
	_, err = net.DialTimeout("tcp", "[::1]:"+portOf(l.Addr()), time.Second)
	require.Error(t, err, "the other family was not allowed")
	require.NoError(t, l.Close())
}

// What is listened on is judged as what it is: an IPv4 address in an IPv6 one is
// one of IPv4, and a zone is nothing that a rule can name.
func TestListenJudgesTheAddress(t *testing.T) {
	g := &Gate{}
	g.SetPolicy(mustPolicy(t, "deny * listen tcp *:* in 127.0.0.1/32\nallow * listen tcp *:* in 0.0.0.0/0,::/0"))
	for address, want := range map[string]Code{
		"[::ffff:127.0.0.1]:0": CodeDenied, "127.0.0.1:0": CodeDenied, "[fe80::1%lo]:0": CodeAddress, "[::1%lo]:0": CodeAddress, "localhost:0": CodeAddress,
	} {
		_, err := g.Listen(t.Context(), bob, "tcp", address)
		var e *Error
		require.ErrorAs(t, err, &e, address)
		require.Equal(t, want, e.Code, "%s: %v", address, err)
	}
}

func TestUnixSockets(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "ok"), 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "no"), 0o700))
	testenv.Echo(t, "unix", filepath.Join(dir, "ok", "a.sock"))
	testenv.Echo(t, "unix", filepath.Join(dir, "no", "b.sock"))
	require.NoError(t, os.Symlink(filepath.Join(dir, "no", "b.sock"), filepath.Join(dir, "ok", "link.sock")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "no"), filepath.Join(dir, "ok", "sub")))
	g := &Gate{}
	g.SetPolicy(mustPolicy(t, "allow * dial unix "+dir+"/ok/*.sock\nallow * listen unix "+dir+"/ok/*.sock,"+dir+"/ok/sub/*"))
	for path, code := range map[string]Code{
		"ok/a.sock": CodeOK, "no/../ok/a.sock": CodeOK, "no/b.sock": CodeDenied, "ok/../no/b.sock": CodeDenied, "ok/link.sock": CodeDenied,
		"ok/sub/b.sock": CodeDenied, "ok/missing.sock": CodeHostUnreachable, "no/missing.sock": CodeDenied, "ok/a.sock\x00": CodeAddress,
	} {
		nc, err := g.DialContext(t.Context(), bob, "unix", dir+"/"+path)
		if code == CodeOK {
			require.NoError(t, err, path)
			require.NoError(t, nc.Close())
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e, path)
		require.Equal(t, code, e.Code, path)
		require.NotContains(t, err.Error(), dir)
	}
	for path, code := range map[string]Code{"ok/new.sock": CodeOK, "ok/a.sock": CodeFailed, "no/x.sock": CodeDenied, "ok/sub/x": CodeDenied, "gone/x.sock": CodeDenied} {
		l, err := g.Listen(t.Context(), bob, "unix", dir+"/"+path)
		if code == CodeOK {
			require.NoError(t, err, path)
			fi, err := os.Stat(dir + "/" + path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
			require.NoError(t, l.Close())
			_, err = os.Stat(dir + "/" + path)
			require.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e, path)
		require.Equal(t, code, e.Code, "%s: %v", path, e.Err)
	}
	left, err := filepath.Glob(dir + "/*/.s*")
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestExplainAndAuditSayTheSame(t *testing.T) {
	l := testenv.Echo(t, "tcp", "127.0.0.1:0")
	var told []Decision
	g := &Gate{
		Resolver: resolver(func(string) []string { return []string{"127.0.0.1", "10.0.0.1"} }),
		Audit: func(_ context.Context, id *alknet.Identity, d Decision) {
			require.Equal(t, "bob", id.ID)
			told = append(told, d)
		},
	}
	g.SetPolicy(mustPolicy(t, "deny * dial tcp *:25\nallow * dial tcp *.test:* in 127.0.0.0/8"))
	target := "x.test:" + portOf(l)
	list, err := g.Explain(t.Context(), bob, OpDial, "tcp", target)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Empty(t, told, "nothing was asked for")
	nc, err := g.DialContext(t.Context(), bob, "tcp", target)
	require.NoError(t, err)
	require.NoError(t, nc.Close())
	require.ElementsMatch(t, list, told)
	for _, q := range [][3]string{{"tcp", "x.test:25", "rule 1"}, {"unix", "/x", ""}, {"name", "n", ""}} {
		list, err = g.Explain(t.Context(), bob, OpDial, q[0], q[1])
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.False(t, list[0].Allow)
	}
	_, err = g.Explain(t.Context(), bob, OpDial, "sctp", "x:1")
	require.Error(t, err)
}

func TestDialErrorsHaveTheirCode(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	g := &Gate{Resolver: resolver(func(string) []string { return nil }), DialTimeout: 200 * time.Millisecond}
	g.SetPolicy(mustPolicy(t, "allow * dial tcp *:* in 0.0.0.0/0"))
	for target, want := range map[string]Code{
		closed.Addr().String(): CodeRefused, "nowhere.test:80": CodeHostUnreachable,
	} {
		_, err := g.DialContext(t.Context(), bob, "tcp", target)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, want, e.Code, "%s: %v", target, e.Err)
	}
	_, err = g.DialContext(t.Context(), bob, "sctp", "x:1")
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, CodeCommand, e.Code)
	require.True(t, errors.Is(&Error{Err: net.ErrClosed}, net.ErrClosed))
}
