package call_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/testops"
	"github.com/alkdev/alknet/internal/testenv"
)

// foreign are the programs that were written from docs/protocol.md alone.
var foreign = []struct{ tool, file string }{{"python3", "call.py"}, {"node", "call.js"}}

// TestForeignClients: a program of the standard library alone is a full client.
func TestForeignClients(t *testing.T) {
	var reg call.Registry
	require.NoError(t, reg.Register(mathOps()...))
	require.NoError(t, reg.Register(testops.Operations(testops.Options{})...))
	h := &call.Handler{Registry: &reg}
	var router alknet.Router
	require.NoError(t, router.Register(call.Service(h)))
	ep, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- router.Serve(ep) }()
	defer func() {
		require.NoError(t, router.Close())
		require.NoError(t, ep.Close())
		require.ErrorIs(t, <-served, alknet.ErrRouterClosed)
	}()
	host, port, err := net.SplitHostPort(ep.Addr().HostPort)
	require.NoError(t, err)
	id := ep.ID()
	for _, f := range foreign {
		t.Run(f.tool, func(t *testing.T) {
			_, cert, key := testenv.Certificate(t)
			out, err := testenv.Command(t, f.tool, "testdata/foreign/"+f.file, "client", host, port, hex.EncodeToString(id[:]), cert, key).CombinedOutput()
			require.NoError(t, err, "%s", out)
			got := strings.NewReplacer("'", `"`, ", ", ",").Replace(string(out))
			require.Equal(t, "sum 5\nitems [1,2,3]\nerror NOT_FOUND\nerror INVALID_INPUT\nunicode héllo 😀\nnames [\"math/add\",\"math/count\"]\n", got)
			require.Eventually(t, func() bool { return h.Stats().Running == 0 }, 5*time.Second, time.Millisecond, "its abort stopped the handler")
		})
	}
}

// TestForeignServers: and a full server. It half-understands nothing: no hello,
// no credit, no raw frames.
func TestForeignServers(t *testing.T) {
	for _, f := range foreign {
		t.Run(f.tool, func(t *testing.T) {
			c, lines := foreignServer(t, f.tool, f.file)
			got, err := call.Call[string](t.Context(), c, "x/echo", "héllo 😀")
			require.NoError(t, err)
			require.Equal(t, "héllo 😀", got)
			raw, err := call.Call[[]byte](t.Context(), c, "x/echo", []byte{0, 1, 255})
			require.NoError(t, err)
			require.Equal(t, []byte{0, 1, 255}, raw)
			n := 0
			for v, err := range call.Subscribe[int](t.Context(), c, "x/count", 1000) {
				require.NoError(t, err)
				n++
				require.Equal(t, n, v)
			}
			require.Equal(t, 1000, n)
			_, err = call.Call[int](t.Context(), c, "x/none", 1)
			requireCode(t, codes.NotFound, err)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = call.Call[int](ctx, c, "x/slow", 1)
			requireCode(t, codes.Timeout, err)
			require.True(t, lines.Scan())
			require.Equal(t, "aborted", lines.Text(), "it was told")
			require.Empty(t, c.Instance())
		})
	}
}

// foreignServer starts such a program and dials it. lines are what it prints.
func foreignServer(t *testing.T, tool, file string) (c *call.Client, lines *bufio.Scanner) {
	pub, cert, key := testenv.Certificate(t)
	cmd := testenv.Command(t, tool, "testdata/foreign/"+file, "server", cert, key)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines = bufio.NewScanner(stdout)
	require.True(t, lines.Scan())
	port, found := strings.CutPrefix(lines.Text(), "port ")
	require.True(t, found, lines.Text())
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	c, err = call.Dial(t.Context(), ep, alknet.Addr{HostPort: "127.0.0.1:" + port, Peer: alknet.PeerID(pub)}, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, ep.Close())
	})
	require.Equal(t, alknet.Raw, c.Conn().Transport())
	return c, lines
}

// TestForeignServerIsImported: its operations become ours, also a subscription, and
// ours alone are what is allowed.
func TestForeignServerIsImported(t *testing.T) {
	c, _ := foreignServer(t, "python3", "call.py")
	ops, err := c.Import(t.Context(), call.Import{Allow: []string{"x/*"}, Prefix: "py", Export: true})
	require.NoError(t, err)
	require.Len(t, ops, 3)
	h := newHandler(t, ops...)
	got, err := call.Call[string](t.Context(), h.As(alice), "py/x/echo", "héllo 😀")
	require.NoError(t, err)
	require.Equal(t, "héllo 😀", got)
	n := 0
	for v, err := range call.Subscribe[int](t.Context(), h.As(alice), "py/x/count", 1000) {
		require.NoError(t, err)
		n++
		require.Equal(t, n, v)
	}
	require.Equal(t, 1000, n)
	_, err = call.Call[int](t.Context(), h.As(alice), "py/x/count", 1)
	requireCode(t, codes.InvalidOperationType, err)
	_, err = call.Call[int](t.Context(), h.As(alice), "x/echo", 1)
	requireCode(t, codes.NotFound, err)
	none, err := c.Import(t.Context(), call.Import{})
	require.NoError(t, err)
	require.Empty(t, none)
	op, err := c.Describe(t.Context(), "x/count")
	require.NoError(t, err)
	require.Equal(t, call.Subscription, op.Func.Type)
	_, err = c.Describe(t.Context(), "x/none")
	requireCode(t, codes.NotFound, err)
}

// TestGoldenFrames: the frames of docs/protocol.md are what this package writes,
// with the lengths that stand there.
func TestGoldenFrames(t *testing.T) {
	doc, err := os.ReadFile("../docs/protocol.md")
	require.NoError(t, err)
	golden := regexp.MustCompile(`(?m)^([0-9a-f]{8}) (\{"type":.*\})$`).FindAllStringSubmatch(string(doc), -1)
	require.Len(t, golden, 5)
	want := map[string]bool{}
	for _, g := range golden {
		n, err := strconv.ParseUint(g[1], 16, 32)
		require.NoError(t, err)
		require.Len(t, g[2], int(n), g[2])
		want[g[2]] = true
	}
	for _, b := range call.Golden() {
		n, err := strconv.ParseUint(hex.EncodeToString(b[:4]), 16, 32)
		require.NoError(t, err)
		require.Len(t, b[4:], int(n))
		require.True(t, want[string(b[4:])], "%s is not in docs/protocol.md", b[4:])
		delete(want, string(b[4:]))
	}
	require.Empty(t, want)
}

// TestSilentServerIsABasePeer: who never answers the hello is one after five seconds.
func TestSilentServerIsABasePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, server := alknet.Pipe(call.ALPN, alknet.Identity{ID: "c"}, alknet.Identity{ID: "s"})
		go func() { // it takes what comes and says nothing
			for {
				s, err := server.AcceptStream(context.Background())
				if err != nil {
					return
				}
				_ = s
			}
		}()
		c := call.NewClient(conn, nil)
		begun := time.Now()
		require.NoError(t, c.Settled(t.Context()))
		require.Equal(t, 5*time.Second, time.Since(begun))
		require.Empty(t, c.Instance())
		_, err := call.Call[int](t.Context(), c, "x/y", 1)
		requireCode(t, codes.Timeout, err)
		require.Equal(t, 35*time.Second, time.Since(begun), "30 seconds for a call whose context has no deadline")
		require.NoError(t, c.Close())
	})
}
