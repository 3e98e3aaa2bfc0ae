// hop measures unary calls that go over a head to a worker beside the direct call
// and beside NATS micro with its server in between: client, head or NATS server,
// and worker or micro service are three processes on loopback, TLS 1.3.
//
//	hop unary -proto direct|head|nats -size 100 -conc 1 -n 20000
//	hop tables FILE    # of the lines that the first printed, round after round
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/alkdev/alknet"
	h "github.com/alkdev/alknet/bench/internal/harness"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
)

var bg = context.Background()

func main() {
	mode := os.Args[1]
	if mode == "tables" {
		h.Must(tables(os.Args[2]))
		return
	}
	fs := flag.NewFlagSet(mode, flag.ExitOnError)
	proto := fs.String("proto", "", "")
	size := fs.Int("size", 100, "")
	conc := fs.Int("conc", 1, "")
	n := fs.Int("n", 20000, "")
	at := fs.String("at", "", "")
	h.Must(fs.Parse(os.Args[2:]))
	switch mode {
	case "server":
		serve(*proto)
	case "worker":
		os.Unsetenv("PERF_SRV_PROF") // of the one in the middle
		work(*proto, *at)
	case "unary":
		c := h.Spawn("server", "-proto", *proto)
		defer c.Close()
		h.RunUnary(fmt.Sprintf("unary/%s/%dB/c%d", *proto, *size, *conc), c, dial(*proto, c.Addr), *size, *conc, *n, *n/5)
	}
}

// echo is what a worker serves, to callers with a scope or to all that it knows.
func echo(scopes ...string) *call.Handler {
	reg := new(call.Registry)
	h.Must(reg.Register(call.Operation{
		Name: "echo/json", Access: alknet.AccessControl{RequiredScopes: scopes},
		Func: call.QueryFunc(func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }),
	}))
	return &call.Handler{Registry: reg}
}

// known lets everybody in under the text of his key.
func known(_ context.Context, s tls.ConnectionState, _ string) (alknet.Identity, error) {
	pub, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return alknet.Identity{}, errors.New("no key")
	}
	return alknet.Identity{ID: alknet.PeerID(pub).String(), Scopes: []string{"echo:call"}}, nil
}

func listen(handler *call.Handler) string {
	ep, err := alknet.Listen(bg, "127.0.0.1:0", nil)
	h.Must(err)
	router := &alknet.Router{Authenticate: known}
	h.Must(router.Register(call.Service(handler)))
	go router.Serve(ep)
	return ep.Addr().String()
}

// serve is the process in the middle, and for direct the last one.
func serve(proto string) {
	switch proto {
	case "direct":
		h.ServeLoop(listen(echo("echo:call")))
	case "head":
		g := &peer.Graph{Imports: func(peer.Info) call.Import { return call.Import{Allow: []string{"echo/*"}, Export: true} }}
		addr := listen(&call.Handler{Sources: []call.Source{g}, OnConnect: g.Attach})
		w := h.Spawn("worker", "-proto", "head", "-at", addr)
		defer w.Close() // it ends with its standard input, so that it is kept
		for _, ok := g.Lookup("echo/json"); !ok; _, ok = g.Lookup("echo/json") {
			time.Sleep(time.Millisecond)
		}
		h.ServeLoop(addr)
	case "nats":
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, TLSConfig: h.TLSServer(), TLSTimeout: 10})
		h.Must(err)
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			h.Must(errors.New("nats not ready"))
		}
		cert, key := os.Getenv("PERF_CERT"), os.Getenv("PERF_KEY")
		os.Setenv("HOP_CERT", cert)
		os.Setenv("HOP_KEY", key)
		w := h.Spawn("worker", "-proto", "nats", "-at", s.Addr().String())
		defer w.Close() // it ends with its standard input, so that it is kept
		h.ServeLoop(s.Addr().String())
	}
}

// work is the process behind the one in the middle.
func work(proto, at string) {
	if proto == "nats" {
		os.Setenv("PERF_CERT", os.Getenv("HOP_CERT"))
		os.Setenv("PERF_KEY", os.Getenv("HOP_KEY"))
		nc, err := nats.Connect("nats://"+at, nats.Secure(h.TLSClient()))
		h.Must(err)
		svc, err := micro.AddService(nc, micro.Config{Name: "echo", Version: "1.0.0"})
		h.Must(err)
		h.Must(svc.AddEndpoint("do", micro.HandlerFunc(func(r micro.Request) { _ = r.Respond(r.Data()) })))
		h.Must(nc.Flush())
		h.ServeLoop("ready")
	}
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	h.Must(err)
	to, err := alknet.ParseAddr(at)
	h.Must(err)
	to.Over = alknet.QUIC
	sup := &peer.Supervisor{Dial: peer.DialPeer(ep, peer.Static{to.Peer: {to}}, to.Peer, echo())} // the head is whom we dialled: it has no scopes here
	go sup.Run(bg)
	h.ServeLoop("ready")
}

// dial makes the client's call.
func dial(proto, addr string) func([]byte) ([]byte, error) {
	if proto == "nats" {
		nc, err := nats.Connect("nats://"+addr, nats.Secure(h.TLSClient()))
		h.Must(err)
		return func(b []byte) ([]byte, error) {
			m, err := nc.Request("do", b, 5*time.Second)
			if err != nil {
				return nil, err
			}
			return m.Data, nil
		}
	}
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	h.Must(err)
	to, err := alknet.ParseAddr(addr)
	h.Must(err)
	to.Over = alknet.QUIC
	c, err := call.Dial(bg, ep, to, nil)
	h.Must(err)
	h.Must(c.Settled(bg))
	return func(b []byte) ([]byte, error) {
		return call.Call[json.RawMessage](bg, c, "echo/json", json.RawMessage(b))
	}
}
