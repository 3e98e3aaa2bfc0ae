package ssh

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// loginTimeout is how long a login may take, whatever its context allows.
const loginTimeout = 30 * time.Second

// ClientConfig is how a client presents itself and whom it believes. Nil is the
// zero value.
type ClientConfig struct {
	// User is the name that selects an account. Empty: "alknet".
	User string
	// Peer is the key that must have certified the host key. Dial sets it.
	Peer alknet.PeerID
	// KnownHosts are files in OpenSSH's format, which decide where Peer is zero;
	// the host is looked up by the stream's remote address.
	KnownHosts []string
	// Keys are offered where the server asks for one.
	Keys []crypto.Signer
	// Agent connects to the agent that the server's programs may use. Nil: no
	// agent forwarding.
	Agent func() (net.Conn, error)
	// KeepAlive is how often the server is asked whether it lives; three
	// unanswered times end the client. 0: 15 s; negative: never.
	KeepAlive time.Duration
}

// A Client is an SSH connection to a server. It is a [forward.Link]. All methods
// may be called concurrently.
type Client struct {
	conn xssh.Conn
	nc   *loginConn
	end  func() // of what carries it; nil: nothing
	cfg  ClientConfig
	donc chan struct{} // closed when the connection has ended
	ctx  context.Context
	stop context.CancelFunc // of ctx, when the connection has ended
	wg   sync.WaitGroup

	mu        sync.Mutex
	err       error                      // guarded by mu; a panic that has ended it
	listeners map[string]*remoteListener // guarded by mu; by listenKey
}

var _ forward.Link = (*Client)(nil)

// Dial connects to the SSH service of a peer. The identity is the endpoint's
// key; who answers is proven by the connection and by the host certificate.
// Closing the Client closes the connection.
func Dial(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr, cfg *ClientConfig) (*Client, error) {
	conn, err := ep.Dial(ctx, to, ALPN)
	if err != nil {
		return nil, fmt.Errorf("ssh: dial: %w", err)
	}
	var mine ClientConfig
	if cfg != nil {
		mine = *cfg
	}
	mine.Peer = conn.Identity().Peer
	s, err := conn.OpenStream(ctx)
	if err != nil {
		_ = conn.Close() // it is of no use
		return nil, fmt.Errorf("ssh: dial: %w", err)
	}
	c, err := newClient(ctx, s, &mine, func() { _ = conn.Close() })
	if err != nil {
		_ = conn.Close()
	}
	return c, err
}

// NewClient logs in over any stream, such as TCP or what another Client's
// DialContext returns, which makes that a jump host. It takes nc over, also when
// it fails.
func NewClient(ctx context.Context, nc net.Conn, cfg *ClientConfig) (*Client, error) {
	if cfg == nil {
		cfg = &ClientConfig{}
	}
	return newClient(ctx, nc, cfg, nil)
}

func newClient(ctx context.Context, stream net.Conn, cfg *ClientConfig, end func()) (*Client, error) {
	c := &Client{
		nc: &loginConn{Conn: stream}, cfg: *cfg, end: end, donc: make(chan struct{}), listeners: make(map[string]*remoteListener),
	}
	xcfg, err := c.config()
	if err != nil {
		_ = stream.Close() // nobody has used it
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, c.nc.kill)
	conn, chans, reqs, err := xssh.NewClientConn(c.nc, stream.RemoteAddr().String(), xcfg)
	if !stop() && err == nil {
		err = ctx.Err()
		_ = conn.Close() // it was killed
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("ssh: log in: %w", quoted{err})
	}
	c.conn = conn
	c.ctx, c.stop = context.WithCancel(context.Background())
	safe.Go(&c.wg, c.fail, func() { c.serve(chans) })
	safe.Go(&c.wg, c.fail, func() { answer(reqs) })
	safe.Go(&c.wg, c.fail, c.keepAlive)
	return c, nil
}

// quoted is an error of the library, which may hold text that the server chose.
type quoted struct{ error }

func (q quoted) Error() string { return printable.Quote(q.error.Error()) }
func (q quoted) Unwrap() error { return q.error }

var errNoHost = errors.New("ssh: ClientConfig has neither Peer nor KnownHosts: the host can not be proven")

// config is the library's configuration.
func (c *Client) config() (*xssh.ClientConfig, error) {
	xcfg := &xssh.ClientConfig{Config: algorithms(), User: c.cfg.User, ClientVersion: version, HostKeyAlgorithms: hostKeyAlgorithms()}
	if xcfg.User == "" {
		xcfg.User = "alknet"
	}
	var signers []xssh.Signer
	for _, key := range c.cfg.Keys {
		s, err := signer(key)
		if err != nil {
			return nil, fmt.Errorf("ssh: client key: %w", err)
		}
		signers = append(signers, s)
	}
	if len(signers) > 0 { // one method: the library tries each once
		xcfg.Auth = []xssh.AuthMethod{xssh.PublicKeys(signers...)}
	}
	switch {
	case !c.cfg.Peer.IsZero():
		xcfg.HostKeyAlgorithms = []string{xssh.CertAlgoED25519v01}
		xcfg.HostKeyCallback = certifiedBy(c.cfg.Peer)
	case len(c.cfg.KnownHosts) > 0:
		check, err := knownhosts.New(c.cfg.KnownHosts...)
		if err != nil {
			return nil, fmt.Errorf("ssh: known hosts: %w", err)
		}
		xcfg.HostKeyCallback = func(hostname string, remote net.Addr, key xssh.PublicKey) error {
			if cert, ok := key.(*xssh.Certificate); ok {
				if err := strongAuthority(cert); err != nil {
					return err
				}
			}
			return check(hostname, remote, key)
		}
		xcfg.HostKeyAlgorithms = knownFirst(check, c.nc.RemoteAddr())
	default:
		return nil, errNoHost
	}
	return xcfg, nil
}

// knownFirst orders the algorithms so that the server is asked for a key that is
// known, where there is one.
func knownFirst(check xssh.HostKeyCallback, remote net.Addr) []string {
	all := hostKeyAlgorithms()
	probe, err := signer(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		return all
	}
	var unknown *knownhosts.KeyError
	if !errors.As(check(remote.String(), remote, probe.PublicKey()), &unknown) {
		return all
	}
	var first []string
	for _, k := range unknown.Want {
		switch kind := k.Key.Type(); kind {
		case xssh.KeyAlgoRSA:
			first = append(first, xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256)
		default:
			first = append(first, kind)
		}
	}
	rest := slices.DeleteFunc(all, func(a string) bool { return slices.Contains(first, a) })
	return append(first, rest...)
}

// certifiedBy checks that a host key is certified by a peer's key and for that
// peer.
func certifiedBy(peer alknet.PeerID) xssh.HostKeyCallback {
	check := &xssh.CertChecker{IsHostAuthority: func(auth xssh.PublicKey, _ string) bool {
		id, ok := peerKey(auth)
		return ok && id == peer
	}}
	return func(_ string, remote net.Addr, key xssh.PublicKey) error {
		if cert, ok := key.(*xssh.Certificate); ok && len(cert.ValidPrincipals) == 0 {
			return errors.New("ssh: the host certificate names nobody")
		}
		return check.CheckHostKey(net.JoinHostPort(peer.String(), "22"), remote, key)
	}
}

// serve handles channels that the server opens, until the connection ends.
func (c *Client) serve(chans <-chan xssh.NewChannel) {
	for ch := range chans {
		c.opened(ch)
	}
	c.mu.Lock()
	list := c.listeners
	c.listeners = nil
	c.mu.Unlock()
	close(c.donc)
	c.stop()
	for _, l := range list {
		l.ended()
	}
	c.nc.kill()
	if c.end != nil {
		c.end()
	}
}

// fail ends the client for a panic.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.nc.kill()
}

// answer refuses what a server asks for, such as a keep-alive, which is an answer.
func answer(reqs <-chan *xssh.Request) {
	for req := range reqs {
		_ = req.Reply(false, nil) // a connection that ends ends the loop
	}
}

func (c *Client) keepAlive() {
	every := orDefault(c.cfg.KeepAlive, defaultKeepAlive)
	if every == 0 {
		return
	}
	dead := time.AfterFunc(maxUnanswered*every, c.nc.kill)
	defer dead.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.donc:
			return
		case <-tick.C:
		}
		if _, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			return
		}
		dead.Reset(maxUnanswered * every)
	}
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.donc }

// Close ends the connection, with everything that runs over it, and waits until
// nothing of it is left.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("ssh: close: %w", err)
	}
	return nil
}

// lost is the error of what the end of the connection has ended.
func (c *Client) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("ssh: the connection was lost: %w: %w", net.ErrClosed, c.err)
	}
	return fmt.Errorf("ssh: the connection was lost: %w", net.ErrClosed)
}

// open opens a channel, and does not wait longer than ctx.
func (c *Client) open(ctx context.Context, kind string, payload []byte) (xssh.Channel, <-chan *xssh.Request, error) {
	type result struct {
		ch   xssh.Channel
		reqs <-chan *xssh.Request
		err  error
	}
	done := make(chan result, 1)
	if err := c.goes(func() {
		ch, reqs, err := c.conn.OpenChannel(kind, payload)
		done <- result{ch, reqs, err}
	}); err != nil {
		return nil, nil, err
	}
	select {
	case r := <-done:
		return r.ch, r.reqs, c.openError(r.err)
	case <-ctx.Done():
	}
	if err := c.goes(func() {
		if r := <-done; r.err == nil {
			_ = r.ch.Close() // too late
			xssh.DiscardRequests(r.reqs)
		}
	}); err != nil {
		return nil, nil, err
	}
	return nil, nil, ctx.Err()
}

// goes runs f with the client, unless it has ended.
func (c *Client) goes(f func()) error {
	c.mu.Lock()
	over := c.listeners == nil
	if !over {
		safe.Go(&c.wg, c.fail, f)
	}
	c.mu.Unlock()
	if over {
		return c.lost()
	}
	return nil
}

// openError gives a refusal the form of package forward.
func (c *Client) openError(err error) error {
	if err == nil {
		return nil
	}
	refused, ok := errors.AsType[*xssh.OpenChannelError](err)
	if !ok {
		return c.lost()
	}
	e := &forward.Error{Code: forward.CodeFailed, Reason: "said the peer: " + printable.Quote(refused.Message)}
	switch refused.Reason {
	case xssh.Prohibited:
		e.Code = forward.CodeDenied
	case xssh.ConnectionFailed:
		e.Code = forward.CodeHostUnreachable
	}
	return e
}
