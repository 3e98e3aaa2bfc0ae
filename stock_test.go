package alknet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
)

// stock runs a foreign client with text as its input and returns all it printed.
func stock(t *testing.T, input, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Tool(t, name), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	require.NoError(t, ctx.Err(), "%s hangs: %s", name, out)
	return string(out), err
}

// converse runs a foreign client that echoes what comes back, gives it a line, and
// ends its input when the line has come back, or with the client.
func converse(t *testing.T, line, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	_, _ = io.WriteString(in, line) // it may have ended
	var said []byte
	for b := make([]byte, 4096); ; {
		n, err := out.Read(b)
		said = append(said, b[:n]...)
		if bytes.Contains(said, []byte("\n"+line)) {
			_ = in.Close()
		}
		if err != nil {
			break
		}
	}
	_ = cmd.Wait() // what was said is what counts
	require.NoError(t, ctx.Err(), "%s hangs: %s", name, said)
	return string(said)
}

// whoami tells each connection's peer who it is, and then echoes.
var whoami = alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
	id := s.Conn().Identity()
	if _, err := fmt.Fprintf(s, "peer=%s alpn=%s\n", id.Peer, s.Conn().ALPN()); err != nil {
		return err
	}
	_, err := io.Copy(s, s)
	return err
})

// writeKey stores a certificate and a key for openssl.
func writeKey(t *testing.T, dir, name string, cert []byte, key ed25519.PrivateKey) []string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	c, k := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	require.NoError(t, os.WriteFile(c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	require.NoError(t, os.WriteFile(k, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return []string{"-cert", c, "-key", k}
}

func TestOpenSSLReachesRawServices(t *testing.T) {
	router := &alknet.Router{}
	require.NoError(t, router.Register(alknet.Service{ALPN: "known", Over: alknet.Raw, Handler: whoami}))
	require.NoError(t, router.Register(alknet.Service{ALPN: "open", Over: alknet.Raw, Handler: whoami, AllowAnonymous: true}))
	server := serve(t, router, nil)
	client := func(args ...string) (string, error) {
		return stock(t, "", "openssl", append([]string{"s_client", "-connect", server.Addr().HostPort, "-ign_eof"}, args...)...)
	}
	talk := func(args ...string) string {
		all := append([]string{"s_client", "-connect", server.Addr().HostPort, "-no_ign_eof"}, args...)
		return converse(t, "hello\n", testenv.Tool(t, "openssl"), all...)
	}
	out := talk("-alpn", "open")
	require.Contains(t, out, "ALPN protocol: open")
	require.Contains(t, out, "TLSv1.3")
	require.Contains(t, out, "alpn=open\nhello\n")
	require.Contains(t, out, "CN = "+server.ID().String(), "the node's certificate has a subject")

	out, _ = client("-alpn", "nothing")
	require.Contains(t, out, "alert number 120", "no_application_protocol")
	out, _ = client()
	require.Contains(t, out, "alert", "a client that names nothing is refused")
	out, _ = client("-alpn", "open", "-tls1_2")
	require.Contains(t, out, "alert protocol version")

	key := newKey(t).(ed25519.PrivateKey)
	owner, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	require.NoError(t, err)
	defer owner.Close()
	dir := t.TempDir()
	tmpl := &x509.Certificate{SerialNumber: bigOne()}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	out = talk(append(writeKey(t, dir, "mine", der, key), "-alpn", "known")...)
	require.Contains(t, out, fmt.Sprintf("peer=%s alpn=known\nhello\n", owner.ID()))
	out = talk("-alpn", "known")
	require.NotContains(t, out, "peer=", "without a key")
	out = talk(append(writeKey(t, dir, "stolen", der, newKey(t).(ed25519.PrivateKey)), "-alpn", "known")...)
	require.NotContains(t, out, "peer=", "somebody else's certificate with an own key")
}

func TestGnuTLSReachesQUICServices(t *testing.T) {
	seen := make(chan string, 4)
	router := &alknet.Router{}
	require.NoError(t, router.Register(alknet.Service{ALPN: "h3", Over: alknet.QUIC, AllowAnonymous: true,
		Handler: alknet.HandlerFunc(func(ctx context.Context, c *alknet.Conn) error {
			s, err := c.AcceptStream(ctx) // the client's first request
			if err != nil {
				return err
			}
			b := make([]byte, 1)
			_, err = io.ReadFull(s, b)
			seen <- fmt.Sprintf("%s %s %x %v", c.ALPN(), c.Transport(), b, err)
			return c.CloseWithError(0x100, "") // H3_NO_ERROR (RFC 9114, section 8.1)
		})}))
	server := serve(t, router, nil)
	host, port, err := net.SplitHostPort(server.Addr().HostPort)
	require.NoError(t, err)
	out, _ := stock(t, "", "gtlsclient", "--timeout=5s", host, port, "https://localhost/")
	select {
	case got := <-seen:
		require.Equal(t, "h3 QUIC 01 <nil>", got, "a HEADERS frame came: %s", out)
	default:
		require.Fail(t, "the handler was not reached", out)
	}
	require.Contains(t, out, "Negotiated ALPN is h3")
	require.Contains(t, out, "(0x100)", "the code that the handler closed with")

	// An ALPN that is not served ends in the handshake.
	require.NoError(t, router.Remove(t.Context(), "h3"))
	require.NoError(t, router.Register(alknet.Service{ALPN: "other", Over: alknet.QUIC, AllowAnonymous: true, Handler: echo}))
	out, _ = stock(t, "", "gtlsclient", "--timeout=5s", host, port, "https://localhost/")
	require.Contains(t, out, "0x178", "no_application_protocol")
	require.Empty(t, seen)
}

// one is a listener of one connection.
type one struct {
	c    net.Conn
	done <-chan struct{}
	used bool
}

func (l *one) Accept() (net.Conn, error) {
	if !l.used {
		l.used = true
		return l.c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *one) Close() error   { return nil }
func (l *one) Addr() net.Addr { return l.c.LocalAddr() }

// web serves HTTP on a Raw connection with net/http: HTTP/2 or 1.1 as the
// handshake agreed.
func web(ctx context.Context, c *alknet.Conn) error {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s peer=%v", r.Proto, c.Identity().Peer.IsZero())
	})}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	_ = srv.Serve(&one{c: c.Underlying().(*tls.Conn), done: c.Done()})
	return nil
}

func TestCurlReachesRawServices(t *testing.T) {
	router := &alknet.Router{}
	for _, name := range []string{"h2", "http/1.1"} {
		require.NoError(t, router.Register(alknet.Service{ALPN: name, Over: alknet.Raw, AllowAnonymous: true, Handler: alknet.HandlerFunc(web)}))
	}
	server := serve(t, router, nil)
	url := "https://" + server.Addr().HostPort + "/"
	for want, args := range map[string][]string{
		"HTTP/2.0 peer=true":  {"--http2"},
		"HTTP/1.1 peer=true":  {"--http1.1"},
		"HTTP/1.1 peer=true ": {"--no-alpn"},
	} {
		out, err := stock(t, "", "curl", append([]string{"-sSk", "--max-time", "10", url}, args...)...)
		require.NoError(t, err, out)
		require.Equal(t, strings.TrimSpace(want), out, args)
	}
	// No CA, and pinned all the same.
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	nc, err := tls.Dial("tcp", server.Addr().HostPort, conf)
	require.NoError(t, err)
	leaf := nc.ConnectionState().PeerCertificates[0]
	require.NoError(t, nc.Close())
	require.True(t, bytes.HasSuffix(leaf.RawSubjectPublicKeyInfo, idBytes(server.ID())))
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	good := "sha256//" + base64.StdEncoding.EncodeToString(pin[:])
	_, err = stock(t, "", "curl", "-sSk", "--max-time", "10", "--pinnedpubkey", good, url)
	require.NoError(t, err)
	pin[0] ^= 1
	bad := "sha256//" + base64.StdEncoding.EncodeToString(pin[:])
	_, err = stock(t, "", "curl", "-sSk", "--max-time", "10", "--pinnedpubkey", bad, url)
	require.Error(t, err)
}

func idBytes(id alknet.PeerID) []byte { return id[:] }

func bigOne() *big.Int { return big.NewInt(1) }
