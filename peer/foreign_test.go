package peer

import (
	"encoding/hex"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/testenv"
)

// TestForeignWorker: a worker that knows the base frames alone, in Python's
// standard library, dials the head, is listed, and is called by its name and as
// any; without a hello it neither drains nor resumes, and nothing else is missing.
func TestForeignWorker(t *testing.T) {
	testenv.Tool(t, "python3")
	pub, cert, key := testenv.Certificate(t)
	id := alknet.PeerID(pub)
	book := openBook(t, "")
	g := &Graph{Imports: book.Imports, Known: book.Known}
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	var reg call.Registry
	require.NoError(t, reg.Register(g.Operations()...))
	head := &call.Handler{Registry: &reg, Sources: []call.Source{g}, OnConnect: g.Attach}
	router := &alknet.Router{Authenticate: book.Authenticate}
	require.NoError(t, router.Register(call.Service(head)))
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- router.Serve(ep) }()
	t.Cleanup(func() {
		_ = router.Close()
		<-served
		_ = ep.Close()
	})
	me, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = me.Close() })
	require.NoError(t, book.Update(put(Peer{ID: "python", Keys: []Key{{ID: id}}, Import: []string{"x/*"}, Export: true})))
	require.NoError(t, book.Update(put(Peer{ID: "me", Keys: []Key{{ID: me.ID()}}})))

	host, port, err := net.SplitHostPort(ep.Addr().HostPort)
	require.NoError(t, err)
	headID := ep.ID()
	cmd := testenv.Command(t, "python3", "../call/testdata/foreign/call.py", "worker", host, port, hex.EncodeToString(headID[:]), cert, key)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return stateOf(g, "python") == "up" }, 30*time.Second, 5*time.Millisecond)

	c, err := call.Dial(t.Context(), me, ep.Addr(), nil)
	require.NoError(t, err)
	defer c.Close()
	for _, name := range []string{"x/echo@python", "x/echo@any", "x/echo"} {
		for range 3 {
			out, err := call.Call[string](t.Context(), c, name, "héllo 😀")
			require.NoError(t, err, name)
			require.Equal(t, "héllo 😀", out)
		}
	}
	n := 0
	for v, err := range call.Subscribe[int](t.Context(), c, "x/count@python", 1000) {
		require.NoError(t, err)
		n++
		require.Equal(t, n, v)
	}
	require.Equal(t, 1000, n)
	list, err := call.Call[peerList](t.Context(), c, "services/list-peers", struct{}{})
	require.NoError(t, err)
	require.Contains(t, list.Peers, listedPeer{PeerID: "python", Operations: []listedOperation{
		{"x/count", "x", call.Subscription}, {"x/echo", "x", call.Query}, {"x/slow", "x", call.Query},
	}})
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return stateOf(g, "python") == "left" }, 30*time.Second, 5*time.Millisecond)
}
