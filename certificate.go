package alknet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// nodeCertificate is the self-signed X.509 envelope of a node's key, since
// crypto/tls has no raw public keys (RFC 7250). It is a pure function of the
// key, so that pins of the whole certificate stay valid. GnuTLS wants a subject
// and a NotBefore; RFC 5280, section 4.1.2.5 has this NotAfter for "no end".
func nodeCertificate(key crypto.Signer) (*tls.Certificate, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("Config.Key is %T, want an Ed25519 key", key.Public())
	}
	id := PeerID(pub)
	serial := sha256.Sum256(pub)
	serial[0] &= 0x7f
	tmpl := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:16]),
		Subject:               pkix.Name{CommonName: id.String()},
		NotBefore:             time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	return certificate(tmpl, key)
}

// certificate signs tmpl with its own key.
func certificate(tmpl *x509.Certificate, key crypto.Signer) (*tls.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the node's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the node's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// errNoPeer is a certificate that is not an identity.
var errNoPeer = errors.New("the certificate holds no Ed25519 key")

// certificatePeer is the identity that a certificate stands for: its key. That
// the other end holds the key is what the handshake proves; names, dates and
// signatures in the certificate say nothing.
func certificatePeer(leaf *x509.Certificate) (PeerID, error) {
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return PeerID{}, errNoPeer
	}
	id := PeerID(pub)
	if !id.valid() {
		return PeerID{}, fmt.Errorf("%w that one node alone can hold", errNoPeer)
	}
	return id, nil
}

// provenPeer is the key that the other end of a finished handshake proved it
// holds; zero if it showed none, or one of another kind.
func provenPeer(state tls.ConnectionState) PeerID {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return PeerID{}
	}
	id, err := certificatePeer(state.PeerCertificates[0])
	if err != nil {
		return PeerID{}
	}
	return id
}

// WebTransport accepts a certificate by its hash if it is ECDSA and lives at
// most 14 days. Each of ours is announced for half of that before it is used.
const (
	webLife   = 14 * 24 * time.Hour
	webPeriod = webLife / 2
)

// webCertificates are the ECDSA certificates for clients without Ed25519, such
// as browsers. They are made when first asked for and prove no identity.
type webCertificates struct {
	mu            sync.Mutex
	current, next *tls.Certificate // guarded by mu
}

// pair returns the certificate in use at now and the one that follows it. Each
// is valid for a period before it is used and for the period in which it is.
func (w *webCertificates) pair(now time.Time) (current, next *tls.Certificate, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current == nil || now.Before(w.current.Leaf.NotBefore) || now.After(w.next.Leaf.NotAfter) { // or the clock jumped
		if w.current, err = webCertificate(now.Add(-webPeriod)); err != nil {
			return nil, nil, err
		}
		if w.next, err = webCertificate(now); err != nil {
			return nil, nil, err
		}
	}
	if use := w.next.Leaf.NotBefore.Add(webPeriod); !now.Before(use) {
		fresh, err := webCertificate(use)
		if err != nil {
			return nil, nil, err
		}
		w.current, w.next = w.next, fresh
	}
	return w.current, w.next, nil
}

func webCertificate(notBefore time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the web certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make the web certificate: %w", err)
	}
	return certificate(&x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "alknet"},
		DNSNames:              []string{"localhost"},
		NotBefore:             notBefore,
		NotAfter:              notBefore.Add(webLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, key)
}
