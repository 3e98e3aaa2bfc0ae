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
	require.Eventually(t, func() bool { return strings.Contains(x.log.String(), "RSA of more than 8192 bits") }, 5*time.Second, time.Millisecond)
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
