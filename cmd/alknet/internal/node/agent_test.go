package node

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// TestAgentSignsClientHandshakesOnly: nothing else is signed, however near.
func TestAgentSignsClientHandshakesOnly(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	a, err := newAgent(key)
	require.NoError(t, err)

	for _, n := range []int{32, 48} {
		message := append(bytes.Clone(clientVerify), make([]byte, n)...)
		sig, err := a.sign(message)
		require.NoError(t, err)
		require.True(t, ed25519.Verify(pub, message, sig))
		for i := range clientVerify {
			flipped := bytes.Clone(message)
			flipped[i] ^= 1
			_, err := a.sign(flipped)
			require.Error(t, err, "byte %d is not what a client signs", i)
		}
	}
	for _, n := range []int{0, 31, 33, 47, 49, 64} {
		_, err := a.sign(append(bytes.Clone(clientVerify), make([]byte, n)...))
		require.Error(t, err, "a hash of %d bytes", n)
	}
	server := bytes.Replace(clientVerify, []byte("client"), []byte("server"), 1)
	_, err = a.sign(append(server, make([]byte, 32)...))
	require.Error(t, err, "the handshake of a server")
	_, err = a.sign([]byte("alknet stateless reset key 1"))
	require.Error(t, err)
	_, err = a.sign(nil)
	require.Error(t, err)

	sig, err := a.sign(a.certificate)
	require.NoError(t, err)
	require.True(t, ed25519.Verify(pub, a.certificate, sig))
	for i := range a.certificate {
		flipped := bytes.Clone(a.certificate)
		flipped[i] ^= 1
		_, err := a.sign(flipped)
		require.Error(t, err, "byte %d of the certificate is another", i)
	}
}

// TestAgentIsEnoughForAnEndpoint: an endpoint that only dials asks for nothing more.
func TestAgentIsEnoughForAnEndpoint(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	a, err := newAgent(key)
	require.NoError(t, err)
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: &agentSigner{a}})
	require.NoError(t, err)
	require.Equal(t, alknet.PeerID(key.Public().(ed25519.PublicKey)), ep.ID())
	require.NoError(t, ep.Close())
}

// agentSigner is the agent as a crypto.Signer.
type agentSigner struct{ *agent }

func (s *agentSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s *agentSigner) Sign(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(message)
}
