package vault

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// atOnce is how many handshakes are under way at the same time. The race
// detector has room for about 8,000 goroutines.
func atOnce() int {
	if raceDetector {
		return min(handshakes, 2000)
	}
	return handshakes
}

// A crowd is handshakes of TLS 1.3 in which both ends sign with keys of a vault.
// No server that has been greeted goes on before it is released.
type crowd struct {
	greeted atomic.Int32
	all     chan struct{} // closed when all are there
	release chan struct{} // closed by the test, for them to go on
	server  *tls.Config
	client  *tls.Config
}

func newCrowd(t testing.TB, n int, host, user crypto.Signer) *crowd {
	t.Helper()
	hostCert, userCert := must(certificate(t, host)), must(certificate(t, user))
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(hostCert)))
	pool.AddCert(must(x509.ParseCertificate(userCert)))
	c := &crowd{all: newChan(), release: newChan()}
	c.server = &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, ClientAuth: tls.RequireAnyClientCert, ClientCAs: pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if int(c.greeted.Add(1)) == n {
				close(c.all)
			}
			<-c.release
			return &tls.Certificate{Certificate: [][]byte{hostCert}, PrivateKey: host}, nil
		},
	}
	c.client = &tls.Config{
		RootCAs: pool, ServerName: "node", MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{userCert}, PrivateKey: user}},
	}
	return c
}

// handshake is one of them, until both ends are done.
func (c *crowd) handshake() error {
	a, b := net.Pipe()
	server := make(chan error, 1)
	go func() {
		conn := tls.Server(a, c.server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		server <- errors.Join(err, a.Close())
	}()
	conn := tls.Client(b, c.client)
	err := conn.Handshake()
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // the server has seen our certificate
	}
	return errors.Join(err, b.Close(), <-server)
}

// run runs n, releases them when all are there, after meanwhile, and counts those
// that did not come to an end.
func (c *crowd) run(n int, meanwhile func()) (failed int, last error) {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		wg.Go(func() { errs <- c.handshake() })
	}
	<-c.all
	meanwhile()
	close(c.release)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			failed, last = failed+1, err
		}
	}
	return failed, last
}

// TestSignersInManyHandshakes: so many at once, each of which needs a signature of
// the server's key and one of the client's.
func TestSignersInManyHandshakes(t *testing.T) {
	for name, o := range map[string]*Options{"cached": nil, "derived each time": {CacheTTL: -1}} {
		v := inMemoryVault(t, o)
		n := atOnce()
		c := newCrowd(t, n, must(v.Identity(0)), must(v.Identity(1)))
		failed, err := c.run(n, func() {})
		require.Zero(t, failed, "%s: %v", name, err)
	}
	v, other := inMemoryVault(t, nil), must(New(phrase(t, legal), Secret{}, nil))
	defer other.Close()
	c := newCrowd(t, 1, must(v.Identity(0)), must(v.Identity(1)))
	c.client.Certificates[0].PrivateKey = must(other.Identity(1))
	failed, _ := c.run(1, func() {})
	require.Equal(t, 1, failed, "a signature by another key is noticed")
}

// TestLockUnderManyHandshakes: all of them end, and none gets a signature.
func TestLockUnderManyHandshakes(t *testing.T) {
	v := inMemoryVault(t, nil)
	n := atOnce()
	c := newCrowd(t, n, must(v.Identity(0)), must(v.Identity(1)))
	failed, err := c.run(n, v.Lock)
	require.Equal(t, n, failed)
	require.ErrorContains(t, err, ErrLocked.Error(), "crypto/tls does not wrap it")
}
