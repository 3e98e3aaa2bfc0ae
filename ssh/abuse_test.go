package ssh_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// from connects to the host from a loopback address of one's own.
func (x *host) from(ip string) net.Conn {
	x.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	nc, err := d.DialContext(x.t.Context(), "tcp", x.addr)
	require.NoError(x.t, err)
	x.t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// closes reports whether the server closes a connection within a time.
func closes(nc net.Conn, within time.Duration) bool {
	_ = nc.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, nc)
	return err == nil || !os.IsTimeout(err)
}

// S2: silent sockets and stalled logins end in their time, and an honest login
// is served meanwhile.
func TestStallsEndAndHonestLoginsGoOn(t *testing.T) {
	key := newKey(t)
	x := newHost(t, func(h *ssh.Handler) {
		h.Limits = ssh.Limits{VersionTimeout: 2 * time.Second, LoginTimeout: 8 * time.Second, MaxStartups: 300, MaxPenalty: -1}
	})
	x.allow(line(t, "", key, "bob"))
	t.Parallel() // it waits
	var silent, stalled []net.Conn
	for i := range 200 {
		silent = append(silent, x.from(fmt.Sprintf("127.1.%d.%d", i/8, 1)))
	}
	for i := range 50 {
		nc := x.from(fmt.Sprintf("127.2.%d.%d", i/8, 1))
		_, err := io.WriteString(nc, "SSH-2.0-stall\r\n")
		require.NoError(t, err)
		stalled = append(stalled, nc)
	}
	_, err := x.login(key)
	require.NoError(t, err)
	for _, nc := range silent {
		require.True(t, closes(nc, 30*time.Second))
	}
	for _, nc := range stalled {
		require.True(t, closes(nc, 30*time.Second))
	}
	// Without the limits they stay.
	y := newHost(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{VersionTimeout: -1, LoginTimeout: -1, MaxPenalty: -1} })
	require.False(t, closes(y.from("127.0.0.1"), 300*time.Millisecond))
}

func TestStartupLimits(t *testing.T) {
	version := func(nc net.Conn) string {
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		s, _ := bufio.NewReader(nc).ReadString('\n')
		return s
	}
	for name, limits := range map[string]ssh.Limits{
		"MaxConns 3":           {MaxConns: 3, MaxStartups: -1, MaxStartupsPerAddr: -1, MaxPenalty: -1},
		"MaxStartups 3":        {MaxConns: -1, MaxStartups: 3, MaxStartupsPerAddr: -1, MaxPenalty: -1},
		"MaxStartupsPerAddr 3": {MaxConns: -1, MaxStartups: -1, MaxStartupsPerAddr: 3, MaxPenalty: -1},
	} {
		t.Run(name, func(t *testing.T) {
			x := newHost(t, func(h *ssh.Handler) { h.Limits = limits })
			for range 3 {
				require.Contains(t, version(x.from("127.0.0.1")), "SSH-2.0-alknet")
			}
			require.Empty(t, version(x.from("127.0.0.1")), "closed before the version line")
			if limits.MaxStartupsPerAddr == 3 {
				require.NotEmpty(t, version(x.from("127.0.0.2")), "another source is served")
			}
		})
	}
	x := newHost(t, func(h *ssh.Handler) {
		h.Limits = ssh.Limits{MaxConns: -1, MaxStartups: -1, MaxStartupsPerAddr: -1, MaxPenalty: -1}
	})
	for range 15 {
		require.NotEmpty(t, version(x.from("127.0.0.1")))
	}
}

// A source whose logins fail is shut out, another one is not.
func TestPenalties(t *testing.T) {
	key := newKey(t)
	attempt := func(x *host, ip string) error {
		nc := x.from(ip)
		_, _, _, err := xssh.NewClientConn(nc, x.addr, &xssh.ClientConfig{
			User: "bob", Auth: []xssh.AuthMethod{xssh.PublicKeys(signerOf(t, newKey(t)))}, HostKeyCallback: xssh.InsecureIgnoreHostKey(),
		})
		return err
	}
	for _, max := range []time.Duration{time.Minute, -1} {
		x := newHost(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{MaxPenalty: max} })
		x.allow(line(t, "", key, "bob"))
		shut := false
		for range 8 {
			err := attempt(x, "127.0.0.5")
			require.Error(t, err)
			shut = shut || !strings.Contains(err.Error(), "unable to authenticate")
		}
		require.Equal(t, max > 0, shut)
		require.Equal(t, max > 0, strings.Contains(x.log.String(), "limit MaxPenalty"))
		_, err := x.login(key)
		require.NoError(t, err, "another source")
	}
}

// Connections that leave by themselves hardly count: ssh-keyscan makes several.
func TestLeavingCostsLittle(t *testing.T) {
	key := newKey(t)
	x := newHost(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{} })
	x.allow(line(t, "", key, "bob"))
	host, port, _ := net.SplitHostPort(x.addr)
	for range 2 {
		out, errs, _ := run(t, testenv.Command(t, "ssh-keyscan", "-p", port, host))
		require.Contains(t, out, "ssh-ed25519", errs)
	}
	_, err := x.login(key)
	require.NoError(t, err)
}

// Too many tries, of keys or of none, end the connection.
func TestAuthTries(t *testing.T) {
	x := newHost(t, nil)
	good := newKey(t)
	x.allow(line(t, "", good, "bob"))
	var keys []xssh.Signer
	for range 6 {
		keys = append(keys, signerOf(t, newKey(t)))
	}
	_, err := x.dial("bob", xssh.PublicKeys(append(keys, signerOf(t, good))...))
	require.Error(t, err)
	y := newHost(t, func(h *ssh.Handler) { h.Limits.MaxAuthTries = -1 })
	y.allow(line(t, "", good, "bob"))
	_, err = y.dial("bob", xssh.PublicKeys(append(keys, signerOf(t, good))...))
	require.NoError(t, err)
}

// S3: strict key exchange is offered; SHA-1, CBC and DSA are not.
func TestKexInit(t *testing.T) {
	x := newHost(t, nil)
	nc := x.from("127.0.0.1")
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := io.WriteString(nc, "SSH-2.0-probe\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(nc)
	version, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "SSH-2.0-alknet\r\n", version)
	var size uint32
	require.NoError(t, binary.Read(r, binary.BigEndian, &size))
	packet := make([]byte, size)
	_, err = io.ReadFull(r, packet)
	require.NoError(t, err)
	text := string(packet)
	for _, want := range []string{"kex-strict-s-v00@openssh.com", "mlkem768x25519-sha256", "curve25519-sha256", "aes128-gcm@openssh.com"} {
		require.Contains(t, text, want)
	}
	for _, no := range []string{"sha1", "-cbc", "ssh-dss", "ssh-rsa", "arcfour", "3des", "md5", "group14"} {
		require.NotContains(t, text, no)
	}
}

func TestSSHAudit(t *testing.T) {
	x := newHost(t, nil)
	out, _, _ := run(t, testenv.Command(t, "ssh-audit", "--no-colors", "--skip-rate-test", x.addr))
	if strings.Contains(out, "usage") || out == "" { // an older one
		out, _, _ = run(t, testenv.Command(t, "ssh-audit", "-n", x.addr))
	}
	require.Contains(t, out, "(kex)")
	for l := range strings.Lines(out) {
		require.NotContains(t, l, "[fail]", out)
	}
}

// pair is a server and a raw client of the library over an in-memory connection.
func pair(t testing.TB, set func(*ssh.Handler), scopes ...string) (xssh.Conn, *forward.Gate, func()) {
	t.Helper()
	gate := &forward.Gate{}
	h := &ssh.Handler{Accounts: testAccount, Gate: gate}
	if set != nil {
		set(h)
	}
	c, s := alknet.Pipe(ssh.ALPN, alknet.Identity{ID: "bob", Scopes: scopes}, alknet.Identity{})
	done := make(chan struct{})
	go func() { defer close(done); _ = h.ServeConn(context.Background(), s) }()
	st, err := c.OpenStream(t.Context())
	require.NoError(t, err)
	conn, chans, reqs, err := xssh.NewClientConn(st, "x", &xssh.ClientConfig{HostKeyCallback: xssh.InsecureIgnoreHostKey(), User: "x"})
	require.NoError(t, err)
	go xssh.DiscardRequests(reqs)
	go func() {
		for ch := range chans {
			_ = ch.Reject(xssh.Prohibited, "")
		}
	}()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			_ = conn.Close()
			_ = c.Close()
			<-done
		})
	}
	t.Cleanup(stop)
	return conn, gate, stop
}

// S4: channels beyond the limits are refused with their name, and the
// connection goes on.
func TestChannelLimits(t *testing.T) {
	for _, limit := range []int{3, -1} {
		conn, _, _ := pair(t, func(h *ssh.Handler) { h.Limits = ssh.Limits{MaxSessions: limit, MaxChannels: limit} }, ssh.ScopeShell)
		for i := range 6 {
			_, reqs, err := conn.OpenChannel("session", nil)
			if limit > 0 && i >= limit {
				require.ErrorContains(t, err, "limit MaxSessions 3")
				continue
			}
			require.NoError(t, err)
			go xssh.DiscardRequests(reqs)
		}
	}
	conn, _, _ := pair(t, nil, ssh.ScopeShell)
	for range 10_000 {
		_, _, err := conn.OpenChannel("no-such-type", nil)
		require.ErrorContains(t, err, "unknown channel type")
	}
	for i := range 65 {
		_, reqs, err := conn.OpenChannel("session", nil)
		require.Equal(t, i < 10, err == nil)
		if err == nil {
			go xssh.DiscardRequests(reqs)
		}
	}
}

// A client that has no more use for sessions gets none.
func TestNoMoreSessions(t *testing.T) {
	conn, _, _ := pair(t, nil, ssh.ScopeShell)
	ok, _, err := conn.SendRequest("no-more-sessions@openssh.com", true, nil)
	require.NoError(t, err)
	require.True(t, ok)
	_, _, err = conn.OpenChannel("session", nil)
	require.Error(t, err)
}

// What a session answers to each request.
func TestSessionRequests(t *testing.T) {
	str := func(s string) string { return string(xssh.Marshal(struct{ S string }{s})) }
	two := func(a, b string) string { return str(a) + str(b) }
	pty := func(term, modes string) string {
		return string(xssh.Marshal(struct {
			T          string
			A, B, C, D uint32
			M          string
		}{term, 80, 24, 0, 0, modes}))
	}
	tests := []struct {
		name, kind, payload string
		ok                  bool
	}{
		{"terminal", "pty-req", pty("xterm", ""), true},
		{"terminal with modes", "pty-req", pty("xterm-256color", "\x35\x00\x00\x00\x01\x00"), true},
		{"terminal without a name", "pty-req", pty("", ""), true},
		{"modes cut off", "pty-req", pty("xterm", "\x35\x00"), false},
		{"a name that is a path", "pty-req", pty("../x", ""), false},
		{"a name with an escape", "pty-req", pty("x\x1b[0m", ""), false},
		{"a name of 65 bytes", "pty-req", pty(strings.Repeat("x", 65), ""), false},
		{"terminal cut off", "pty-req", "\x00\x00\x00\x09x", false},
		{"resize without a terminal", "window-change", string(make([]byte, 16)), false},
		{"variable", "env", two("LANG", "C"), true},
		{"variable by prefix", "env", two("LC_ALL", "C"), true},
		{"PATH", "env", two("PATH", "/"), false},
		{"LD_PRELOAD", "env", two("LD_PRELOAD", "/"), false},
		{"a variable with =", "env", two("LC_A=B", "/"), false},
		{"a value with NUL", "env", two("LANG", "a\x00b"), false},
		{"5,000 bytes", "env", two("LANG", strings.Repeat("x", 5000)), false},
		{"signal", "signal", str("TERM"), true},
		{"a signal that is none", "signal", str("BOGUS"), false},
		{"shell", "shell", "", true},
		{"shell with bytes", "shell", "x", false},
		{"exec", "exec", str("true"), true},
		{"exec of 64 KiB and one", "exec", str(strings.Repeat("x", 64<<10+1)), false},
		{"exec cut off", "exec", "\xff\xff\xff\xff", false},
		{"subsystem that is none", "subsystem", str("sftp"), false},
		{"X11", "x11-req", "\x00" + two("a", "b") + "\x00\x00\x00\x00", false},
		{"agent without AllowAgent", "auth-agent-req@openssh.com", "", false},
		{"keep-alive", "keepalive@openssh.com", "", true},
		{"break without a program", "break", "\x00\x00\x00\x00", false},
		{"unknown", "no-such-request", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, _, _ := pair(t, nil, ssh.ScopeShell)
			ch, reqs, err := conn.OpenChannel("session", nil)
			require.NoError(t, err)
			go xssh.DiscardRequests(reqs)
			ok, err := ch.SendRequest(tt.kind, true, []byte(tt.payload))
			require.NoError(t, err)
			require.Equal(t, tt.ok, ok)
			ok, err = ch.SendRequest("keepalive@openssh.com", true, nil)
			if err == nil { // unless the program has ended
				require.True(t, ok, "the channel goes on")
			}
		})
	}
}

// A second program on a channel is refused.
func TestOneProgramForEachChannel(t *testing.T) {
	conn, _, _ := pair(t, nil, ssh.ScopeShell)
	ch, reqs, err := conn.OpenChannel("session", nil)
	require.NoError(t, err)
	go xssh.DiscardRequests(reqs)
	for i, want := range []bool{true, false, false} {
		ok, err := ch.SendRequest("exec", true, xssh.Marshal(struct{ S string }{"cat"}))
		require.NoError(t, err)
		require.Equal(t, want, ok, i)
	}
	_ = ch.CloseWrite()
	_, err = io.ReadAll(ch)
	require.NoError(t, err)
}

// Extended data to a program, 100,000 requests and replies that nobody asked for:
// memory stays, and Close is at once.
func TestNonsenseOnAChannelCostsLittle(t *testing.T) {
	conn, _, stop := pair(t, nil, ssh.ScopeShell)
	ch, reqs, err := conn.OpenChannel("session", nil)
	require.NoError(t, err)
	go xssh.DiscardRequests(reqs)
	ok, err := ch.SendRequest("exec", true, xssh.Marshal(struct{ S string }{"cat"}))
	require.NoError(t, err)
	require.True(t, ok)
	before := heap()
	for range 100_000 {
		_, err := ch.SendRequest("window-change", false, make([]byte, 16))
		require.NoError(t, err)
	}
	for range 10_000 {
		_, _, err := conn.SendRequest("no-such-request", false, nil)
		require.NoError(t, err)
	}
	extended := bytes.Repeat([]byte("x"), 32<<10)
	for range 256 { // 8 MiB: four windows
		_, err := ch.Stderr().Write(extended)
		require.NoError(t, err)
	}
	_, err = ch.Write([]byte("still here"))
	require.NoError(t, err)
	_, err = io.ReadFull(ch, make([]byte, len("still here")))
	require.NoError(t, err)
	require.Less(t, heap(), before+32<<20)
	begun := time.Now()
	stop()
	require.Less(t, time.Since(begun), 30*time.Second)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// A client that exchanges keys after every few packets gets its data, and costs
// no memory.
func TestRekeyingAllTheTime(t *testing.T) {
	c, s := alknet.Pipe(ssh.ALPN, alknet.Identity{ID: "bob", Scopes: []string{ssh.ScopeShell}}, alknet.Identity{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = (&ssh.Handler{Accounts: testAccount}).ServeConn(context.Background(), s)
	}()
	defer func() { _ = c.Close(); <-done }()
	st, err := c.OpenStream(t.Context())
	require.NoError(t, err)
	conn, chans, reqs, err := xssh.NewClientConn(st, "x", &xssh.ClientConfig{
		HostKeyCallback: xssh.InsecureIgnoreHostKey(), User: "x", Config: xssh.Config{RekeyThreshold: 1}, // the library makes it 256
	})
	require.NoError(t, err)
	client := xssh.NewClient(conn, chans, reqs)
	defer client.Close()
	before := heap()
	session, err := client.NewSession()
	require.NoError(t, err)
	session.Stdin = bytes.NewReader(make([]byte, 1<<20))
	out, err := session.Output("cat")
	require.NoError(t, err)
	require.Len(t, out, 1<<20)
	require.Less(t, heap(), before+32<<20)
}

// hostileLines would run something if a shell read them.
var hostileLines = []string{
	"git-upload-pack 'x'; id", "git-upload-pack 'x' && id", "git-upload-pack 'x' || id", "git-upload-pack 'x' | id", "git-upload-pack 'x' & id",
	"git-upload-pack $(id)", "git-upload-pack `id`", "git-upload-pack \"$(id)\"", "git-upload-pack \"`id`\"", "git-upload-pack x\nid", "git-upload-pack x\rid",
	"git-upload-pack $HOME", "git-upload-pack ${HOME}", "git-upload-pack \"$HOME\"", "git-upload-pack ~", "git-upload-pack ~root", "git-upload-pack *",
	"git-upload-pack ?", "git-upload-pack [a-z]", "git-upload-pack {a,b}", "git-upload-pack > x", "git-upload-pack < x", "git-upload-pack >& x",
	"git-upload-pack (id)", "(git-upload-pack x)", "{ git-upload-pack x; }", "! git-upload-pack x", "git-upload-pack # x", "git-upload-pack 'x", "git-upload-pack \"x",
	"git-upload-pack x\\", "git-upload-pack x\\\nid", "\ngit-upload-pack x", ";git-upload-pack x", "A=b git-upload-pack x", "git-upload-pack;id", "git-upload-pack x;",
	"git-upload-pack x\x00id", "$(git-upload-pack) x", "`git-upload-pack` x", "git-upload-pac* x", "/bin/sh -c id", "sh", "id", "exec git-upload-pack x", "",
	"git-upload-pack \"x\ny\"", "git-upload-pack" + strings.Repeat(" x", 1024),
}

// S8: no hostile line starts a process for a peer without ScopeShell, and none
// reaches the function but as words.
func TestHostileCommandLines(t *testing.T) {
	require.GreaterOrEqual(t, len(hostileLines), 40)
	var called atomic.Int64
	var accounts atomic.Int64
	set := func(h *ssh.Handler) {
		h.Accounts = func(ctx context.Context, id *alknet.Identity, user string) (*ssh.Account, error) {
			accounts.Add(1)
			return testAccount(ctx, id, user)
		}
		h.Commands = map[string]ssh.CommandFunc{"git-upload-pack": func(_ context.Context, _ *alknet.Identity, cmd *exec.Cmd) int {
			called.Add(1)
			fmt.Fprintf(cmd.Stdout, "%q", cmd.Args)
			return 0
		}}
	}
	conn, _, _ := pair(t, set)
	exec := func(line string) (string, bool) {
		ch, reqs, err := conn.OpenChannel("session", nil)
		require.NoError(t, err)
		go xssh.DiscardRequests(reqs)
		ok, err := ch.SendRequest("exec", true, xssh.Marshal(struct{ S string }{line}))
		require.NoError(t, err)
		if !ok {
			_ = ch.Close()
		}
		out, _ := io.ReadAll(ch)
		_ = ch.Close()
		return string(out), ok
	}
	for _, l := range hostileLines {
		_, ok := exec(l)
		require.False(t, ok, "%q", l)
	}
	require.Zero(t, called.Load())
	require.Zero(t, accounts.Load())
	for l, want := range map[string]string{
		"git-upload-pack 'x'":                         `["git-upload-pack" "x"]`,
		"git-upload-pack '/a b/it'\\''s.git'":         `["git-upload-pack" "/a b/it's.git"]`,
		"git-upload-pack --upload-pack=/bin/sh x":     `["git-upload-pack" "--upload-pack=/bin/sh" "x"]`,
		"git-upload-pack '$(id)' \"a\\\"b\" ';' '\n'": `["git-upload-pack" "$(id)" "a\"b" ";" "\n"]`,
		"  git-upload-pack\tx\\ y ''":                 `["git-upload-pack" "x y" ""]`,
	} {
		out, ok := exec(l)
		require.True(t, ok, "%q", l)
		require.Equal(t, want, out, "%q", l)
	}
}

// A panic in a function costs its channel.
func TestPanicCostsItsChannel(t *testing.T) {
	conn, _, _ := pair(t, func(h *ssh.Handler) {
		h.Commands = map[string]ssh.CommandFunc{"panic": func(context.Context, *alknet.Identity, *exec.Cmd) int { panic("planted") }}
	}, ssh.ScopeShell)
	for _, line := range []string{"panic", "echo ok"} {
		ch, reqs, err := conn.OpenChannel("session", nil)
		require.NoError(t, err)
		go xssh.DiscardRequests(reqs)
		ok, err := ch.SendRequest("exec", true, xssh.Marshal(struct{ S string }{line}))
		require.NoError(t, err)
		require.True(t, ok)
		out, err := io.ReadAll(ch)
		require.NoError(t, err)
		require.Equal(t, line == "echo ok", string(out) == "ok\n")
		_ = ch.Close()
	}
}
