// Hot-reload registers and removes services while connections run: what is
// removed is drained, what stays notices nothing.
//
//	go run ./examples/hot-reload
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"github.com/alkdev/alknet"
)

// answer is a service that answers each stream's one byte with text.
func answer(text string) alknet.StreamFunc {
	return func(_ context.Context, s *alknet.Stream) error {
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			return err
		}
		_, err := io.WriteString(s, text)
		return err
	}
}

func main() {
	ctx := context.Background()
	server := must(alknet.Listen(ctx, "127.0.0.1:0", nil))
	client := must(alknet.NewEndpoint(nil, nil, nil))
	router := &alknet.Router{}
	router.Handle("example.com/a", answer("a, version 1"))
	go router.Serve(server)

	a := must(client.Dial(ctx, server.Addr(), "example.com/a"))
	fmt.Println("a:", ask(ctx, a))
	_, err := client.Dial(ctx, server.Addr(), "example.com/b")
	fmt.Println("b before it is registered:", errors.Is(err, alknet.ErrNoService))

	router.Handle("example.com/b", answer("b"))
	b := must(client.Dial(ctx, server.Addr(), "example.com/b"))
	fmt.Println("b:", ask(ctx, b))

	if err := router.Remove(ctx, "example.com/a"); err != nil {
		log.Fatal(err)
	}
	router.Handle("example.com/a", answer("a, version 2"))
	_, err = a.AcceptStream(ctx)
	e, ok := errors.AsType[*alknet.Error](err)
	fmt.Println("the old connection to a ended retryably:", ok && e.Code.Retryable())
	a2 := must(client.Dial(ctx, server.Addr(), "example.com/a"))
	fmt.Println("a:", ask(ctx, a2))
	fmt.Println("b, on its old connection:", ask(ctx, b))

	_, _, _ = a.Close(), a2.Close(), b.Close()
	fmt.Println("drained:", router.Shutdown(ctx))
}

// ask opens a stream and returns what the service says.
func ask(ctx context.Context, conn *alknet.Conn) string {
	s := must(conn.OpenStream(ctx))
	defer s.Close()
	must(s.Write([]byte("?")))
	return string(must(io.ReadAll(s)))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
