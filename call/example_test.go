package call_test

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// An operation is a Go function; a call of it is one too.
func Example() {
	type pair struct {
		A int `json:"a"`
		B int `json:"b"`
	}
	var reg call.Registry
	err := reg.Register(call.Operation{
		Name: "math/add", Description: "adds two integers",
		Func: call.QueryFunc(func(_ context.Context, in pair) (int, error) { return in.A + in.B, nil }),
	})
	h := &call.Handler{Registry: &reg}

	conn, server := alknet.Pipe(call.ALPN, alknet.Identity{ID: "alice"}, alknet.Identity{ID: "server"})
	go h.ServeConn(context.Background(), server)
	c := call.NewClient(conn, nil)
	defer c.Close()
	sum, err2 := call.Call[int](context.Background(), c, "math/add", pair{2, 3})
	fmt.Println(sum, errors.Join(err, err2))

	_, err = call.Call[int](context.Background(), c, "math/add", map[string]any{"a": 2, "b": "three"})
	var e *call.Error
	fmt.Println(errors.As(err, &e), e.Code, string(e.Details))
	// Output:
	// 5 <nil>
	// true INVALID_INPUT {"path":"/b","problem":"type","want":"integer"}
}

// Leaving the loop of a subscription stops its handler.
func ExampleSubscribe() {
	stopped := make(chan struct{})
	numbers := func(ctx context.Context, from int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			defer close(stopped)
			for i := from; yield(i, nil); i++ {
			}
		}
	}
	var reg call.Registry
	err := reg.Register(call.Operation{Name: "num/from", Func: call.SubscriptionFunc(numbers)})
	h := &call.Handler{Registry: &reg}
	for n, e := range call.Subscribe[int](context.Background(), h.As(alknet.Identity{ID: "alice"}), "num/from", 7) {
		if err = errors.Join(err, e); err != nil || n == 9 {
			break
		}
		fmt.Println(n)
	}
	<-stopped
	fmt.Println("stopped", err)
	// Output:
	// 7
	// 8
	// stopped <nil>
}

// What a caller may not use it does not find.
func ExampleHandler_As() {
	var reg call.Registry
	err := reg.Register(call.Operation{
		Name: "box/start", Access: alknet.AccessControl{RequiredScopes: []string{"box"}},
		Func: call.MutationFunc(func(_ context.Context, name string) (string, error) { return name + " started", nil }),
	})
	h := &call.Handler{Registry: &reg}
	for _, who := range []alknet.Identity{{ID: "alice", Scopes: []string{"box"}}, {ID: "bob"}} {
		out, err2 := call.Call[string](context.Background(), h.As(who), "box/start", "web")
		ops, _ := h.Operations(who)
		fmt.Printf("%s sees box/start: %v; %q %v\n", who.ID, ops[0].Name == "box/start", out, errors.Join(err, err2))
	}
	// Output:
	// alice sees box/start: true; "web started" <nil>
	// bob sees box/start: false; "" call: FORBIDDEN: missing required scope: box
}
