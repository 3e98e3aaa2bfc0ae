package alknet_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/alkdev/alknet"
)

// A Router serves a connection in memory as it would serve one from a socket.
func Example() {
	router := &alknet.Router{}
	router.Handle("example.com/echo/1", alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
		_, err := io.Copy(s, s)
		return err
	}))
	conn, accepted := alknet.Pipe("example.com/echo/1", alknet.Identity{ID: "laptop"}, alknet.Identity{ID: "server"})
	served := make(chan error)
	go func() { served <- router.ServeConn(context.Background(), accepted) }()

	s, err := conn.OpenStream(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(s, "hello") // the answer shows what arrived
	_ = s.CloseWrite()
	answer, err := io.ReadAll(s)
	fmt.Printf("%s says %q, %v\n", conn.Identity().ID, answer, err)
	fmt.Println(conn.Close(), <-served)
	// Output:
	// server says "hello", <nil>
	// <nil> <nil>
}

// A policy says what an identity lacks, and whether a login may help.
func ExampleAccessControl_Check() {
	policy := alknet.AccessControl{RequiredScopes: []string{"git:write"}, ResourceType: "repo", ResourceAction: "push"}
	for _, id := range []*alknet.Identity{
		nil,
		{ID: "reader", Scopes: []string{"git:read"}},
		{ID: "writer", Scopes: []string{"git:write"}, Resources: map[string][]string{"repo": {"fetch"}}},
		{ID: "owner", Scopes: []string{"git:write"}, Resources: map[string][]string{"repo": {"fetch", "push"}}},
	} {
		err := policy.Check(id)
		denied, ok := errors.AsType[*alknet.AccessError](err)
		fmt.Println(err, ok && denied.Unauthenticated)
	}
	// Output:
	// authentication required true
	// missing required scope: git:write false
	// missing resource: repo/push false
	// <nil> false
}

// A handler chooses what its peer sees: the cause stays here.
func ExampleError() {
	const codeTooLate alknet.ErrorCode = 77 // the protocol's own
	router := &alknet.Router{}
	router.Handle("example.com/votes/1", alknet.HandlerFunc(func(context.Context, *alknet.Conn) error {
		return &alknet.Error{Code: codeTooLate, Reason: "the poll is closed", Err: errors.New("closed by bob")}
	}))
	conn, accepted := alknet.Pipe("example.com/votes/1", alknet.Identity{ID: "alice"}, alknet.Identity{ID: "server"})
	fmt.Println("the handler:", router.ServeConn(context.Background(), accepted))

	_, err := conn.AcceptStream(context.Background())
	if e, ok := errors.AsType[*alknet.Error](err); ok && e.Remote {
		fmt.Println("its peer:", e.Code == codeTooLate, e.Reason)
	}
	// Output:
	// the handler: alknet: 0x4d: the poll is closed: closed by bob
	// its peer: true the poll is closed
}
