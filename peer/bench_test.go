package peer

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// BenchmarkForward is a call of 100 bytes from a client over a head to a worker,
// all in this process: allocations are those of the three together.
func BenchmarkForward(b *testing.B) {
	w := newWorld(b)
	echo := call.Operation{Name: "echo/json", Func: call.QueryFunc(func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil })}
	k := w.worker("worker-a", echo)
	c, s := alknet.Pipe(call.ALPN, alknet.Identity{ID: "client"}, alknet.Identity{ID: "head"})
	done := make(chan struct{})
	go func() { defer close(done); _ = w.head.ServeConn(context.Background(), s); _ = s.Close() }()
	client := call.NewClient(c, nil)
	defer func() { _ = client.Close(); <-done }()
	require.Eventually(b, func() bool { return w.graph.offerOf("worker-a", "echo/json") != nil }, 5*time.Second, time.Millisecond)
	direct, s2 := alknet.Pipe(call.ALPN, alknet.Identity{ID: "client"}, alknet.Identity{ID: "worker"})
	done2 := make(chan struct{})
	go func() { defer close(done2); _ = k.h.ServeConn(context.Background(), s2); _ = s2.Close() }()
	near := call.NewClient(direct, nil)
	defer func() { _ = near.Close(); <-done2 }()
	in := json.RawMessage(`{"user":"u-1029384756","seq":12345,"ok":true,"body":"abcdefghijabcdefghijabcdefghijabcdefghi"}`)
	for name, to := range map[string]*call.Client{"head": client, "direct": near} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := call.Call[json.RawMessage](context.Background(), to, "echo/json", in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
