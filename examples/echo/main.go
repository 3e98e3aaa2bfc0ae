// Echo is a server and a client that speak an ALPN of their own: over QUIC,
// over multiplexed TLS on TCP and over raw TLS, each side proven by its key.
//
//	go run ./examples/echo                     # both ends in one process
//	go run ./examples/echo -listen :4433       # a server; prints its address
//	go run ./examples/echo -dial KEY@HOST:4433 # a client of it
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"

	"github.com/alkdev/alknet"
)

const alpn = "example.com/echo/1"

func main() {
	listen := flag.String("listen", "", "serve on this address until interrupted")
	dial := flag.String("dial", "", "dial this peer, KEY@HOST:PORT")
	flag.Parse()
	if err := run(context.Background(), *listen, *dial); err != nil {
		log.Fatal(err)
	}
}

// serve echoes each stream of every peer that proves a key.
func serve(ctx context.Context, addr string, over alknet.Transport) (*alknet.Endpoint, *alknet.Router, error) {
	ep, err := alknet.Listen(ctx, addr, nil)
	if err != nil {
		return nil, nil, err
	}
	router := &alknet.Router{}
	err = router.Register(alknet.Service{ALPN: alpn, Over: over, Handler: alknet.StreamFunc(
		func(ctx context.Context, s *alknet.Stream) error {
			_, err := io.Copy(s, s)
			return err
		})})
	return ep, router, err
}

// echo sends a line to a peer and returns what came back.
func echo(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr, line string) (string, error) {
	conn, err := ep.Dial(ctx, to, alpn)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(s, line); err != nil {
		return "", err
	}
	if err := s.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(s)
	return fmt.Sprintf("%-4v %s answered %q", conn.Transport(), conn.Identity().Peer, answer), err
}

func run(ctx context.Context, listen, dial string) error {
	client, err := alknet.NewEndpoint(nil, nil, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	if dial != "" {
		to, err := alknet.ParseAddr(dial)
		if err != nil {
			return err
		}
		answer, err := echo(ctx, client, to, "hello")
		fmt.Println(answer)
		return err
	}
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		addr := "127.0.0.1:0"
		if listen != "" {
			addr, over = listen, alknet.QUIC|alknet.Mux
		}
		ep, router, err := serve(ctx, addr, over)
		if err != nil {
			return err
		}
		if listen != "" {
			fmt.Println("serving on", ep.Addr())
			return router.Serve(ep)
		}
		go router.Serve(ep)
		to := ep.Addr()
		to.Over = over
		answer, err := echo(ctx, client, to, "hello")
		if err != nil {
			return err
		}
		fmt.Println(answer)
		if err := router.Shutdown(ctx); err != nil {
			return err
		}
		ep.Close()
	}
	return nil
}
