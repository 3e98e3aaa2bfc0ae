package alknet

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/session"
)

// Config is how an Endpoint presents itself and dials. The zero value is a node
// with a fresh key.
type Config struct {
	// Key is the node's identity: an Ed25519 signer, usually from a vault. Nil
	// makes a fresh one.
	Key crypto.Signer
	// Certificate serves names of the public web: called with the ClientHello
	// when it carries a server name; a nil result falls back to the node's own
	// certificate. Usually certmagic's.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Roots verify peers dialled by name instead of by key. Nil: the system's.
	Roots *x509.CertPool
	// DialFallback is how long Dial waits for QUIC before it also tries TCP. 0:
	// 300 ms; negative: only after QUIC failed.
	DialFallback time.Duration
	// KeepAlive is the interval at which connections we dialled are kept alive.
	// 0: 15 s; negative: not at all. A Raw connection has nothing to send.
	KeepAlive time.Duration
	// Anonymous presents no certificate when dialling; such an endpoint cannot serve.
	Anonymous bool
	// Sessions is how many TLS sessions are kept, so that dialling the same
	// service again costs no signatures. 0: 256; negative: none, and peers make
	// no tickets, by which they could tell that two connections are one
	// client's (RFC 8446, appendix C.4).
	Sessions int
}

// An Endpoint owns a node's key and its sockets. It dials, and a [Router]
// accepts on it. All methods may be called concurrently.
type Endpoint struct {
	cfg   Config
	key   crypto.Signer
	id    PeerID
	cert  *tls.Certificate
	web   webCertificates
	cache tls.ClientSessionCache // nil: none

	udp *session.UDP // nil: only dials
	tcp net.Listener // nil: not on TCP

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup // dials, and attempts that lost their race

	mu      sync.Mutex
	closed  bool                    // guarded by mu
	router  *Router                 // guarded by mu; who accepts
	dialled map[*Conn]struct{}      // guarded by mu; live connections we opened
	dialUDP map[string]*session.UDP // guarded by mu; sockets for what udp cannot reach, by network
	udpDead map[string]time.Time    // guarded by mu; when UDP was found dead, by host and port
}

// Listen opens UDP and TCP sockets on the same port of addr, "host:port", and
// makes an Endpoint of them. Port 0 picks one that is free for both. Nothing is
// accepted until a Router serves it.
func Listen(ctx context.Context, addr string, cfg *Config) (*Endpoint, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("alknet: listen %q: %w", addr, err)
	}
	var lc net.ListenConfig
	for try := 1; ; try++ {
		tcp, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			return nil, fmt.Errorf("alknet: listen %q: %w", addr, err)
		}
		same := net.JoinHostPort(host, strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port))
		udp, err := lc.ListenPacket(ctx, "udp", same)
		if err == nil {
			return NewEndpoint(udp, tcp, cfg)
		}
		_ = tcp.Close() // never used
		if port != "0" || try == maxPortTries {
			return nil, fmt.Errorf("alknet: listen %q: %w", addr, err)
		}
	}
}

// maxPortTries bounds the search for a port that is free on UDP and TCP.
const maxPortTries = 16

// NewEndpoint makes an Endpoint of the caller's own sockets, which it takes
// over, also when it fails. tcp may be any net.Listener, a unix one too. Either
// may be nil; with neither, the Endpoint only dials.
func NewEndpoint(udp net.PacketConn, tcp net.Listener, cfg *Config) (*Endpoint, error) {
	e := &Endpoint{
		tcp:     tcp,
		dialled: make(map[*Conn]struct{}),
		dialUDP: make(map[string]*session.UDP),
		udpDead: make(map[string]time.Time),
	}
	if cfg != nil {
		e.cfg = *cfg
	}
	if n := orDefault(e.cfg.Sessions, defaultSessions); n > 0 {
		e.cache = tls.NewLRUClientSessionCache(n)
	}
	if err := e.setKey(); err != nil {
		if udp != nil {
			_ = udp.Close()
		}
		if tcp != nil {
			_ = tcp.Close()
		}
		return nil, fmt.Errorf("alknet: new endpoint: %w", err)
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	if udp != nil {
		e.udp = session.NewUDP(udp, e.resetKey())
	}
	return e, nil
}

func (e *Endpoint) setKey() error {
	e.key = e.cfg.Key
	if e.key == nil {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		e.key = key
	}
	var err error
	if e.cert, err = nodeCertificate(e.key); err != nil {
		return err
	}
	e.id, err = certificatePeer(e.cert.Leaf)
	return err
}

// resetKey makes stateless resets that survive a restart of the node. A signer
// that signs handshakes only gets a key of this process.
func (e *Endpoint) resetKey() [32]byte {
	sig, err := e.key.Sign(rand.Reader, []byte("alknet stateless reset key 1"), crypto.Hash(0))
	if err != nil {
		sig = make([]byte, 32)
		_, _ = rand.Read(sig) // never fails
	}
	return sha256.Sum256(sig)
}

// ID is the node's identity.
func (e *Endpoint) ID() PeerID { return e.id }

// Addr is where the endpoint is reached: its key and the address of its
// sockets, whose host may be unspecified ("[::]:4433"). HostPort is empty for
// an endpoint that only dials.
func (e *Endpoint) Addr() Addr {
	a := Addr{Peer: e.id}
	switch {
	case e.udp != nil:
		a.HostPort = e.udp.LocalAddr().String()
	case e.tcp != nil:
		a.HostPort = e.tcp.Addr().String()
		a.Over = Mux
	}
	if e.udp != nil && e.tcp == nil {
		a.Over = QUIC
	}
	return a
}

// BrowserCertHashes are the SHA-256 hashes of the ECDSA certificate in use and
// of the next one, for WebTransport's serverCertificateHashes. The next one is
// in use within a week. Nil if the random source fails.
func (e *Endpoint) BrowserCertHashes() [][32]byte {
	current, next, err := e.web.pair(time.Now())
	if err != nil {
		return nil
	}
	return [][32]byte{sha256.Sum256(current.Certificate[0]), sha256.Sum256(next.Certificate[0])}
}

// Close closes the sockets and ends every connection of the endpoint. A Router
// that serves it goes on with its others; use [Router.Shutdown] first to let
// handlers finish.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	conns := make([]*Conn, 0, len(e.dialled))
	for c := range e.dialled {
		conns = append(conns, c)
	}
	sockets := e.dialUDP
	router := e.router
	e.mu.Unlock()

	e.stop()
	if router != nil {
		router.closeEndpoint(e)
	}
	var errs []error
	closeAll(conns, CodeShutdown)
	if e.tcp != nil {
		errs = append(errs, e.tcp.Close())
	}
	if e.udp != nil {
		errs = append(errs, e.udp.Close())
	}
	for _, u := range sockets {
		errs = append(errs, u.Close())
	}
	e.wg.Wait()
	if err := errors.Join(errs...); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("alknet: close endpoint: %w", err)
	}
	return nil
}

// claim makes r the router that accepts on e.
func (e *Endpoint) claim(r *Router) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return fmt.Errorf("alknet: serve: endpoint: %w", net.ErrClosed)
	case e.cfg.Anonymous:
		return errors.New("alknet: serve: an endpoint with Config.Anonymous cannot serve")
	case e.router != nil:
		return errors.New("alknet: serve: a router serves this endpoint already")
	}
	e.router = r
	return nil
}

// release lets another router serve e.
func (e *Endpoint) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.router = nil
}
