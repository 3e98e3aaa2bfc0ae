package peer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
)

func TestThinnestPath(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.reg.Register(w.graph.Operations()...))
	w.worker("worker-a", whoami("a"))
	w.worker("worker-b", whoami("b"))

	got, err := call.Call[string](t.Context(), w.graph.To(Ref{Peer: "worker-b"}), "sys/whoami", struct{}{})
	require.NoError(t, err)
	require.Equal(t, "b", got)
	got, err = call.Call[string](t.Context(), w.as("alice"), "sys/whoami@worker-a", struct{}{})
	require.NoError(t, err)
	require.Equal(t, "a", got)
	seen := map[string]bool{}
	for range 50 {
		got, err = call.Call[string](t.Context(), w.graph.To(Ref{Policy: RoundRobin}), "sys/whoami", struct{}{})
		require.NoError(t, err)
		seen[got] = true
	}
	require.Len(t, seen, 2)
	all := map[string]string{}
	for r := range All[string](t.Context(), w.graph, Ref{}, "sys/whoami", struct{}{}) {
		require.NoError(t, r.Err)
		all[r.Peer] = r.Out
	}
	require.Equal(t, map[string]string{"worker-a": "a", "worker-b": "b"}, all)
	list, err := call.Call[peerList](t.Context(), w.as("alice"), "services/list-peers", struct{}{})
	require.NoError(t, err)
	require.Len(t, list.Peers, 3)
	t.Log(list)
}
