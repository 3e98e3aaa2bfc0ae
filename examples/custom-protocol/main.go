// Custom-protocol is a third party's protocol: a handler and a client with an
// ALPN of their own, on sockets that the program opened itself.
//
//	go run ./examples/custom-protocol
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"strings"

	"github.com/alkdev/alknet"
)

// ALPN is a name under a domain that the protocol's author owns.
const ALPN = "example.com/upper/1"

// Handler answers each line of a stream in capitals.
type Handler struct {
	MaxLine int // bytes
}

// ServeConn serves the streams of one connection.
func (h *Handler) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	return alknet.StreamFunc(h.serve).ServeConn(ctx, conn)
}

func (h *Handler) serve(_ context.Context, s *alknet.Stream) error {
	lines := bufio.NewScanner(s)
	lines.Buffer(nil, h.MaxLine)
	for lines.Scan() {
		if _, err := fmt.Fprintln(s, strings.ToUpper(lines.Text())); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return &alknet.Error{Code: alknet.CodeProtocol, Reason: "line too long", Err: err}
	}
	return nil
}

func main() {
	ctx := context.Background()
	tcp := must(net.Listen("tcp", "127.0.0.1:0"))
	udp := must(net.ListenPacket("udp", tcp.Addr().String()))
	server := must(alknet.NewEndpoint(udp, tcp, nil))
	router := &alknet.Router{}
	router.Handle(ALPN, &Handler{MaxLine: 1024})
	go router.Serve(server)

	client := must(alknet.NewEndpoint(nil, nil, nil))
	conn := must(client.Dial(ctx, server.Addr(), ALPN))
	fmt.Println(must(ask(ctx, conn, "hello\nworld\n")))
	_, err := ask(ctx, conn, strings.Repeat("x", 2000)+"\n")
	fmt.Println("a long line:", err)
	fmt.Println(must(ask(ctx, conn, "the connection goes on\n")))
	_ = conn.Close()
	fmt.Println("drained:", router.Shutdown(ctx))
}

// ask sends text on a stream of its own and returns the answer.
func ask(ctx context.Context, conn *alknet.Conn, text string) (string, error) {
	s := must(conn.OpenStream(ctx))
	defer s.Close()
	fmt.Fprint(s, text)
	_ = s.CloseWrite()
	b, err := io.ReadAll(s)
	return strings.Join(strings.Fields(string(b)), " "), err
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
