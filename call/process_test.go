package call_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/testops"
	"github.com/alkdev/alknet/internal/impair"
)

// These tests talk to a node in a process of its own, which is killed, stopped
// and measured from outside.

// serverEnv names the folder of a node that this program is to be.
const serverEnv = "ALKNET_CALL_TEST_SERVER"

// serveProcess is the node: it prints its address and serves until its standard
// input ends, or says "drain".
func serveProcess(dir string) error {
	var reg call.Registry
	if err := reg.Register(testops.Operations(testops.Options{})...); err != nil {
		return err
	}
	if err := reg.Register(append(mathOps(), call.Operation{Name: "x/once", Func: call.MutationFunc(func(ctx context.Context, key string) (int, error) {
		r, _ := call.RequestFromContext(ctx)
		f, err := os.OpenFile(dir+"/ran", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := fmt.Fprintln(f, r.IdempotencyKey); err != nil {
			return 0, err
		}
		if key == "answer" {
			return 1, nil
		}
		<-ctx.Done() // it has run, and its answer never leaves
		return 0, ctx.Err()
	})})...); err != nil {
		return err
	}
	ep, err := alknet.Listen(context.Background(), "127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	router := new(alknet.Router)
	if err := router.Register(call.Service(&call.Handler{Registry: &reg})); err != nil {
		return err
	}
	go func() { _ = router.Serve(ep) }() // until the process ends
	fmt.Println(ep.Addr())
	said := bufio.NewScanner(os.Stdin)
	if !said.Scan() {
		return said.Err()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return router.Shutdown(ctx)
}

// A process is a node in a process of its own.
type process struct {
	cmd  *exec.Cmd
	in   io.Writer
	addr alknet.Addr
	dir  string
}

func startProcess(t *testing.T, dir string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var once sync.Once
	stop := func() { once.Do(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() }) }
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr, err := alknet.ParseAddr(strings.TrimSpace(line))
	require.NoError(t, err)
	return &process{cmd: cmd, in: in, addr: addr, dir: dir}
}

// dial connects to the process.
func (p *process) dial(t *testing.T, over alknet.Transport) *call.Client {
	t.Helper()
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	to := p.addr
	to.Over = over
	c, err := call.Dial(t.Context(), ep, to, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(); _ = ep.Close() })
	require.NoError(t, c.Settled(t.Context()))
	return c
}

// rss is the resident memory of the process in bytes.
func (p *process) rss(t *testing.T) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Skip("no /proc here")
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(t, err)
	return n << 10
}

// eachService runs f over what the service is reached by.
func eachService(t *testing.T, f func(t *testing.T, over alknet.Transport)) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		t.Run(over.String(), func(t *testing.T) { f(t, over) })
	}
}

// TestProcessIsImported: discovery and Import between two processes.
func TestProcessIsImported(t *testing.T) {
	p := startProcess(t, t.TempDir())
	eachService(t, func(t *testing.T, over alknet.Transport) {
		c := p.dial(t, over)
		ops, err := c.Import(t.Context(), call.Import{Allow: []string{"math/*"}, Prefix: "far", Export: true})
		require.NoError(t, err)
		require.Len(t, ops, 2)
		h := newHandler(t, ops...)
		got, err := call.Call[int](t.Context(), h.As(alice), "far/math/add", sum{2, 3})
		require.NoError(t, err)
		require.Equal(t, 5, got)
		n := 0
		for v, err := range call.Subscribe[int](t.Context(), h.As(alice), "far/math/count", 100) {
			require.NoError(t, err)
			n += v
		}
		require.NotZero(t, n)
		_, err = call.Call[int](t.Context(), h.As(alice), "far/math/add", map[string]any{"a": "x", "b": 1})
		requireCode(t, codes.InvalidInput, err)
		_, err = c.Describe(t.Context(), "math/none")
		requireCode(t, codes.NotFound, err)
	})
}

// TestProcessIsKilledBeforeItsAnswer: kill -9 between execution and answer: the
// caller hears that it may have run, and another instance shows it that a
// repetition is not safe there.
func TestProcessIsKilledBeforeItsAnswer(t *testing.T) {
	eachService(t, func(t *testing.T, over alknet.Transport) {
		dir := t.TempDir()
		p := startProcess(t, dir)
		c := p.dial(t, over)
		instance := c.Instance()
		ctx, cancel := context.WithCancel(t.Context())
		if over == alknet.QUIC { // nobody says that a process has gone: its deadline does
			ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		}
		defer cancel()
		failed := make(chan error, 1)
		go func() {
			_, err := call.Call[int](ctx, call.With(c, call.Options{IdempotencyKey: "k1"}), "x/once", "")
			failed <- err
		}()
		ran := func() string { b, _ := os.ReadFile(dir + "/ran"); return string(b) }
		require.Eventually(t, func() bool { return ran() == "k1\n" }, 30*time.Second, time.Millisecond, "it ran")
		require.NoError(t, p.cmd.Process.Kill())
		want := codes.Unavailable
		if over == alknet.QUIC {
			want = codes.Timeout
		}
		e := requireCode(t, want, within(t, failed, "the caller hears"))
		require.True(t, e.MayHaveRun && e.Retryable)
		again := startProcess(t, dir).dial(t, over)
		require.NotEqual(t, instance, again.Instance(), "its keys died with it")
		require.Equal(t, "k1\n", ran(), "nobody repeated it")
	})
}

// TestProcessKeepsItsMemory: length bombs on many connections cost a process 16
// MiB at most.
func TestProcessKeepsItsMemory(t *testing.T) {
	if raceOn {
		t.Skip("the race detector's shadow would be measured")
	}
	p := startProcess(t, t.TempDir())
	eachService(t, func(t *testing.T, over alknet.Transport) {
		c := p.dial(t, over)
		for range 200 { // what any use costs is there
			_, err := call.Call[int](t.Context(), c, "math/add", sum{1, 2})
			require.NoError(t, err)
		}
		ep, err := alknet.NewEndpoint(nil, nil, nil)
		require.NoError(t, err)
		defer ep.Close()
		to := p.addr
		to.Over = over
		before := p.rss(t)
		for range 40 {
			conn, err := ep.Dial(t.Context(), to, call.ALPN)
			require.NoError(t, err)
			defer conn.Close()
			for range 16 {
				s, err := conn.OpenStream(t.Context())
				if errors.Is(err, errors.ErrUnsupported) {
					break // Raw has one
				}
				require.NoError(t, err)
				_, err = s.Write(append(binary.BigEndian.AppendUint32(nil, 1<<20), `{"type":"call.requested","id":"b","payload":`...))
				require.NoError(t, err)
			}
		}
		_, err = call.Call[int](t.Context(), c, "math/add", sum{1, 2})
		require.NoError(t, err)
		require.LessOrEqual(t, p.rss(t)-before, int64(16<<20))
	})
}

// TestProcessIsStopped: a subscriber and its producer, of which one stands still
// for a while, miss nothing.
func TestProcessIsStopped(t *testing.T) {
	p := startProcess(t, t.TempDir())
	eachService(t, func(t *testing.T, over alknet.Transport) {
		c := p.dial(t, over)
		const n = 2000
		got := 0
		for v, err := range call.Subscribe[struct {
			I int `json:"i"`
		}](t.Context(), c, "test/stream", map[string]int{"n": n, "bytes": 200}) {
			require.NoError(t, err)
			got++
			require.Equal(t, got, v.I)
			if got == n/2 {
				require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
				<-time.After(300 * time.Millisecond)
				require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
			}
		}
		require.Equal(t, n, got)
	})
}

// TestAbortGoesOverThreeNodes: what is aborted at the first ends at the third.
func TestAbortGoesOverThreeNodes(t *testing.T) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		t.Run(over.String(), func(t *testing.T) {
			started, stopped := make(chan struct{}, 1), make(chan error, 1)
			hand := func(to *call.Client) call.Operation {
				return call.Operation{Name: "x/block", Func: call.Func{Type: call.Query, Serve: func(ctx context.Context, s *call.Stream) error {
					return s.Forward(ctx, to, "x/block", call.Options{})
				}}}
			}
			toC := dial(t, connector(over), newHandler(t, blocker(started, stopped)))
			toB := dial(t, connector(over), newHandler(t, hand(toC)))
			for _, end := range []string{"cancel", "deadline"} {
				ctx, cancel := context.WithCancel(t.Context())
				if end == "deadline" {
					ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
				}
				failed := make(chan error, 1)
				go func() { _, err := call.Call[int](ctx, toB, "x/block", struct{}{}); failed <- err }()
				within(t, started, "it runs at C")
				if end == "cancel" {
					cancel()
				}
				require.Error(t, within(t, stopped, "it stops at C"))
				require.Error(t, within(t, failed, "A hears"))
				cancel()
			}
		})
	}
}

// TestManyPanics: ten thousand of them on a connection that lives.
func TestManyPanics(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1_000
	}
	h := newHandler(t, append(testops.Operations(testops.Options{}), mathOps()...)...)
	c := dial(t, connector(alknet.QUIC), h)
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for range 20 {
		wg.Go(func() {
			for range n / 20 {
				_, err := call.Call[any](t.Context(), c, "test/panic", map[string]string{"where": "handler"})
				if e, ok := errors.AsType[*call.Error](err); !ok || e.Code != codes.Internal {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, wrong.Load())
	require.GreaterOrEqual(t, h.Stats().Panics, int64(n))
	got, err := call.Call[int](t.Context(), c, "math/add", sum{2, 3})
	require.NoError(t, err)
	require.Equal(t, 5, got)
}

// TestCallsOnABadNetwork: a subscription has no hole, and aborts arrive, over a
// network that loses, delays and reorders.
func TestCallsOnABadNetwork(t *testing.T) {
	for _, p := range impair.Profiles() {
		if p.Corrupt > 0.1 || p.Loss > 0.1 || p.Up > 0 || p.Down > 0 {
			continue // these take long, or end connections
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			started, stopped := make(chan struct{}, 1), make(chan error, 1)
			h := newHandler(t, append(append(testops.Operations(testops.Options{}), mathOps()...), blocker(started, stopped))...)
			dialler, to := onLoopback(t, h)
			to.Over = alknet.QUIC
			to.HostPort = impair.UDP(t, to.HostPort, p).Addr()
			c, err := call.Dial(t.Context(), dialler, to, nil)
			require.NoError(t, err)
			t.Cleanup(func() { _ = c.Close() })
			got := 0
			for v, err := range call.Subscribe[json.RawMessage](t.Context(), c, "test/stream", map[string]int{"n": 300, "bytes": 500}) {
				require.NoError(t, err)
				got++
				require.Contains(t, string(v), fmt.Sprintf(`{"i":%d,`, got))
			}
			require.Equal(t, 300, got)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { _, _ = call.Call[int](ctx, c, "x/block", struct{}{}) }()
			within(t, started, "it runs")
			cancel()
			require.Error(t, within(t, stopped, "the abort arrives"))
		})
	}
}
