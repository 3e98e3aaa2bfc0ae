package ssh_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
)

func TestWeakKeysAreRefused(t *testing.T) {
	x := newHost(t, nil)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	good, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	x.allow(line(t, "", ec, "ec"), line(t, "", good, "rsa"))
	for _, key := range []crypto.Signer{ec, good} {
		_, err = x.login(key)
		require.NoError(t, err)
	}
	sha1, err := xssh.NewSignerWithAlgorithms(signerOf(t, good).(xssh.AlgorithmSigner), []string{xssh.KeyAlgoRSA})
	require.NoError(t, err)
	_, err = x.dial("bob", xssh.PublicKeys(sha1))
	require.Error(t, err, "a signature with SHA-1")
	// A key of 16,384 bits is refused before it is looked for: its holder is listed.
	big := bigRSA(t)
	x.allow(string(xssh.MarshalAuthorizedKey(big)))
	bigSigner, err := xssh.NewSignerWithAlgorithms(offeringRSA{signerOf(t, good).(xssh.AlgorithmSigner), big}, []string{xssh.KeyAlgoRSASHA512})
	require.NoError(t, err)
	_, err = x.dial("bob", xssh.PublicKeys(bigSigner))
	require.Error(t, err)
	require.Eventually(t, func() bool { return strings.Contains(x.log.String(), "RSA of more than 8192 bits") }, 30*time.Second, time.Millisecond)
}

// offeringRSA is offering for RSA.
type offeringRSA struct {
	xssh.AlgorithmSigner
	pub xssh.PublicKey
}

func (o offeringRSA) PublicKey() xssh.PublicKey { return o.pub }

// bigRSA is a public key of 16,384 bits that nobody has.
func bigRSA(t *testing.T) xssh.PublicKey {
	n := bytes.Repeat([]byte{0xff}, 2048)
	var blob []byte
	str := func(b []byte) {
		blob = append(blob, byte(len(b)>>24), byte(len(b)>>16), byte(len(b)>>8), byte(len(b)))
		blob = append(blob, b...)
	}
	str([]byte("ssh-rsa"))
	str([]byte{1, 0, 1})
	str(append([]byte{0}, n...))
	key, err := xssh.ParsePublicKey(blob)
	require.NoError(t, err)
	return key
}

func TestHostKeysRotate(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	next := newKey(t)
	x := newHost(t, nil)
	y := newHost(t, func(h *ssh.Handler) { h.HostKeys = []crypto.Signer{x.key, other, next} })
	dir := t.TempDir()
	key := newKey(t)
	y.allow(line(t, "", key, "bob"))
	keyFile := writeKey(t, dir, key)
	hostname, port, _ := net.SplitHostPort(y.addr)
	known := filepath.Join(dir, "known_hosts")
	pub := strings.TrimSpace(string(xssh.MarshalAuthorizedKey(signerOf(t, x.key).PublicKey())))
	require.NoError(t, os.WriteFile(known, fmt.Appendf(nil, "[%s]:%s %s\n", hostname, port, pub), 0o600))
	out, errs, status := run(t, testenv.Command(t, "ssh", "-F", "none", "-i", keyFile, "-o", "UserKnownHostsFile="+known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=yes", "-o", "IdentitiesOnly=yes", "-p", port, "bob@"+hostname, "echo ok"))
	require.Equal(t, 0, status, "%s%s", out, errs)
	text, err := os.ReadFile(known)
	require.NoError(t, err)
	require.Contains(t, string(text), "ecdsa-sha2-nistp256", "%s", errs)
	require.Contains(t, string(text), strings.Fields(string(xssh.MarshalAuthorizedKey(signerOf(t, next).PublicKey())))[1], "the key to come")
}

// writeKey writes a private key in OpenSSH's format.
func writeKey(t testing.TB, dir string, key crypto.Signer) string {
	t.Helper()
	block, err := xssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	name := filepath.Join(dir, fmt.Sprintf("id-%x", signerOf(t, key).PublicKey().Marshal()[20:24]))
	require.NoError(t, os.WriteFile(name, pem.EncodeToMemory(block), 0o600))
	return name
}

// authorities are RSA keys that certify, with the signature that they make and
// whether it counts.
func authorities(t *testing.T) map[string]struct {
	signer xssh.Signer
	ok     bool
} {
	t.Helper()
	signing := func(bits int, algorithm string) xssh.Signer {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		require.NoError(t, err)
		s, err := xssh.NewSignerWithAlgorithms(signerOf(t, key).(xssh.AlgorithmSigner), []string{algorithm})
		require.NoError(t, err)
		return s
	}
	return map[string]struct {
		signer xssh.Signer
		ok     bool
	}{
		"SHA-512":   {signing(2048, xssh.KeyAlgoRSASHA512), true},
		"SHA-1":     {signing(2048, xssh.KeyAlgoRSA), false},
		"1024 bits": {signing(1024, xssh.KeyAlgoRSASHA512), false},
	}
}

// certifyBy is a certificate for key that ca has signed.
func certifyBy(t *testing.T, key crypto.Signer, ca xssh.Signer, cert xssh.Certificate) xssh.Signer {
	t.Helper()
	cert.Key, cert.ValidBefore = signerOf(t, key).PublicKey(), xssh.CertTimeInfinity
	require.NoError(t, cert.SignCert(rand.Reader, ca))
	s, err := xssh.NewCertSigner(&cert, signerOf(t, key))
	require.NoError(t, err)
	return s
}

// The library takes a certificate that was signed with SHA-1, or by a short key.
func TestWeakAuthoritiesAreRefused(t *testing.T) {
	x := newHost(t, nil)
	key := newKey(t)
	for name, ca := range authorities(t) {
		x.allow("cert-authority " + string(xssh.MarshalAuthorizedKey(ca.signer.PublicKey())))
		_, err := x.dial("bob", xssh.PublicKeys(certifyBy(t, key, ca.signer, xssh.Certificate{CertType: xssh.UserCert, ValidPrincipals: []string{"bob"}})))
		require.Equal(t, ca.ok, err == nil, "%s: %v", name, err)
	}
}

// The same for the certificate of a host.
func TestClientRefusesWeakAuthorities(t *testing.T) {
	for name, ca := range authorities(t) {
		cfg := &xssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(certifyBy(t, newKey(t), ca.signer, xssh.Certificate{CertType: xssh.HostCert, ValidPrincipals: []string{"127.0.0.1"}}))
		nc := dialServer(t, func(nc net.Conn) {
			if _, chans, reqs, err := xssh.NewServerConn(nc, cfg); err == nil {
				go xssh.DiscardRequests(reqs)
				for range chans {
				}
			}
		})
		known := filepath.Join(t.TempDir(), "known")
		require.NoError(t, os.WriteFile(known, fmt.Appendf(nil, "@cert-authority %s %s", strings.Replace(nc.RemoteAddr().String(), "127.0.0.1", "[127.0.0.1]", 1),
			xssh.MarshalAuthorizedKey(ca.signer.PublicKey())), 0o600))
		c, err := ssh.NewClient(within(t), nc, &ssh.ClientConfig{KnownHosts: []string{known}})
		require.Equal(t, ca.ok, err == nil, "%s: %v", name, err)
		if err == nil {
			require.NoError(t, c.Close())
		}
	}
}
