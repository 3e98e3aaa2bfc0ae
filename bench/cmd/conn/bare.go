package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
)

// certificate is a throwaway one that is as large as those of alknet's nodes.
func certificate() (tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(math.MaxInt64),
		Subject:               pkix.Name{CommonName: strings.Repeat("n", 52)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, pub, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func serverTLS(alpn string, mutual bool) (*tls.Config, error) {
	cert, err := certificate()
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	if alpn != "" {
		conf.NextProtos = []string{alpn}
	}
	if mutual {
		conf.ClientAuth = tls.RequireAnyClientCert
	}
	return conf, err
}

func clientTLS(alpn string, mutual, resume bool) (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "bench"}
	if alpn != "" {
		conf.NextProtos = []string{alpn}
	}
	if resume {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	}
	if !mutual {
		return conf, nil
	}
	cert, err := certificate()
	conf.Certificates = []tls.Certificate{cert}
	return conf, err
}

// tlsStack is crypto/tls on TCP; a connection is its only stream.
type tlsStack struct {
	addr string
	conf *tls.Config
}

func (s *tlsStack) serve() (string, error) {
	conf, err := serverTLS("", false)
	if err != nil {
		return "", err
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = serveStream(c)
			}()
		}
	}()
	return ln.Addr().String(), nil
}

func (s *tlsStack) client(hello string, resume bool) (err error) {
	s.addr = hello
	s.conf, err = clientTLS("", false, resume)
	return err
}

func (s *tlsStack) dial(ctx context.Context) (conn, error) {
	d := tls.Dialer{Config: s.conf}
	c, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	return &tlsConn{c.(*tls.Conn), false}, nil
}

type tlsConn struct {
	*tls.Conn
	opened bool
}

func (c *tlsConn) open(context.Context) (io.ReadWriteCloser, error) {
	if c.opened {
		return nil, errors.ErrUnsupported
	}
	c.opened = true
	return c, nil
}

func (c *tlsConn) resumed() bool { return c.ConnectionState().DidResume }
func (c *tlsConn) close()        { _ = c.Close() }

// quicStack is quic-go with its defaults.
type quicStack struct {
	mutual bool
	verify bool // the client checks the server's certificate
	addr   *net.UDPAddr
	tr     *quic.Transport
	conf   *tls.Config
}

var quicConf = &quic.Config{MaxIdleTimeout: 10 * time.Minute}

func (s *quicStack) socket() (*quic.Transport, error) {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4zero})
	return &quic.Transport{Conn: pc}, err
}

func (s *quicStack) serve() (string, error) {
	tr, err := s.socket()
	if err != nil {
		return "", err
	}
	conf, err := serverTLS("bench", s.mutual)
	root := ""
	if s.verify && err == nil {
		conf.Certificates[0], root, err = webCertificate()
	}
	if err != nil {
		return "", err
	}
	ln, err := tr.Listen(conf, quicConf)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			go func() {
				for {
					st, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					go func() {
						defer st.Close()
						_ = serveStream(st)
					}()
				}
			}()
		}
	}()
	return strings.TrimSpace(fmt.Sprintf("127.0.0.1:%d %s", ln.Addr().(*net.UDPAddr).Port, root)), nil
}

func (s *quicStack) client(hello string, resume bool) (err error) {
	hello, root, _ := strings.Cut(hello, " ")
	if s.addr, err = net.ResolveUDPAddr("udp", hello); err != nil {
		return err
	}
	if s.tr, err = s.socket(); err != nil {
		return err
	}
	if s.conf, err = clientTLS("bench", s.mutual, resume); err != nil || !s.verify {
		return err
	}
	s.conf.InsecureSkipVerify = false
	s.conf.RootCAs, err = rootPool(root)
	return err
}

func (s *quicStack) dial(ctx context.Context) (conn, error) {
	c, err := s.tr.Dial(ctx, s.addr, s.conf, quicConf)
	if err != nil {
		return nil, err
	}
	return quicConn{c}, nil
}

type quicConn struct{ *quic.Conn }

func (c quicConn) open(ctx context.Context) (io.ReadWriteCloser, error) {
	s, err := c.OpenStreamSync(ctx)
	return quicStream{s}, err
}

func (c quicConn) resumed() bool { return c.ConnectionState().TLS.DidResume }
func (c quicConn) close()        { _ = c.CloseWithError(0, "") }

type quicStream struct{ *quic.Stream }

// Close ends both directions; the library's own leaves a stream behind whose
// end was not read.
func (s quicStream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}
