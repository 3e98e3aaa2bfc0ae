package alknet

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/printable"
)

type claimKey struct{}

// errNoALPN refuses a client on TCP that names no protocol where none is meant
// for such clients.
var errNoALPN = errors.New("alknet: the client names no protocol")

// unservable is offered to clients that have no protocol in common with us, so
// that crypto/tls answers with no_application_protocol. It holds a byte that no
// registered name has.
const unservable = "alknet\x00none"

// tlsConfig is the server's configuration on transports over. The one of each
// handshake is made for its ClientHello: it names exactly one ALPN, because a
// client that offers two could otherwise reach one service under the rules of
// the other, and asks for a certificate exactly when the client can make
// Ed25519 signatures, because browsers cannot.
func (l *listening) tlsConfig(over Transport) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{unservable},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return l.configFor(hello, over)
		},
	}
}

func (l *listening) configFor(hello *tls.ClientHelloInfo, over Transport) (*tls.Config, error) {
	cert, err := l.certificate(hello)
	if err != nil {
		return nil, err
	}
	alpn := unservable
	svc := l.r.pick(hello.SupportedProtos, over)
	switch {
	case svc != nil:
		if claim := claimFrom(hello.Context()); claim != nil {
			claim.setALPN(svc.ALPN)
		}
		if cert == l.e.cert { // which is for clients that know Ed25519
			return l.configs.of(l.r, handshakeKind{svc, resumes(hello)}, cert), nil
		}
		alpn = svc.ALPN
	case len(hello.SupportedProtos) == 0:
		l.r.refuse(l.ctx, nil, refusedNoService, hello.Conn.RemoteAddr(), errNoALPN)
		return nil, errNoALPN
	default:
		l.r.refuse(l.ctx, nil, refusedNoService, hello.Conn.RemoteAddr(), offerError(hello.SupportedProtos))
	}
	conf := newHandshakeConfig(cert, *l.r.tickets.current(time.Now()), alpn)
	conf.SessionTicketsDisabled = !resumes(hello)
	if slices.Contains(hello.SignatureSchemes, tls.Ed25519) {
		askForKey(conf)
	}
	return conf, nil
}

// certificate chooses what we show: a certificate of the public web for its
// name, the node's own for clients that know Ed25519, the ECDSA one for others.
func (l *listening) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if f := l.e.cfg.Certificate; f != nil && hello.ServerName != "" {
		var cert *tls.Certificate
		err := protect(func() (err error) { // on QUIC the library calls us from a goroutine of its own
			cert, err = f(hello)
			return err
		})
		if err != nil {
			l.r.logPanic(err)
			return nil, err
		}
		if cert != nil {
			return cert, nil
		}
	}
	if slices.Contains(hello.SignatureSchemes, tls.Ed25519) {
		return l.e.cert, nil
	}
	current, _, err := l.e.web.pair(time.Now())
	return current, err
}

// verifyClient refuses a certificate that claims an Ed25519 key which proves
// nothing. It runs on resumption too. A certificate of another kind of key is
// no identity and does no harm; whether none is enough is decided after the
// handshake, for all transports alike.
func verifyClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	_, err := certificatePeer(state.PeerCertificates[0])
	if err == nil || errors.Is(err, errNoPeer) && state.PeerCertificates[0].PublicKeyAlgorithm != x509.Ed25519 {
		return nil
	}
	return err
}

// offerError lists what a client asked for in vain.
func offerError(offered []string) error {
	text := strings.Join(offered[:min(len(offered), 8)], " ")
	return fmt.Errorf("%w: %s", ErrNoService, printable.Quote(text))
}

// claimFrom is what the connection of ctx holds; nil outside of one.
func claimFrom(ctx context.Context) *claim {
	if ctx == nil {
		return nil
	}
	c, _ := ctx.Value(claimKey{}).(*claim)
	return c
}

// ticketLife is how long a key makes session tickets; it opens them for as long again.
const ticketLife = 12 * time.Hour

// ticketKeys encrypt session tickets. They are forgotten when the list of peers
// changes, so that an old ticket opens nothing.
type ticketKeys struct {
	mu   sync.Mutex
	keys *[][32]byte // guarded by mu; the newest first, at most two; never changed, but replaced
	made time.Time   // guarded by mu
}

// current is the keys in force at now: the same pointer as long as they are.
func (t *ticketKeys) current(now time.Time) *[][32]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	age := now.Sub(t.made)
	if t.keys != nil && age >= 0 && age < ticketLife {
		return t.keys
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	keys := [][32]byte{key}
	if t.keys != nil && age >= 0 && age < 2*ticketLife {
		keys = append(keys, (*t.keys)[0])
	}
	t.keys, t.made = &keys, now
	return t.keys
}

func (t *ticketKeys) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys = nil
}
