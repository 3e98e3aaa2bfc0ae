package ssh

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
)

// A login is how the other end of one connection may log in.
type login struct {
	h      *Handler
	conn   *alknet.Conn // that has proven who the peer is; nil: by Users
	remote net.Addr
	place  *place // of a listener; nil: none
}

// A grant is who has logged in and what the way in allows, whatever the scopes
// of the identity say. It does not change.
type grant struct {
	identity     alknet.Identity
	how          string // "alknet", "publickey" or "certificate"
	proof        proof  // what was proven; of Users only
	noPTY        bool
	noForward    bool
	noAgent      bool
	noTouch      bool // of a security key: nobody need be present
	forced       bool
	command      string   // instead of every command, shell and subsystem; if forced
	permitOpen   []string // "host:port" where * is any; nil: no restriction
	permitListen []string
}

// A proof is what a user has shown.
type proof struct {
	user   string
	key    xssh.PublicKey // a certificate or a plain key
	remote net.Addr
}

// equal reports whether two grants of the same proof give the same.
func (g *grant) equal(o *grant) bool {
	a, b := *g, *o
	a.proof, b.proof = proof{}, proof{}
	return reflect.DeepEqual(a, b)
}

// grantKey is where the Permissions of a login hold the grant.
type grantKey struct{}

// permissions carry the grant out of the callback that proved it, and out of no
// other.
func (g *grant) permissions() *xssh.Permissions {
	p := &xssh.Permissions{ExtraData: map[any]any{grantKey{}: g}}
	if g.noTouch {
		p.Extensions = map[string]string{"no-touch-required": ""}
	}
	return p
}

// config is the configuration of one connection.
func (l *login) config(ctx context.Context) (*xssh.ServerConfig, error) {
	limits := l.h.Limits.withDefaults()
	cfg := &xssh.ServerConfig{
		Config:                  algorithms(),
		ServerVersion:           version,
		PublicKeyAuthAlgorithms: userKeyAlgorithms(),
		MaxAuthTries:            limits.MaxAuthTries,
	}
	if cfg.MaxAuthTries == 0 {
		cfg.MaxAuthTries = -1
	}
	hk, err := l.h.hostKeys()
	if err == nil {
		err = hk.addTo(cfg)
	}
	if err != nil {
		return nil, err
	}
	if l.conn != nil {
		l.trustPeer(cfg)
	} else {
		l.askUsers(ctx, cfg)
	}
	return cfg, nil
}

// trustPeer: the identity was proven before SSH began.
func (l *login) trustPeer(cfg *xssh.ServerConfig) {
	grant := func() *xssh.Permissions {
		return (&grant{identity: l.conn.Identity(), how: "alknet"}).permissions()
	}
	cfg.NoClientAuth = true
	cfg.NoClientAuthCallback = func(xssh.ConnMetadata) (*xssh.Permissions, error) { return grant(), nil }
	if l.h.AcceptAnyKey {
		cfg.PublicKeyCallback = func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, nil }
		cfg.VerifiedPublicKeyCallback = func(xssh.ConnMetadata, xssh.PublicKey, *xssh.Permissions, string) (*xssh.Permissions, error) {
			return grant(), nil
		}
	}
}

// askUsers: a key is judged when it is offered, so that the client does not sign
// in vain, and again when it is proven. Only the second has a result.
func (l *login) askUsers(ctx context.Context, cfg *xssh.ServerConfig) {
	cfg.PublicKeyCallback = func(md xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
		g, err := l.h.Users.judge(ctx, l.h, proof{user: md.User(), key: key, remote: l.remote})
		if err != nil || !g.noTouch {
			return nil, err
		}
		return &xssh.Permissions{Extensions: map[string]string{"no-touch-required": ""}}, nil
	}
	cfg.VerifiedPublicKeyCallback = func(md xssh.ConnMetadata, key xssh.PublicKey, _ *xssh.Permissions, _ string) (*xssh.Permissions, error) {
		g, err := l.h.Users.judge(ctx, l.h, proof{user: md.User(), key: key, remote: l.remote})
		if err != nil {
			return nil, err
		}
		return g.permissions(), nil
	}
}

// errNoGrant can not happen: every callback that succeeds has a grant.
var errNoGrant = errors.New("ssh: login without a grant")

// handshake makes the connection and logs in, in the time that the limits give.
func (l *login) handshake(ctx context.Context, nc *loginConn) (*xssh.ServerConn, *grant, <-chan xssh.NewChannel, <-chan *xssh.Request, error) {
	cfg, err := l.config(ctx)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	nc.begin(l.h.Limits.withDefaults())
	defer nc.done()
	begun := time.Now()
	sc, chans, reqs, err := xssh.NewServerConn(nc, cfg)
	if err != nil {
		l.failed(err, begun, nc.expired.Load())
		return nil, nil, nil, nil, err
	}
	g, ok := sc.Permissions.ExtraData[grantKey{}].(*grant)
	if !ok {
		_ = sc.Close() // it has no rights
		return nil, nil, nil, nil, errNoGrant
	}
	l.place.loggedIn()
	attrs := []slog.Attr{
		slog.String("addr", l.remote.String()), slog.Any("user", printable.Text(sc.User())),
		slog.Any("id", printable.Text(g.identity.ID)), slog.String("how", g.how), slog.String("result", "ok"), since(begun),
	}
	if g.proof.key != nil {
		attrs = append(attrs, slog.String("key", xssh.FingerprintSHA256(g.proof.key)))
	}
	l.h.log().LogAttrs(ctx, slog.LevelInfo, "ssh login", attrs...)
	return sc, g, chans, reqs, nil
}

// failed logs a login that came to nothing, and punishes its source.
func (l *login) failed(err error, begun time.Time, expired bool) {
	result, penalty := "left", penaltyLeft
	if _, bad := errors.AsType[*xssh.ServerAuthError](err); bad {
		result, penalty = "refused", penaltyLogin
	}
	if expired {
		result, penalty = "unfinished", penaltyUnfinished
	}
	l.place.punish(penalty)
	l.h.logBurst(context.Background(), "login "+result, "ssh login",
		slog.String("addr", l.remote.String()), slog.String("result", result), slog.Any("err", printable.Text(err.Error())), since(begun))
}

// A loginConn bounds the time until a login has succeeded, whether or not the
// connection has deadlines. The library reads the version line first, which has
// a bound of its own.
type loginConn struct {
	net.Conn
	waiting atomic.Bool // for the end of the version line
	version *time.Timer // nil: no bound
	login   *time.Timer // nil: no bound
	expired atomic.Bool
	lost    atomic.Bool // set before anybody can see the end of a channel that this causes
	whole   wholeWrites
}

// begin starts the time.
func (c *loginConn) begin(l Limits) {
	if l.LoginTimeout > 0 {
		c.login = time.AfterFunc(l.LoginTimeout, c.expire)
	}
	if l.VersionTimeout > 0 {
		c.version = time.AfterFunc(l.VersionTimeout, c.expire)
		c.waiting.Store(true)
	}
}

func (c *loginConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.lost.Store(true)
	}
	if c.waiting.Load() && bytes.IndexByte(b[:n], '\n') >= 0 {
		c.waiting.Store(false)
		c.version.Stop()
	}
	return n, err
}

func (c *loginConn) expire() {
	c.expired.Store(true)
	c.kill()
}

// done lifts the bound.
func (c *loginConn) done() {
	for _, t := range []*time.Timer{c.version, c.login} {
		if t != nil {
			t.Stop()
		}
	}
}

// Write writes what may be a part of a packet.
func (c *loginConn) Write(b []byte) (int, error) { return c.whole.write(c.Conn, b) }

func (c *loginConn) Close() error {
	c.lost.Store(true)
	c.whole.close(c.Conn)
	return c.Conn.Close()
}

// kill ends the connection at once, also while something is being written to it.
func (c *loginConn) kill() {
	c.lost.Store(true)
	if s, ok := c.Conn.(*alknet.Stream); ok {
		s.Reset(alknet.CodeShutdown)
		return
	}
	_ = c.Conn.Close() // it is given up
}
