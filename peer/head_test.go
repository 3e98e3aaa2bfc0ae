package peer

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// headEnv makes this program a head: "listen address|seed|book".
const headEnv = "ALKNET_PEER_HEAD"

// runHead serves until it is killed.
func runHead(spec string) int {
	part := strings.Split(spec, "|")
	seed, err := hex.DecodeString(part[1])
	if err != nil {
		return 2
	}
	book, err := OpenBook(part[2])
	if err != nil {
		return 2
	}
	graph := &Graph{Imports: book.Imports, Known: book.Known}
	router := &alknet.Router{Authenticate: book.Authenticate}
	if router.Register(call.Service(&call.Handler{Sources: []call.Source{graph}, OnConnect: graph.Attach})) != nil {
		return 2
	}
	ep, err := alknet.Listen(context.Background(), part[0], &alknet.Config{Key: ed25519.NewKeyFromSeed(seed)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	_ = router.Serve(ep)
	return 0
}

// newSeed is a key that a process gets.
func newSeed(t *testing.T) (seed string, id alknet.PeerID, key ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return hex.EncodeToString(key.Seed()), alknet.PeerID(pub), key
}

// newHeadCluster is a cluster whose head is a process too.
func newHeadCluster(t *testing.T) (c *cluster, client call.Caller) {
	t.Helper()
	dir := t.TempDir()
	c = &cluster{t: t, ledger: filepath.Join(dir, "ledger"), seeds: map[string]string{}, procs: map[string]*exec.Cmd{}}
	c.book = openBook(t, filepath.Join(dir, "peers.json"))
	c.book.OnChange = nil
	seed, id, _ := newSeed(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	require.NoError(t, err)
	c.addr = alknet.Addr{HostPort: ln.Addr().String(), Peer: id}
	require.NoError(t, ln.Close())
	c.head = strings.Join([]string{c.addr.HostPort, seed, filepath.Join(dir, "peers.json")}, "|")
	_, me, key := newSeed(t)
	require.NoError(t, c.book.Update(put(Peer{ID: "client", Keys: []Key{{ID: me}}})))
	t.Cleanup(func() {
		for id := range c.procs {
			c.signal(id, syscall.SIGKILL)
		}
	})
	c.startHead()
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	require.NoError(t, err)
	sup := &Supervisor{
		Dial: DialPeer(ep, Static{id: {c.addr}}, id, nil), MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sup.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = ep.Close()
	})
	return c, sup.Caller()
}

// startHead starts the head at its address.
func (c *cluster) startHead() {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), headEnv+"="+c.head)
	cmd.Stderr = os.Stderr
	require.NoError(c.t, cmd.Start())
	c.procs["head"] = cmd
}

// startUnseen starts a worker; who calls it waits until it is up.
func (c *cluster) startUnseen(id string) {
	c.t.Helper()
	if c.seeds[id] == "" {
		seed, key, _ := newSeed(c.t)
		c.seeds[id] = seed
		require.NoError(c.t, c.book.Update(put(Peer{ID: id, Keys: []Key{{ID: key}}, Import: []string{"job/*"}, Export: true})))
	}
	c.launch(id)
}

// TestHeadAndWorkersDieInTurn: a stream of numbers through a head goes on without
// a gap or a repeat when its worker is killed, and when the head is; every query
// is answered, and no mutation runs twice.
func TestHeadAndWorkersDieInTurn(t *testing.T) {
	rounds := 2
	if soak {
		rounds = 20
	}
	c, client := newHeadCluster(t)
	c.startUnseen("worker-a")
	c.startUnseen("worker-b")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(rounds)*30*time.Second)
	defer cancel()
	require.Eventually(t, func() bool {
		_, err := call.Call[string](ctx, client, "job/query", "first")
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	items := make(chan int, 1<<16)
	ended := make(chan error, 1)
	go func() {
		n := 0
		for v, err := range call.Subscribe[int](ctx, client, "job/ticks", 1<<30) {
			if n++; err == nil && v != n {
				err = fmt.Errorf("item %d came where %d was due", v, n)
			}
			if err != nil {
				ended <- err
				return
			}
			items <- v
		}
		ended <- nil
	}()
	next := func() int {
		t.Helper()
		for { // the newest
			select {
			case v := <-items:
				if len(items) == 0 {
					return v
				}
			case err := <-ended:
				require.NoError(t, err)
				t.Fatal("the stream has ended")
			case <-ctx.Done():
				t.Fatal("the stream stands still")
			}
		}
	}
	victims := []string{"worker-a", "head", "worker-b", "head"}
	for i := range 2 * rounds {
		at := next()
		id := victims[i%len(victims)]
		begun := time.Now()
		c.signal(id, syscall.SIGKILL)
		if id == "head" {
			c.startHead()
		} else {
			c.launch(id)
		}
		for range 5 {
			what := fmt.Sprintf("%d-%d", i, time.Now().UnixNano())
			_, err := call.Call[string](ctx, client, "job/query", what)
			require.NoError(t, err, "a query, after the death of %s", id)
			_, _ = call.Call[string](ctx, client, "job/mutate", what) // it may be lost, but not run twice
		}
		for next() < at+20 {
		}
		t.Logf("%s died at item %d: all goes on after %v", id, at, time.Since(begun).Round(time.Millisecond))
	}
	c.requireOnce()
}
