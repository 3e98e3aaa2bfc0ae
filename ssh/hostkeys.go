package ssh

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
)

// hostCertLife is how long a host certificate is valid; it is made anew when
// half of that is left.
const hostCertLife = 30 * 24 * time.Hour

// hostKeys are the keys of a server, with the certificate of the first Ed25519.
type hostKeys struct {
	plain []xssh.Signer
	first xssh.Signer // the certified one; nil: none
	node  xssh.Signer // nil: no certificate
	peer  alknet.PeerID

	mu    sync.Mutex
	cert  xssh.Signer // guarded by mu
	until time.Time   // guarded by mu; when to make a new one
}

// hostKeys returns the keys of the handler, made once.
func (h *Handler) hostKeys() (*hostKeys, error) {
	h.hostOnce.Do(func() { h.host, h.hostErr = newHostKeys(h.HostKeys, h.Node) })
	return h.host, h.hostErr
}

func newHostKeys(keys []crypto.Signer, node crypto.Signer) (*hostKeys, error) {
	if len(keys) == 0 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("ssh: make a host key: %w", err)
		}
		keys = []crypto.Signer{key}
	}
	hk := &hostKeys{}
	for _, key := range keys {
		s, err := signer(key)
		if err != nil {
			return nil, fmt.Errorf("ssh: host key: %w", err)
		}
		hk.plain = append(hk.plain, s)
		if hk.first == nil && s.PublicKey().Type() == xssh.KeyAlgoED25519 {
			hk.first = s
		}
	}
	if node == nil {
		return hk, nil
	}
	pub, ok := node.Public().(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("ssh: Handler.Node is %T, want an Ed25519 key", node.Public())
	}
	if hk.first == nil {
		return nil, errors.New("ssh: Handler.Node certifies an Ed25519 host key, and HostKeys has none")
	}
	hk.peer = alknet.PeerID(pub)
	var err error
	hk.node, err = xssh.NewSignerFromSigner(node)
	return hk, err
}

// signer is a key without signatures that use SHA-1.
func signer(key crypto.Signer) (xssh.Signer, error) {
	s, err := xssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, err
	}
	switch s.PublicKey().Type() {
	case keyDSA:
		return nil, errors.New("DSA keys are not supported")
	case xssh.KeyAlgoRSA:
		as, ok := s.(xssh.AlgorithmSigner)
		if !ok {
			return nil, errors.New("the RSA key signs with SHA-1 only")
		}
		return xssh.NewSignerWithAlgorithms(as, []string{xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256})
	}
	return s, nil
}

// addTo gives a server its keys. The certificate is the first, for clients that
// know its authority; others get the plain keys.
func (hk *hostKeys) addTo(cfg *xssh.ServerConfig) error {
	if hk.node != nil {
		cert, err := hk.certificate(time.Now())
		if err != nil {
			return err
		}
		cfg.AddHostKey(cert)
	}
	seen := make(map[string]bool)
	for _, s := range hk.plain {
		if kind := s.PublicKey().Type(); !seen[kind] { // the first of a kind; others are announced as keys to come
			seen[kind] = true
			cfg.AddHostKey(s)
		}
	}
	return nil
}

// certificate is the host certificate that the node's key signed: whoever knows
// the peer's id knows the key that certifies its host key.
func (hk *hostKeys) certificate(now time.Time) (xssh.Signer, error) {
	hk.mu.Lock()
	defer hk.mu.Unlock()
	if hk.cert != nil && now.Before(hk.until) && now.After(hk.until.Add(-hostCertLife)) {
		return hk.cert, nil
	}
	id := hk.peer.String()
	cert := &xssh.Certificate{
		Key:             hk.first.PublicKey(),
		CertType:        xssh.HostCert,
		KeyId:           id,
		ValidPrincipals: []string{id, id + ".alk"},
		ValidBefore:     uint64(now.Add(hostCertLife).Unix()),
	}
	if err := cert.SignCert(rand.Reader, hk.node); err != nil {
		return nil, fmt.Errorf("ssh: sign the host certificate: %w", err)
	}
	s, err := xssh.NewCertSigner(cert, hk.first)
	if err != nil {
		return nil, fmt.Errorf("ssh: host certificate: %w", err)
	}
	hk.cert, hk.until = s, now.Add(hostCertLife/2)
	return s, nil
}

// The requests with which host keys rotate (OpenSSH's PROTOCOL, section 2.5).
const (
	requestHostKeys      = "hostkeys-00@openssh.com"
	requestHostKeysProve = "hostkeys-prove-00@openssh.com"
)

// announcement is the payload of requestHostKeys.
func (hk *hostKeys) announcement() []byte {
	var b []byte
	for _, s := range hk.plain {
		b = appendString(b, s.PublicKey().Marshal())
	}
	return b
}

// prove signs for each key in the payload of a requestHostKeysProve.
func (hk *hostKeys) prove(session, payload []byte) ([]byte, error) {
	var answer []byte
	for n := 0; len(payload) > 0; n++ {
		blob, rest, ok := cutString(payload)
		if !ok || n > len(hk.plain) {
			return nil, errors.New("ssh: malformed " + requestHostKeysProve)
		}
		payload = rest
		sig, err := hk.proof(session, blob)
		if err != nil {
			return nil, err
		}
		answer = appendString(answer, xssh.Marshal(sig))
	}
	return answer, nil
}

func (hk *hostKeys) proof(session, blob []byte) (*xssh.Signature, error) {
	for _, s := range hk.plain {
		if !bytes.Equal(s.PublicKey().Marshal(), blob) {
			continue
		}
		data := appendString(nil, []byte(requestHostKeysProve))
		data = appendString(data, session)
		data = appendString(data, blob)
		if s.PublicKey().Type() == xssh.KeyAlgoRSA {
			return s.(xssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, data, xssh.KeyAlgoRSASHA512)
		}
		return s.Sign(rand.Reader, data)
	}
	return nil, errors.New("ssh: asked to prove a key that is none of ours")
}

// appendString appends s as an SSH string (RFC 4251, section 5).
func appendString(b, s []byte) []byte {
	b = append(b, byte(len(s)>>24), byte(len(s)>>16), byte(len(s)>>8), byte(len(s)))
	return append(b, s...)
}

// cutString reads an SSH string.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}
