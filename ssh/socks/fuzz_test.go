package socks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/things-go/go-socks5/statute"
)

// A script is a client that says something and reads nothing.
type script struct {
	io.Reader
	out bytes.Buffer
}

func (s *script) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// Whatever a client says, what is dialled has a host and a port, and nothing is
// dialled before a login.
func FuzzSOCKS5(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"), false)
	f.Add([]byte("\x05\x02\x00\x02\x01\x03bob\x06secret\x05\x01\x00\x03\x04a.bc\x01\xbb"), true)
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50"), false)
	f.Add([]byte("\x04\x01\x00\x50\x00\x00\x00\x01me\x00host.example\x00"), false)
	f.Add([]byte("CONNECT host:443 HTTP/1.1\r\nProxy-Authorization: Basic Ym9iOnNlY3JldA==\r\n\r\nrest"), true)
	f.Fuzz(func(t *testing.T, said []byte, auth bool) {
		s := &Server{Dial: func(_ context.Context, user, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			require.NoError(t, err, "%q", address)
			require.NotEmpty(t, host)
			require.NotEqual(t, "0", port)
			require.Equal(t, "tcp", network)
			require.Equal(t, auth, user == "bob")
			return nil, errors.New("no")
		}}
		if auth {
			s.Auth = func(user, password string) error {
				if user == "bob" && password == "secret" {
					return nil
				}
				return errors.New("no")
			}
		}
		c := &script{Reader: bytes.NewReader(said)}
		if err := s.ServeConn(t.Context(), c); err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "socks: ") || errors.Is(err, io.EOF), "%v", err)
		}
	})
}

func FuzzSOCKSDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35hello"))
	f.Add([]byte("\x00\x00\x00\x03\x04a.bc\x00\x35x"))
	f.Add([]byte("\x00\x00\x01\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x35x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := statute.ParseDatagram(b)
		if err != nil {
			return
		}
		address, ok := target(d.DstAddr)
		if !ok {
			return
		}
		host, port, err := net.SplitHostPort(address)
		require.NoError(t, err)
		require.NotEmpty(t, host)
		require.NotEqual(t, "0", port)
		again, err := statute.ParseDatagram(d.Bytes())
		require.NoError(t, err)
		require.Equal(t, d.Data, again.Data)
	})
}
