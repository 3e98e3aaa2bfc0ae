package ssh_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// A host is a Handler on a TCP listener.
type host struct {
	t       testing.TB
	h       *ssh.Handler
	addr    string
	key     ed25519.PrivateKey
	log     *syncBuffer
	gate    *forward.Gate
	allowed atomic.Pointer[string] // authorized keys
	revoked atomic.Pointer[string]
}

// newHost serves a Handler on 127.0.0.1; set changes it before.
func newHost(t testing.TB, set func(*ssh.Handler)) *host {
	t.Helper()
	x := &host{t: t, key: newKey(t), log: &syncBuffer{}, gate: &forward.Gate{}}
	x.allowed.Store(new(string))
	x.revoked.Store(new(string))
	x.h = &ssh.Handler{
		HostKeys: []crypto.Signer{x.key}, Accounts: testAccount, Gate: x.gate,
		Logger: slog.New(slog.NewTextHandler(x.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Users: &ssh.Users{
			AuthorizedKeys: func() ([]byte, error) { return []byte(*x.allowed.Load()), nil },
			Revoked:        func() ([]byte, error) { return []byte(*x.revoked.Load()), nil },
			Identity: func(_ context.Context, name string) (alknet.Identity, error) {
				return alknet.Identity{ID: name, Scopes: allScopes}, nil
			},
		},
		Limits: ssh.Limits{MaxPenalty: -1, MaxStartupsPerAddr: -1},
	}
	if set != nil {
		set(x.h)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	x.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- x.h.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = x.h.Shutdown(ctx) // what a test left open is cut
		require.ErrorIs(t, <-done, net.ErrClosed)
	})
	return x
}

func (x *host) allow(lines ...string) {
	text := strings.Join(lines, "\n")
	x.allowed.Store(&text)
}

func signerOf(t testing.TB, key crypto.Signer) xssh.Signer {
	t.Helper()
	s, err := xssh.NewSignerFromSigner(key)
	require.NoError(t, err)
	return s
}

// line is the line of a key, with options before it.
func line(t testing.TB, options string, key crypto.Signer, comment string) string {
	t.Helper()
	text := strings.TrimSpace(string(xssh.MarshalAuthorizedKey(signerOf(t, key).PublicKey()))) + " " + comment
	return strings.TrimSpace(options + " " + text)
}

// dial logs in with the library's client.
func (x *host) dial(user string, auth ...xssh.AuthMethod) (*xssh.Client, error) {
	nc, err := net.DialTimeout("tcp", x.addr, 5*time.Second)
	require.NoError(x.t, err)
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	c, chans, reqs, err := xssh.NewClientConn(nc, x.addr, &xssh.ClientConfig{
		User: user, Auth: auth, HostKeyCallback: xssh.FixedHostKey(signerOf(x.t, x.key).PublicKey()), Config: xssh.Config{},
	})
	if err != nil {
		return nil, err
	}
	client := xssh.NewClient(c, chans, reqs)
	x.t.Cleanup(func() { _ = client.Close() })
	return client, nil
}

func (x *host) login(key crypto.Signer) (*xssh.Client, error) {
	return x.dial("bob", xssh.PublicKeys(signerOf(x.t, key)))
}

// output runs a command and returns what it printed on both outputs.
func output(t testing.TB, c *xssh.Client, line string) string {
	t.Helper()
	s, err := c.NewSession()
	require.NoError(t, err)
	out, _ := s.CombinedOutput(line)
	return string(out)
}

func TestListenerKeys(t *testing.T) {
	x := newHost(t, nil)
	good, bad := newKey(t), newKey(t)
	x.allow("# a comment", "", line(t, "", good, "bob@laptop"))
	c, err := x.login(good)
	require.NoError(t, err)
	require.Equal(t, "bob@laptop\n", output(t, c, "echo $ALKNET_IDENTITY"))
	_, err = x.login(bad)
	require.ErrorContains(t, err, "unable to authenticate")
	_, err = x.dial("bob") // none
	require.Error(t, err)
	_, err = x.dial("bob", xssh.Password("x"), xssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil }))
	require.Error(t, err)
	x.allow(line(t, "", bad, "other")) // an edit takes effect at once
	_, err = x.login(good)
	require.Error(t, err)
	require.ErrorContains(t, (&ssh.Handler{}).Serve(closedListener(t)), "Users is nil")
}

func closedListener(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func TestPeerKeyLogsInAsItsPeer(t *testing.T) {
	key := newKey(t)
	x := newHost(t, func(h *ssh.Handler) {
		h.Users.Peer = func(_ context.Context, id alknet.PeerID) (alknet.Identity, error) {
			if id == peerOf(key) {
				return alknet.Identity{ID: "worker-a", Scopes: allScopes}, nil
			}
			return alknet.Identity{}, net.ErrClosed
		}
	})
	c, err := x.login(key)
	require.NoError(t, err)
	require.Equal(t, "worker-a "+peerOf(key).String()+"\n", output(t, c, "echo $ALKNET_IDENTITY $ALKNET_PEER"))
	_, err = x.login(newKey(t))
	require.Error(t, err)
}

// offering is a signer whose public key is offered but whose signatures are of
// another key.
type offering struct {
	xssh.Signer
	pub xssh.PublicKey
}

func (o offering) PublicKey() xssh.PublicKey { return o.pub }

// A turncoat is a public key that becomes another one when it was accepted.
type turncoat struct {
	xssh.PublicKey
	then  xssh.PublicKey
	calls int
}

func (k *turncoat) Marshal() []byte {
	if k.calls++; k.calls > 2 { // the query, and the check of its answer
		return k.then.Marshal()
	}
	return k.PublicKey.Marshal()
}

// S1: who queries with one key and signs with another has the rights of the
// second only; what is not proven is none.
func TestOfferedKeyIsNoProof(t *testing.T) {
	x := newHost(t, nil)
	admin, eve := newKey(t), newKey(t)
	x.allow(line(t, "", admin, "admin"), line(t, `restrict,command="echo $ALKNET_IDENTITY"`, eve, "eve"))
	_, err := x.dial("bob", xssh.PublicKeys(offering{signerOf(t, eve), signerOf(t, admin).PublicKey()}))
	require.Error(t, err, "a signature of another key")
	// The server is asked about admin's key, says that it will do, and gets a
	// request that eve has signed.
	two := &turncoat{PublicKey: signerOf(t, admin).PublicKey(), then: signerOf(t, eve).PublicKey()}
	c, err := x.dial("bob", xssh.PublicKeys(offering{signerOf(t, eve), two}))
	require.NoError(t, err)
	require.Greater(t, two.calls, 2)
	require.Equal(t, "eve\n", output(t, c, "echo I am $ALKNET_IDENTITY"))
	// The certificate of a key and the key itself are two things.
	ca := newKey(t)
	x.allow(line(t, "cert-authority", ca, "ca"))
	_, err = x.login(eve)
	require.Error(t, err, "the raw key of a certificate")
	c, err = x.dial("bob", xssh.PublicKeys(certify(t, eve, ca, func(c *xssh.Certificate) { c.KeyId = "by certificate" })))
	require.NoError(t, err)
	require.Equal(t, "by certificate\n", output(t, c, "echo $ALKNET_IDENTITY"))
}

// certify makes a certificate for key by ca; set changes it before it is signed.
func certify(t testing.TB, key, ca crypto.Signer, set func(*xssh.Certificate)) xssh.Signer {
	t.Helper()
	cert := &xssh.Certificate{
		Key: signerOf(t, key).PublicKey(), CertType: xssh.UserCert, KeyId: "bob", Serial: 7, ValidPrincipals: []string{"bob"},
		ValidBefore: xssh.CertTimeInfinity,
		Permissions: xssh.Permissions{
			CriticalOptions: map[string]string{},
			Extensions:      map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": ""},
		},
	}
	if set != nil {
		set(cert)
	}
	require.NoError(t, cert.SignCert(rand.Reader, signerOf(t, ca)))
	s, err := xssh.NewCertSigner(cert, signerOf(t, key))
	require.NoError(t, err)
	return s
}

func TestCertificates(t *testing.T) {
	x := newHost(t, nil)
	ca, other, key := newKey(t), newKey(t), newKey(t)
	past := uint64(time.Now().Add(-time.Hour).Unix())
	future := uint64(time.Now().Add(time.Hour).Unix())
	tests := []struct {
		name    string
		options string // of the line of the authority
		ca      crypto.Signer
		set     func(*xssh.Certificate)
		ok      bool
	}{
		{"plain", "cert-authority", ca, nil, true},
		{"no authority", "", ca, nil, false},
		{"another authority", "cert-authority", other, nil, false},
		{"another user", "cert-authority", ca, func(c *xssh.Certificate) { c.ValidPrincipals = []string{"alice"} }, false},
		{"names nobody", "cert-authority", ca, func(c *xssh.Certificate) { c.ValidPrincipals = nil }, false},
		{"principals of the line", `cert-authority,principals="ops,dev"`, ca, func(c *xssh.Certificate) { c.ValidPrincipals = []string{"dev"} }, true},
		{"none of the line's", `cert-authority,principals="ops"`, ca, nil, false},
		{"line's, but names nobody", `cert-authority,principals="ops"`, ca, func(c *xssh.Certificate) { c.ValidPrincipals = nil }, false},
		{"expired", "cert-authority", ca, func(c *xssh.Certificate) { c.ValidBefore = past }, false},
		{"not yet", "cert-authority", ca, func(c *xssh.Certificate) { c.ValidAfter = future }, false},
		{"of a host", "cert-authority", ca, func(c *xssh.Certificate) { c.CertType = xssh.HostCert }, false},
		{"unknown critical option", "cert-authority", ca, func(c *xssh.Certificate) { c.CriticalOptions["verify-required"] = "" }, false},
		{"from here", "cert-authority", ca, func(c *xssh.Certificate) { c.CriticalOptions["source-address"] = "127.0.0.0/8" }, true},
		{"from elsewhere", "cert-authority", ca, func(c *xssh.Certificate) { c.CriticalOptions["source-address"] = "10.0.0.1,192.0.2.0/24" }, false},
		{"from nowhere", "cert-authority", ca, func(c *xssh.Certificate) { c.CriticalOptions["source-address"] = "" }, false},
		{"two commands", `cert-authority,command="a"`, ca, func(c *xssh.Certificate) { c.CriticalOptions["force-command"] = "b" }, false},
		{"unknown extension", "cert-authority", ca, func(c *xssh.Certificate) { c.Extensions["x@example.com"] = "" }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x.allow(line(t, tt.options, ca, "the authority"))
			_, err := x.dial("bob", xssh.PublicKeys(certify(t, key, tt.ca, tt.set)))
			require.Equal(t, tt.ok, err == nil, "%v", err)
		})
	}
}

// Each option of a line and of a certificate, enforced.
func TestKeyOptions(t *testing.T) {
	x := newHost(t, func(h *ssh.Handler) { h.AllowAgent = true })
	_, port := web(t)
	policy, err := forward.ParsePolicy("allow * dial tcp 127.0.0.1:*\nallow * listen tcp 127.0.0.1:*")
	require.NoError(t, err)
	x.gate.SetPolicy(policy)
	ca, key := newKey(t), newKey(t)
	type can struct{ pty, dial, listen, agent bool }
	all := can{true, true, true, true}
	for name, tt := range map[string]struct {
		line string
		cert func(*xssh.Certificate)
		want can
	}{
		"none":                   {line: "", want: all},
		"restrict":               {line: "restrict", want: can{}},
		"restrict,pty":           {line: "restrict,pty", want: can{pty: true}},
		"pty,restrict":           {line: "pty,restrict", want: can{}},
		"restrict,forward":       {line: "restrict,port-forwarding", want: can{dial: true, listen: true}},
		"restrict,agent":         {line: "restrict,agent-forwarding", want: can{agent: true}},
		"no-pty":                 {line: "no-pty", want: can{dial: true, listen: true, agent: true}},
		"NO-PTY":                 {line: "NO-PTY", want: can{dial: true, listen: true, agent: true}},
		"no-port-forwarding":     {line: "no-port-forwarding", want: can{pty: true, agent: true}},
		"no-agent-forwarding":    {line: "no-agent-forwarding,no-X11-forwarding,no-user-rc", want: can{pty: true, dial: true, listen: true}},
		"permitopen":             {line: `permitopen="127.0.0.1:` + port + `"`, want: all},
		"permitopen any port":    {line: `permitopen="127.0.0.1:*"`, want: all},
		"permitopen another":     {line: `permitopen="127.0.0.1:1",permitopen="localhost:` + port + `"`, want: can{pty: true, listen: true, agent: true}},
		"permitlisten another":   {line: `permitlisten="127.0.0.1:1"`, want: can{pty: true, dial: true, agent: true}},
		"permitlisten any":       {line: `permitlisten="*:*"`, want: all},
		"certificate":            {cert: func(*xssh.Certificate) {}, want: all},
		"certificate without":    {cert: func(c *xssh.Certificate) { c.Extensions = nil }, want: can{}},
		"certificate pty":        {cert: func(c *xssh.Certificate) { c.Extensions = map[string]string{"permit-pty": ""} }, want: can{pty: true}},
		"certificate restricted": {line: "no-pty", cert: func(*xssh.Certificate) {}, want: can{dial: true, listen: true, agent: true}},
	} {
		t.Run(name, func(t *testing.T) {
			auth := signerOf(t, key)
			if tt.cert != nil {
				options := strings.TrimSuffix("cert-authority,"+tt.line, ",")
				x.allow(line(t, options, ca, "ca"))
				auth = certify(t, key, ca, tt.cert)
			} else {
				x.allow(line(t, tt.line, key, "bob"))
			}
			c, err := x.dial("bob", xssh.PublicKeys(auth))
			require.NoError(t, err)
			var got can
			s, err := c.NewSession()
			require.NoError(t, err)
			got.pty = s.RequestPty("xterm", 24, 80, nil) == nil
			got.agent, _ = s.SendRequest("auth-agent-req@openssh.com", true, nil)
			nc, err := c.Dial("tcp", "127.0.0.1:"+port)
			if got.dial = err == nil; got.dial {
				_ = nc.Close()
			}
			l, err := c.Listen("tcp", "127.0.0.1:0")
			if got.listen = err == nil; got.listen {
				_ = l.Close()
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestLinesThatDoNotAdmit(t *testing.T) {
	x := newHost(t, nil)
	key := newKey(t)
	for options, ok := range map[string]bool{
		`from="127.0.0.1"`: true, `from="127.*"`: true, `from="127.0.0.0/8"`: true, `from="10.0.0.1,127.0.0.?"`: true,
		`from="10.0.0.1"`: false, `from="127.0.0.0/8,!127.0.0.1"`: false, `from="127.0.0.0/99,127.0.0.1"`: false, `from="localhost"`: false, `from=""`: false,
		`expiry-time="20990101"`: true, `expiry-time="209901011200Z"`: true, `expiry-time="20200101"`: false, `expiry-time="soon"`: false,
		`environment="A=b"`: false, `tunnel="1"`: false, `verify-required`: false, `no-such-option`: false, `principals="bob"`: false,
		`permitopen="x"`: false, `permitopen="x:0"`: false, `command="a",command="b"`: false, `cert-authority`: false,
	} {
		x.allow(line(t, options, key, "bob"))
		_, err := x.login(key)
		require.Equal(t, ok, err == nil, "%s: %v", options, err)
	}
	require.Contains(t, x.log.String(), "line=1")
	// A line that does not admit hides none that follows.
	x.allow(line(t, `from="10.0.0.1"`, key, "no"), "garbage", line(t, "", key, "bob"))
	_, err := x.login(key)
	require.NoError(t, err)
}

func TestForcedCommand(t *testing.T) {
	x := newHost(t, func(h *ssh.Handler) {
		h.Subsystems = map[string]ssh.SubsystemFunc{"sftp": openSSHSFTP}
	})
	key, ca := newKey(t), newKey(t)
	x.allow(line(t, `command="echo forced: $SSH_ORIGINAL_COMMAND \"q\""`, key, "bob"), line(t, "cert-authority", ca, "ca"))
	c, err := x.login(key)
	require.NoError(t, err)
	require.Equal(t, "forced: id q\n", output(t, c, "id"))
	s, err := c.NewSession()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.RequestSubsystem("sftp"))
	text, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Equal(t, "forced: sftp q\n", string(text))
	c, err = x.dial("bob", xssh.PublicKeys(certify(t, key, ca, func(c *xssh.Certificate) { c.CriticalOptions["force-command"] = "echo by certificate" })))
	require.NoError(t, err)
	require.Equal(t, "by certificate\n", output(t, c, "id"))
}

// A forced command that is empty does nothing, and is no shell.
func TestEmptyForcedCommandIsNoShell(t *testing.T) {
	x := newHost(t, nil)
	y := newHost(t, func(h *ssh.Handler) {
		h.Session = func(context.Context, *ssh.Session) int { panic("a session") }
	})
	key, ca := newKey(t), newKey(t)
	for _, h := range []*host{x, y} {
		h.allow(line(t, `command=""`, key, "bob"), line(t, "cert-authority", ca, "ca"))
		for _, auth := range []xssh.Signer{signerOf(t, key), certify(t, key, ca, func(c *xssh.Certificate) { c.CriticalOptions["force-command"] = "" })} {
			c, err := h.dial("bob", xssh.PublicKeys(auth))
			require.NoError(t, err)
			for _, start := range []func(*xssh.Session) error{(*xssh.Session).Shell, func(s *xssh.Session) error { return s.Start("echo shell") }} {
				s, err := c.NewSession()
				require.NoError(t, err)
				var out bytes.Buffer
				s.Stdout = &out
				require.NoError(t, start(s))
				require.NoError(t, s.Wait())
				require.Empty(t, out.String())
			}
		}
	}
}

func TestRevocation(t *testing.T) {
	x := newHost(t, nil)
	ca, key := newKey(t), newKey(t)
	cert := certify(t, key, ca, nil)
	x.allow(line(t, "", key, "bob"), line(t, "cert-authority", ca, "ca"))
	fp := xssh.FingerprintSHA256(signerOf(t, ca).PublicKey())
	for text, want := range map[string][2]bool{ // the key, the certificate
		"": {true, true}, "# nothing": {true, true}, line(t, "", newKey(t), "another"): {true, true},
		line(t, "", key, "x"): {false, false}, line(t, "", ca, "x"): {true, false},
		"serial:" + fp + ":7": {true, false}, "serial:" + fp + ":8": {true, true}, "id:" + fp + ":bob": {true, false}, "id:" + fp + ":bobby": {true, true},
		"garbage": {false, false}, "serial:7": {false, false},
	} {
		x.revoked.Store(&text)
		_, err := x.login(key)
		require.Equal(t, want[0], err == nil, "%s: key: %v", text, err)
		_, err = x.dial("bob", xssh.PublicKeys(cert))
		require.Equal(t, want[1], err == nil, "%s: certificate: %v", text, err)
	}
}

// A login that no longer holds is cut within a second, others go on.
func TestReauthenticateCutsLogins(t *testing.T) {
	x := newHost(t, nil)
	gone, stays, changed := newKey(t), newKey(t), newKey(t)
	x.allow(line(t, "", gone, "gone"), line(t, "", stays, "stays"), line(t, "", changed, "changed"))
	var clients []*xssh.Client
	var ended []chan error
	for _, key := range []ed25519.PrivateKey{gone, stays, changed} {
		c, err := x.login(key)
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- c.Wait() }()
		clients, ended = append(clients, c), append(ended, done)
	}
	x.allow(line(t, "", stays, "stays"), line(t, "restrict", changed, "changed"))
	require.NoError(t, x.h.Reauthenticate(t.Context()))
	for _, i := range []int{0, 2} {
		select {
		case <-ended[i]:
		case <-time.After(30 * time.Second):
			t.Fatal("it was not cut")
		}
	}
	require.Equal(t, "ok\n", output(t, clients[1], "echo ok"))
}
