package alknet

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testKey(t testing.TB, seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// The certificate is a pure function of the key: pins of it stay valid.
func TestNodeCertificateIsByteStable(t *testing.T) {
	a, err := nodeCertificate(testKey(t, 1))
	require.NoError(t, err)
	b, err := nodeCertificate(testKey(t, 1))
	require.NoError(t, err)
	require.Equal(t, a.Certificate, b.Certificate)
	require.NotEmpty(t, a.Leaf.Subject.CommonName)
	require.False(t, a.Leaf.NotBefore.IsZero())
	require.NoError(t, a.Leaf.CheckSignature(a.Leaf.SignatureAlgorithm, a.Leaf.RawTBSCertificate, a.Leaf.Signature))
	id, err := certificatePeer(a.Leaf)
	require.NoError(t, err)
	require.Equal(t, PeerID(testKey(t, 1).Public().(ed25519.PublicKey)), id)
	require.Equal(t, id.String(), a.Leaf.Subject.CommonName)
}

func TestKeysThatAreNotEd25519AreRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, err = NewEndpoint(nil, nil, &Config{Key: key})
	require.ErrorContains(t, err, "Config.Key")
	_, err = NewEndpoint(nil, nil, &Config{Key: failingSigner{testKey(t, 1)}})
	require.ErrorIs(t, err, errSigner)
}

var errSigner = errors.New("the agent is gone")

type failingSigner struct{ ed25519.PrivateKey }

func (failingSigner) Sign(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
	return nil, errSigner
}

func TestWebCertificatesFollowEachOther(t *testing.T) {
	var w webCertificates
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	current, next, err := w.pair(now)
	require.NoError(t, err)
	for day := range 60 {
		at := now.Add(time.Duration(day) * 24 * time.Hour)
		c, n, err := w.pair(at)
		require.NoError(t, err)
		for _, cert := range []*tls.Certificate{c, n} {
			require.LessOrEqual(t, cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore), 14*24*time.Hour)
			require.False(t, at.Before(cert.Leaf.NotBefore), "day %d", day)
			require.False(t, at.After(cert.Leaf.NotAfter), "day %d", day)
		}
		if c != current {
			require.Same(t, next, c, "what was announced is used, day %d", day)
		}
		current, next = c, n
	}
	jump, _, err := w.pair(now.AddDate(-30, 0, 0))
	require.NoError(t, err)
	require.False(t, jump.Leaf.NotBefore.After(now.AddDate(-30, 0, 0)), "the clock may jump back")
	jump, _, err = w.pair(now.AddDate(30, 0, 0))
	require.NoError(t, err)
	require.True(t, jump.Leaf.NotAfter.After(now.AddDate(30, 0, 0)), "and forth")
}

func TestBrowserCertHashes(t *testing.T) {
	e, err := NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	defer e.Close()
	hashes := e.BrowserCertHashes()
	require.Len(t, hashes, 2)
	require.NotEqual(t, hashes[0], hashes[1])
	require.Equal(t, hashes, e.BrowserCertHashes())
}

// addrConn is a connection of which only the address is asked.
type addrConn struct{ net.Conn }

func (addrConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// The choice of certificate and of the request for one follows the client's
// signature algorithms; its offered names lead to exactly one.
func TestConfigOfAHandshakeNamesOneALPN(t *testing.T) {
	e, err := NewEndpoint(nil, nil, &Config{Key: testKey(t, 1)})
	require.NoError(t, err)
	defer e.Close()
	r := &Router{}
	require.NoError(t, r.Register(Service{ALPN: "a", Handler: HandlerFunc(nil)}))
	require.NoError(t, r.Register(Service{ALPN: "h2", Over: Raw, Handler: HandlerFunc(nil)}))
	defer r.Close()
	l := &listening{r: r, e: e, ctx: t.Context()}
	for name, tt := range map[string]struct {
		offered []string
		schemes []tls.SignatureScheme
		over    Transport
		alpn    string
		asks    tls.ClientAuthType
		ed25519 bool
	}{
		"node on QUIC":       {[]string{"h2", "a"}, []tls.SignatureScheme{tls.Ed25519}, QUIC, "a", tls.RequestClientCert, true},
		"node on TCP":        {[]string{"h2", "a"}, []tls.SignatureScheme{tls.Ed25519}, Mux | Raw, "a", tls.RequestClientCert, true},
		"browser on TCP":     {[]string{"h2", "http/1.1"}, []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, Mux | Raw, "h2", tls.NoClientCert, false},
		"nothing in common":  {[]string{"h2"}, []tls.SignatureScheme{tls.Ed25519}, QUIC, unservable, tls.RequestClientCert, true},
		"the refusal's name": {[]string{"alknet"}, nil, QUIC, unservable, tls.NoClientCert, false},
	} {
		hello := &tls.ClientHelloInfo{SupportedProtos: tt.offered, SignatureSchemes: tt.schemes, Conn: addrConn{}}
		conf, err := l.configFor(hello, tt.over)
		require.NoError(t, err, name)
		require.Equal(t, []string{tt.alpn}, conf.NextProtos, name)
		require.Equal(t, tt.asks, conf.ClientAuth, name)
		require.EqualValues(t, tls.VersionTLS13, conf.MinVersion, name)
		require.Equal(t, tt.ed25519, conf.Certificates[0].Leaf.PublicKeyAlgorithm == x509.Ed25519, name)
	}
	_, err = l.configFor(&tls.ClientHelloInfo{Conn: addrConn{}}, Mux|Raw)
	require.ErrorIs(t, err, errNoALPN)
}

func TestTicketKeysRotate(t *testing.T) {
	var k ticketKeys
	now := time.Now()
	first := *k.current(now)
	require.Equal(t, first, *k.current(now.Add(ticketLife - 1)))
	second := *k.current(now.Add(ticketLife))
	require.Len(t, second, 2)
	require.Equal(t, first[0], second[1], "old tickets open for a while")
	k.forget()
	third := *k.current(now.Add(ticketLife))
	require.Len(t, third, 1)
	require.NotContains(t, second, third[0])
	require.NotEqual(t, third[0], (*k.current(now.Add(-time.Hour)))[0], "a clock that went back is no reason to keep a key")
}

// What parses as a certificate is an identity only by a key that one node alone
// can hold, and that key is what the certificate says.
func FuzzCertificate(f *testing.F) {
	cert, err := nodeCertificate(testKey(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert.Certificate[0])
	web, err := webCertificate(time.Unix(0, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(web.Certificate[0])
	for _, weak := range smallOrder {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weak"}}
		if der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ed25519.PublicKey(weak[:]), testKey(f, 2)); err == nil {
			f.Add(der)
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id, err := certificatePeer(leaf)
		state := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{leaf}}
		if err != nil {
			require.Zero(t, provenPeer(state))
			if leaf.PublicKeyAlgorithm == x509.Ed25519 {
				require.Error(t, verifyClient(state))
			}
			return
		}
		require.NoError(t, verifyClient(state))
		require.Equal(t, id, provenPeer(state))
		back, err := ParsePeerID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, back)
		state.HandshakeComplete = false
		require.Zero(t, provenPeer(state), "an offer is no proof")
	})
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"", "host:1", "[::1]:80", "o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy@h:0", "a@b:1", ":0", "h:00", "[fe80::1%x]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddr(s)
		if err == nil {
			require.Equal(t, s, a.String())
		}
	})
}

func FuzzParsePeerID(f *testing.F) {
	id := PeerID(testKey(f, 1).Public().(ed25519.PublicKey))
	f.Add(id.String())
	f.Add("ed25519:" + string(bytes.Repeat([]byte("0"), 64)))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParsePeerID(s)
		if err != nil {
			require.Zero(t, id)
			return
		}
		require.True(t, id.valid())
		back, err := ParsePeerID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, back)
	})
}
