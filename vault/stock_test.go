package vault

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/internal/testenv"
)

// certificate is self-signed, and the same bytes each time.
func certificate(t testing.TB, k crypto.Signer) ([]byte, error) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, DNSNames: []string{"node"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	return x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
}

// connected is a connection on loopback: both SSH peers write first, for which a
// net.Pipe has no room.
func connected(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	client = must(net.Dial("tcp", l.Addr().String()))
	server = must(l.Accept())
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// handshake runs TLS 1.3, in which the server signs with k.
func handshake(t testing.TB, k crypto.Signer, cert []byte) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(cert)))
	client, server := connected(t)
	serverErr := make(chan error, 1)
	go func() {
		chain := tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: k}
		err := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{chain}, MinVersion: tls.VersionTLS13}).Handshake()
		server.Close()
		serverErr <- err
	}()
	err := tls.Client(client, &tls.Config{RootCAs: pool, ServerName: "node", MinVersion: tls.VersionTLS13}).Handshake()
	client.Close()
	return errors.Join(err, <-serverErr)
}

// sshHandshake is SSH: the server signs with host, the client with user.
func sshHandshake(t testing.TB, host, user crypto.Signer) error {
	t.Helper()
	hostKey, userKey := must(xssh.NewSignerFromSigner(host)), must(xssh.NewSignerFromSigner(user))
	server := &xssh.ServerConfig{PublicKeyCallback: func(_ xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
		if string(key.Marshal()) != string(userKey.PublicKey().Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	server.AddHostKey(hostKey)
	b, a := connected(t)
	serverErr := make(chan error, 1)
	go func() {
		conn, _, _, err := xssh.NewServerConn(a, server)
		if err == nil {
			err = conn.Close()
		}
		a.Close()
		serverErr <- err
	}()
	conn, _, _, err := xssh.NewClientConn(b, "node", &xssh.ClientConfig{
		Auth: []xssh.AuthMethod{xssh.PublicKeys(userKey)}, HostKeyCallback: xssh.FixedHostKey(hostKey.PublicKey()),
	})
	if err == nil {
		_ = conn.Close() // the server may have closed already
	}
	b.Close()
	serverErr2 := <-serverErr
	if err == nil {
		return nil
	}
	return errors.Join(err, serverErr2)
}

// TestSignersWorkInTLSX509AndSSH, and after a lock all of them fail.
func TestSignersWorkInTLSX509AndSSH(t *testing.T) {
	v := inMemoryVault(t, nil)
	k, host, user := must(v.Identity(0)), must(v.SSHHostKey(0)), must(v.SSHUserKey(0))
	cert := must(certificate(t, k))
	require.Equal(t, cert, must(certificate(t, k)), "byte-stable")
	require.NoError(t, handshake(t, k, cert))
	require.NoError(t, sshHandshake(t, host, user))
	request := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k))
	require.NoError(t, must(x509.ParseCertificateRequest(request)).CheckSignature())
	_, err := k.Sign(nil, make([]byte, 64), crypto.SHA512)
	require.NoError(t, err, "Ed25519ph")
	_, err = k.Sign(nil, nil, crypto.SHA256)
	require.Error(t, err)

	v.Lock()
	_, err = certificate(t, k)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, handshake(t, k, cert), ErrLocked.Error(), "crypto/tls does not wrap it")
	require.Error(t, sshHandshake(t, host, user))
	_, err = host.Sign(nil, nil, nil)
	require.ErrorIs(t, err, ErrLocked)
}

// TestOpenSSLAndSSHKeygenSeeTheSamePublicKeys in what the signers make and in
// private keys of the same numbers.
func TestOpenSSLAndSSHKeygenSeeTheSamePublicKeys(t *testing.T) {
	v := inMemoryVault(t, nil)
	dir := t.TempDir()
	cert := filepath.Join(dir, "cert")
	k := must(v.Identity(0))
	require.NoError(t, os.WriteFile(cert, must(certificate(t, k)), 0o600))
	out, err := testenv.Command(t, "openssl", "x509", "-inform", "DER", "-in", cert, "-noout", "-pubkey").Output()
	require.NoError(t, err)
	public := func(pub crypto.PublicKey) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(pub))}))
	}
	require.Equal(t, public(k.Public()), string(out))

	key, _ := nodeHex(t, aboutSeed(t, ""), "m/74'/0'/0'/0'")
	private := ed25519.NewKeyFromSeed(unhex(t, key))
	file := filepath.Join(dir, "key")
	der := must(x509.MarshalPKCS8PrivateKey(private))
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	out, err = testenv.Command(t, "openssl", "pkey", "-in", file, "-pubout").Output()
	require.NoError(t, err)
	require.Equal(t, public(k.Public()), string(out))

	key, _ = nodeHex(t, aboutSeed(t, ""), "m/74'/0'/1'/0'")
	private = ed25519.NewKeyFromSeed(unhex(t, key))
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(must(xssh.MarshalPrivateKey(private, ""))), 0o600))
	out, err = testenv.Command(t, "ssh-keygen", "-y", "-f", file).Output()
	require.NoError(t, err)
	want := xssh.MarshalAuthorizedKey(must(xssh.NewPublicKey(must(v.SSHHostKey(0)).Public())))
	require.Equal(t, strings.TrimSpace(string(want)), strings.TrimSpace(string(out)))
}

// TestStockAgeOpensSlots and we open a slot that stock age made.
func TestStockAgeOpensSlots(t *testing.T) {
	v, dir := folderVault(t, nil)
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, testenv.Command(t, "age-keygen", "-o", keyFile).Run())
	ids := must(ParseIdentities(must(os.Open(keyFile))))
	classic, ok := ids[0].(*age.X25519Identity)
	require.True(t, ok)
	require.NoError(t, v.Seal("server", classic.Recipient()))
	slot := filepath.Join(dir, "slots", "server.age")
	text, err := testenv.Command(t, "age", "-d", "-i", keyFile, slot).Output()
	require.NoError(t, err)
	found, err := readSlot("server", text, v.Status().Check)
	require.NoError(t, err)
	require.True(t, string(found.seed[:]) == string(aboutSeed(t, "")), "stock age recovers the seed")

	sshTo, sshKeyFile := sshKeyFile(t)
	require.NoError(t, v.Seal("ssh", sshTo))
	again, err := testenv.Command(t, "age", "-d", "-i", sshKeyFile, filepath.Join(dir, "slots", "ssh.age")).Output()
	require.NoError(t, err)
	require.True(t, slices.Equal(text, again))

	// What stock age made of the same content opens, in place of ours.
	cmd := testenv.Command(t, "age", "-r", classic.Recipient().String(), "-o", filepath.Join(dir, "slots", "made.age"))
	cmd.Stdin = strings.NewReader(string(text))
	require.NoError(t, cmd.Run())
	require.NoError(t, os.Chmod(filepath.Join(dir, "slots", "made.age"), 0o600))
	require.NoError(t, v.RemoveSlot("server"))
	require.NoError(t, v.RemoveSlot("ssh"))
	v.Lock()
	require.NoError(t, v.Unlock(t.Context(), classic))
}

// sshKeyFile makes an SSH key as a user has it.
func sshKeyFile(t *testing.T) (age.Recipient, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "id_ed25519")
	require.NoError(t, testenv.Command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).Run())
	to, err := agessh.ParseRecipient(string(must(os.ReadFile(file + ".pub"))))
	require.NoError(t, err)
	return to, file
}

// TestStockAgeOpensPassphraseSlots types the passphrase at age's terminal.
func TestStockAgeOpensPassphraseSlots(t *testing.T) {
	testenv.Tool(t, "age")
	v, dir := folderVault(t, nil)
	sealQuick(t, v, "prompt", "correct horse")
	program := `
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
while b"passphrase" not in seen:
    seen += os.read(fd, 1000)
os.write(fd, b"correct horse\n")
try:
    while os.read(fd, 1000):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`
	out := filepath.Join(t.TempDir(), "out")
	cmd := testenv.Command(t, "python3", "-c", program, testenv.Tool(t, "age"), "-d", "-o", out, filepath.Join(dir, "slots", "prompt.age"))
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	found, err := readSlot("prompt", must(os.ReadFile(out)), v.Status().Check)
	require.NoError(t, err)
	require.True(t, string(found.seed[:]) == string(aboutSeed(t, "")))
}

// TestAgeToolOpensHybridSlots: the program of the library's own version, which
// knows post-quantum keys, with the key that the words alone give.
func TestAgeToolOpensHybridSlots(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program")
	}
	v, dir := folderVault(t, nil)
	id := must(v.AgeIdentity(0))
	require.NoError(t, v.Seal("pq", id.Recipient()))
	bin := t.TempDir()
	for _, name := range []string{"age", "age-keygen"} {
		_, err := command(t, "go", "build", "-modfile=../internal/tools/go.mod", "-o", filepath.Join(bin, name), "filippo.io/age/cmd/"+name)
		require.NoError(t, err)
	}
	keyFile := filepath.Join(bin, "key")
	require.NoError(t, os.WriteFile(keyFile, []byte(id.String()+"\n"), 0o600))
	text, err := command(t, filepath.Join(bin, "age"), "-d", "-i", keyFile, filepath.Join(dir, "slots", "pq.age"))
	require.NoError(t, err)
	_, err = readSlot("pq", text, v.Status().Check)
	require.NoError(t, err)
	out, err := command(t, filepath.Join(bin, "age-keygen"), "-y", keyFile)
	require.NoError(t, err)
	require.Equal(t, id.Recipient().String()+"\n", string(out))
}
