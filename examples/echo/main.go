// Echo is a server and a client that speak an ALPN of their own over QUIC, over
// multiplexed TLS on TCP, and over bare TLS, as a stock openssl does as well.
// Each side is proven by its key: go run ./examples/echo
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os/exec"

	"github.com/alkdev/alknet"
)

const alpn = "example.com/echo/1"

// serve echoes each stream of every peer that proves a key.
func serve(ctx context.Context, addr string, over alknet.Transport) (*alknet.Endpoint, *alknet.Router, error) {
	ep, err := alknet.Listen(ctx, addr, nil)
	router := &alknet.Router{}
	handler := alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
		_, err := io.Copy(s, s)
		return err
	})
	service := alknet.Service{ALPN: alpn, Over: over, Handler: handler}
	return ep, router, errors.Join(err, router.Register(service))
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
	_, err = io.WriteString(s, line)
	if err = errors.Join(err, s.CloseWrite()); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(s)
	return fmt.Sprintf("%-4v %s answered %q", conn.Transport(), conn.Identity().Peer, answer), err
}

// script makes a key and sends a line with nothing but openssl.
const script = `d=$(mktemp -d) && openssl req -x509 -newkey ed25519 -nodes -subj /CN=me -keyout $d/k -out $d/c &&
(echo hello; sleep 1) | openssl s_client -connect "$0" -alpn "$1" -key $d/k -cert $d/c -quiet -no_ign_eof; rm -r $d`

func main() {
	ctx := context.Background()
	client, err := alknet.NewEndpoint(nil, nil, nil) // it only dials
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		must(err)
		ep, router, err := serve(ctx, "127.0.0.1:0", over)
		must(err)
		go router.Serve(ep)
		to := alknet.Addr{HostPort: ep.Addr().HostPort, Peer: ep.ID(), Over: over}
		answer, err := echo(ctx, client, to, "hello")
		must(err)
		fmt.Println(answer)
		if over == alknet.Raw {
			out, _ := exec.CommandContext(ctx, "sh", "-c", script, to.HostPort, alpn).Output() // empty without openssl
			fmt.Printf("Raw  answered openssl s_client %q\n", out)
		}
		must(router.Shutdown(ctx))
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
