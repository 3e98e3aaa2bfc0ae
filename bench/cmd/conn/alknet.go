package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/alkdev/alknet"
)

const alpn = "example.com/bench"

// alknetStack is alknet as its users use it: both ends have an identity. Only
// the limits that one client process would run into are lifted.
type alknetStack struct {
	name string
	to   alknet.Addr
	ep   *alknet.Endpoint
}

func (s *alknetStack) over() alknet.Transport {
	switch s.name {
	case "alknet-quic":
		return alknet.QUIC
	case "alknet-mux":
		return alknet.Mux
	}
	return alknet.Raw
}

func (s *alknetStack) serve() (string, error) {
	ep, err := alknet.Listen(context.Background(), "0.0.0.0:0", nil)
	if err != nil {
		return "", err
	}
	router := &alknet.Router{Limits: alknet.Limits{MaxConnsPerPeer: -1, MaxHandshakesPerAddr: -1, MaxHandshakes: -1, IdleTimeout: 10 * time.Minute}}
	err = router.Register(alknet.Service{ALPN: alpn, Over: s.over(), Handler: alknet.StreamFunc(
		func(_ context.Context, st *alknet.Stream) error { return serveStream(st) })})
	if err != nil {
		return "", err
	}
	go func() { fmt.Fprintln(os.Stderr, router.Serve(ep)) }()
	return ep.Addr().String(), nil
}

func (s *alknetStack) client(hello string, resume bool) (err error) {
	cfg := &alknet.Config{}
	if !resume {
		cfg.Sessions = -1 // as the others
	}
	if s.to, err = alknet.ParseAddr(hello); err != nil {
		return err
	}
	s.to.Over = s.over()
	_, port, err := net.SplitHostPort(s.to.HostPort)
	if err != nil {
		return err
	}
	s.to.HostPort = "127.0.0.1:" + port
	s.ep, err = alknet.NewEndpoint(nil, nil, cfg)
	return err
}

func (s *alknetStack) dial(ctx context.Context) (conn, error) {
	c, err := s.ep.Dial(ctx, s.to, alpn)
	if err != nil {
		return nil, err
	}
	return alknetConn{c}, nil
}

type alknetConn struct{ *alknet.Conn }

func (c alknetConn) open(ctx context.Context) (io.ReadWriteCloser, error) { return c.OpenStream(ctx) }
func (c alknetConn) resumed() bool                                        { return c.TLS().DidResume }
func (c alknetConn) close() {
	_ = c.CloseWithError(alknet.CodeOK, "")
}
