package peer

import (
	"fmt"
	"testing"

	"github.com/alkdev/alknet/call"
)

// BenchmarkChoose is a choice among 1,000 peers: at most a microsecond, without a
// lock (Affinity 30).
func BenchmarkChoose(b *testing.B) {
	g := &Graph{}
	g.init()
	sp := &spec{op: call.Operation{Name: "x/op", Func: call.Func{Type: call.Query}}}
	for i := range 1000 {
		n := &node{id: fmt.Sprintf("worker-%04d", i), order: uint64(i + 1)}
		l := &link{g: g, n: n, gen: uint64(i + 1)}
		l.state.Store(up)
		n.links.Store(&[]*link{l})
		g.mu.Lock()
		g.offerLocked(&offer{n: n, name: "x/op", spec: sp}, nil)
		g.mu.Unlock()
	}
	for _, p := range []Policy{LeastLoaded, RoundRobin, Affinity, First} {
		b.Run(p.String(), func(b *testing.B) {
			ref := Ref{Policy: p, Key: "key"}
			sel := selection{g: g, ref: &ref, name: "x/op"}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, ch := sel.choose(); ch != ready {
						b.Error("nobody")
					}
				}
			})
		})
	}
}
