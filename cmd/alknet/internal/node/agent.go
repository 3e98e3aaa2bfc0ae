package node

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"io"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

// clientVerify is what a TLS 1.3 client signs before the hash of the handshake
// (RFC 8446, section 4.4.3).
var clientVerify = []byte(strings.Repeat(" ", 64) + "TLS 1.3, client CertificateVerify\x00")

// An agent signs two kinds of messages with the node's key and no other: the
// handshake of a TLS client, and the node's own certificate.
type agent struct {
	key         crypto.Signer
	certificate []byte // to be signed: a pure function of the key
}

func newAgent(key crypto.Signer) (*agent, error) {
	r := &recorder{Signer: key}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: r})
	if err != nil {
		return nil, err
	}
	if err := ep.Close(); err != nil {
		return nil, err
	}
	return &agent{key: key, certificate: r.message}, nil
}

// A recorder remembers the first message that it signed.
type recorder struct {
	crypto.Signer
	message []byte
}

// Sign signs.
func (r *recorder) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if r.message == nil {
		r.message = bytes.Clone(message)
	}
	return r.Signer.Sign(rand, message, opts)
}

// sign signs a message, or says that it never will.
func (a *agent) sign(message []byte) ([]byte, error) {
	if !a.allowed(message) {
		return nil, fault.New(fault.Denied, "the agent signs handshakes of TLS clients and the node's certificate, nothing else", "")
	}
	sig, err := a.key.Sign(nil, message, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(sig) != ed25519.SignatureSize {
		return nil, fmt.Errorf("sign: a signature of %d bytes", len(sig))
	}
	return sig, nil
}

func (a *agent) allowed(message []byte) bool {
	if bytes.Equal(message, a.certificate) && len(message) > 0 {
		return true
	}
	hash, ok := bytes.CutPrefix(message, clientVerify)
	return ok && (len(hash) == 32 || len(hash) == 48)
}
