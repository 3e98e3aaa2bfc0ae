//go:build linux

package peer

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
)

// namespace makes a network namespace of its own behind a pair of interfaces, and
// returns the address of this side and what runs a command inside.
func namespace(t *testing.T) (here string, inside []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ip := testenv.Tool(t, "ip")
	n := os.Getpid() % 250
	ns, outer, inner := fmt.Sprintf("alkpeer%d", n), fmt.Sprintf("alkp%do", n), fmt.Sprintf("alkp%di", n)
	run := func(args ...string) error {
		out, err := exec.Command(ip, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
		return nil
	}
	if err := run("netns", "add", ns); err != nil {
		t.Skipf("no namespaces here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, run("netns", "del", ns)) }) // its interfaces go with it
	here = fmt.Sprintf("10.213.%d.1", n)
	for _, args := range []string{
		"link add " + outer + " type veth peer name " + inner,
		"link set " + inner + " netns " + ns,
		"addr add " + here + "/30 dev " + outer,
		"link set " + outer + " up",
		"-n " + ns + " addr add " + fmt.Sprintf("10.213.%d.2", n) + "/30 dev " + inner,
		"-n " + ns + " link set " + inner + " up",
		"-n " + ns + " link set lo up",
	} {
		if err := run(strings.Fields(args)...); err != nil {
			t.Skipf("no interfaces here: %v", err)
		}
	}
	return here, []string{ip, "netns", "exec", ns}
}

// TestUDPIsDropped: the network of a worker loses all UDP from one moment to the
// next: nobody who asks notices, and the worker comes back over TCP.
func TestUDPIsDropped(t *testing.T) {
	testenv.Tool(t, "nft")
	here, inside := namespace(t)
	nft := func(rules string) {
		t.Helper()
		args := append(append([]string(nil), inside...), "nft", rules)
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	c := newCluster(t, here+":0")
	c.start("worker-b")
	c.prefix = inside
	c.start("worker-a")
	require.Equal(t, alknet.QUIC, transportOf(c.graph, "worker-a"))
	var l load
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(c.graph.To(Ref{Policy: RoundRobin}), 5*time.Millisecond, 5*time.Second, true)
	}()
	require.Eventually(t, func() bool { return l.answered() >= 100 }, 20*time.Second, 5*time.Millisecond)
	nft("table inet drops { chain out { type filter hook output priority 0; meta l4proto udp drop; }; chain in { type filter hook input priority 0; meta l4proto udp drop; }; }")
	begun := time.Now()
	require.Eventually(t, func() bool { return transportOf(c.graph, "worker-a") == alknet.Raw }, 60*time.Second, 20*time.Millisecond)
	t.Logf("back over TCP after %v", time.Since(begun))
	require.Eventually(t, func() bool { return len(linksOf(c.graph, "worker-a")) == 1 }, 20*time.Second, 5*time.Millisecond, "the silent link is let go of")
	t.Logf("the silent link was let go of after %v", time.Since(begun))
	<-done
	require.Empty(t, l.failed)
	t.Logf("p99 %v of %d queries", l.p99(), len(l.took))
	c.requireOnce()
}

func linksOf(g *Graph, id string) []Link {
	for _, p := range g.Peers() {
		if p.ID == id {
			return p.Links
		}
	}
	return nil
}

// transportOf is what carries the newest link of a peer that is up.
func transportOf(g *Graph, id string) alknet.Transport {
	for _, p := range g.Peers() {
		if p.ID == id {
			for i := len(p.Links) - 1; i >= 0; i-- {
				if p.Links[i].State == "up" {
					return p.Links[i].Transport
				}
			}
		}
	}
	return 0
}
