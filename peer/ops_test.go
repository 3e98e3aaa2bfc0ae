package peer

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// TestOperationsOfAGraph: what they say, and to whom.
func TestOperationsOfAGraph(t *testing.T) {
	inBubble(t, func(t *testing.T, x *testbed) {
		require.NoError(t, x.reg.Register(x.graph.Operations()...))
		require.NoError(t, x.reg.Register(whoami("local")))

		list, err := call.Call[peerList](t.Context(), x.as("alice"), "services/list-peers", struct{}{})
		require.NoError(t, err)
		require.Equal(t, "local", list.Peers[0].PeerID)
		require.Contains(t, list.Peers[0].Operations, listedOperation{"sys/whoami", "sys", call.Query})
		require.NotContains(t, list.Peers[0].Operations, listedOperation{"job/query", "job", call.Query}, "that is a peer's")
		require.Equal(t, "worker-a", list.Peers[1].PeerID)
		require.Contains(t, list.Peers[1].Operations, listedOperation{"job/ticks", "job", call.Subscription})
		for _, op := range list.Peers[0].Operations {
			require.NotEqual(t, "services/drain-peer", op.Name, "alice may not")
		}

		_, err = call.Call[explainOutput](t.Context(), x.as("alice"), "services/explain", explainInput{Operation: "job/query"})
		requireCode(t, err, codes.Forbidden, false)
		x.graph.Default = Ref{Policy: First}
		ex, err := call.Call[explainOutput](t.Context(), x.as("root", scopeExplain), "services/explain", explainInput{Operation: "job/query"})
		require.NoError(t, err)
		require.Contains(t, string(ex.Gate), `"allowed":true`)
		require.Equal(t, "worker-a", ex.Winner)
		require.Len(t, ex.Candidates, 2)
		ex, err = call.Call[explainOutput](t.Context(), x.as("root", scopeExplain), "services/explain", explainInput{Operation: "no/such"})
		require.NoError(t, err)
		require.Empty(t, ex.Winner)

		_, err = call.Call[struct{}](t.Context(), x.as("alice"), "services/drain-peer", drainInput{Peer: "worker-a"})
		requireCode(t, err, codes.Forbidden, false)
		_, err = call.Call[struct{}](t.Context(), x.as("root", scopeAdmin), "services/drain-peer", drainInput{Peer: "worker-x"})
		require.Error(t, err)
		_, err = call.Call[struct{}](t.Context(), x.as("root", scopeAdmin), "services/drain-peer", drainInput{Peer: "worker-a", GraceMS: 1000})
		require.NoError(t, err)
		out, err := call.Call[string](t.Context(), x.to, "job/query", "1")
		require.NoError(t, err)
		require.Equal(t, "worker-b", out)

		var kinds []string
		for e, err := range call.Subscribe[wireEvent](t.Context(), x.as("root", scopeWatch), "services/watch-peers", struct{}{}) {
			require.NoError(t, err)
			if kinds = append(kinds, e.Kind+" "+e.Peer); len(kinds) == 4 {
				x.b.kill()
			}
			if e.Kind == "left" {
				break
			}
		}
		require.ElementsMatch(t, []string{"joined worker-a", "up worker-a", "joined worker-b", "up worker-b"}, kinds[:4])
		require.Equal(t, "left worker-b", kinds[4])
	})
}

// TestReplacedOperationsLeaveNothing: of an operation that changes again and again
// only the last description is kept, and callers get it.
func TestReplacedOperationsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.worker("worker-a", whoami("0"))
		for i := range 20 {
			op := whoami(fmt.Sprint(i))
			op.Description = fmt.Sprint("version ", i)
			require.NoError(t, k.reg.Replace(op))
			synctest.Wait()
			require.Equal(t, fmt.Sprint(i), whoIs(t, w.as("alice"), "sys/whoami"))
		}
		got, ok := w.graph.Lookup("sys/whoami")
		require.True(t, ok)
		require.Equal(t, "version 19", got.Description)
		w.graph.mu.Lock()
		defer w.graph.mu.Unlock()
		require.Len(t, w.graph.specs, 1)
	})
}
