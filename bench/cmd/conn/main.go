// Conn measures one stream's throughput, handshakes, streams and idle
// connections of alknet beside the bare libraries that it is made of. Client
// and server are two processes on loopback.
//
//	conn bulk    -stack quic -mib 512
//	conn hs      -stack alknet-quic -mode full|resumed -n 300
//	conn turns   -mode full -n 50 -rounds 20 quic alknet-quic
//	conn streams -stack alknet-quic -n 20000 -conc 16
//	conn idle    -stack alknet-quic -n 1000
//
// Each run prints one line of JSON. turns is hs of several stacks, in turns of n
// handshakes: the less time between two stacks, the less a shared machine can
// change its speed between them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/bench/internal/proc"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conn:", err)
		os.Exit(1)
	}
}

type params struct {
	what, stack, mode    string
	mib, n, conc, rounds int
	step                 bool // hs waits for a line on standard input before each turn
}

func run() error {
	if len(os.Args) < 2 {
		return errors.New("usage: conn bulk|hs|streams|idle -stack NAME, or conn turns NAME and more")
	}
	p := params{what: os.Args[1]}
	fs := flag.NewFlagSet(p.what, flag.ExitOnError)
	fs.StringVar(&p.stack, "stack", "alknet-quic", fmt.Sprint(names))
	fs.StringVar(&p.mode, "mode", "full", "full or resumed")
	fs.IntVar(&p.mib, "mib", 256, "size of a bulk transfer")
	fs.IntVar(&p.n, "n", 300, "handshakes, streams or connections")
	fs.IntVar(&p.conc, "conc", 1, "at once")
	fs.IntVar(&p.rounds, "rounds", 5, "of turns")
	fs.BoolVar(&p.step, "step", false, "hs: measure once for every line of the standard input")
	if err := fs.Parse(os.Args[2:]); err != nil {
		return err
	}
	if p.what == "turns" {
		return turns(p, fs.Args())
	}
	st, err := newStack(p.stack)
	if err != nil {
		return err
	}
	if p.what == "server" {
		hello, err := st.serve()
		if err != nil {
			return err
		}
		return proc.Serve(hello)
	}
	child, err := proc.Spawn("server", "-stack", p.stack)
	if err != nil {
		return err
	}
	defer child.Close()
	if err := st.client(child.Hello, p.mode == "resumed"); err != nil {
		return err
	}
	measure, ok := map[string]func(stack, *proc.Child, params) (map[string]float64, error){
		"bulk": bulk, "hs": handshakes, "streams": streams, "idle": idle,
	}[p.what]
	if !ok {
		return fmt.Errorf("cannot measure %q", p.what)
	}
	if name := os.Getenv("BENCH_CLIENT_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	figures, err := measure(st, child, p)
	if err != nil || p.step {
		return err
	}
	return p.print(figures)
}

// print writes what was measured as a line.
func (p params) print(figures map[string]float64) error {
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"run": p.key(), "stack": p.stack, "figures": figures})
}

// key names what was measured, without the stack.
func (p params) key() string {
	switch p.what {
	case "bulk":
		return fmt.Sprintf("bulk %d MiB", p.mib)
	case "hs":
		return fmt.Sprintf("handshake %s c%d", p.mode, p.conc)
	case "streams":
		return fmt.Sprintf("stream c%d", p.conc)
	}
	return fmt.Sprintf("idle %d", p.n)
}

// both is the CPU time of both processes since two moments, in microseconds.
type both struct{ server, client proc.Stat }

func mark(c *proc.Child) (b both, err error) {
	b.client = proc.Self()
	b.server, err = c.Stat(false)
	return b, err
}

func bulk(st stack, child *proc.Child, p params) (map[string]float64, error) {
	ctx := context.Background()
	c, err := st.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	s, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := fetch(s, 32<<20); err != nil { // the windows grow
		return nil, err
	}
	before, err := mark(child)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := fetch(s, int64(p.mib)<<20); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	after, err := mark(child)
	gib := float64(p.mib) / 1024
	return map[string]float64{
		"MB/s":               float64(p.mib) * (1 << 20) / 1e6 / took,
		"CPU s/GiB receiver": float64(after.client.CPUMicros-before.client.CPUMicros) / 1e6 / gib,
		"CPU s/GiB sender":   float64(after.server.CPUMicros-before.server.CPUMicros) / 1e6 / gib,
	}, err
}

// repeat calls f n times from conc goroutines and returns how long each took.
func repeat(n, conc int, f func() error) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, conc)
	for range conc {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				start := time.Now()
				if err := f(); err != nil {
					errs <- err
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	close(errs)
	return took, <-errs
}

// warmup is how many handshakes are made before those that count.
const warmup = 20

func handshakes(st stack, child *proc.Child, p params) (map[string]float64, error) {
	ctx := context.Background()
	var resumed atomic.Int64
	one := func() error {
		c, err := st.dial(ctx)
		if err != nil {
			return err
		}
		defer c.close()
		s, err := c.open(ctx)
		if err != nil {
			return err
		}
		if c.resumed() {
			resumed.Add(1)
		}
		return echo(s)
	}
	if _, err := repeat(warmup, 1, one); err != nil {
		return nil, err
	}
	measure := func() (map[string]float64, error) {
		resumed.Store(0)
		return rate(child, p, one, func(m map[string]float64) { m["resumed"] = float64(resumed.Load()) / float64(p.n) })
	}
	if p.step {
		return nil, stepwise(p, measure)
	}
	return measure()
}

func streams(st stack, child *proc.Child, p params) (map[string]float64, error) {
	ctx := context.Background()
	c, err := st.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	one := func() error {
		s, err := c.open(ctx)
		if err != nil {
			return err
		}
		defer s.Close()
		return echo(s)
	}
	if _, err := repeat(200, p.conc, one); err != nil {
		return nil, err
	}
	return rate(child, p, one, func(map[string]float64) {})
}

// rate measures p.n calls of one.
func rate(child *proc.Child, p params, one func() error, more func(map[string]float64)) (map[string]float64, error) {
	before, err := mark(child)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	took, err := repeat(p.n, p.conc, one)
	if err != nil {
		return nil, err
	}
	secs := time.Since(start).Seconds()
	after, err := mark(child)
	slices.Sort(took)
	n := float64(p.n)
	m := map[string]float64{
		"per s":         n / secs,
		"p50 µs":        float64(took[p.n/2].Microseconds()),
		"p99 µs":        float64(took[p.n*99/100].Microseconds()),
		"CPU µs server": float64(after.server.CPUMicros-before.server.CPUMicros) / n,
		"CPU µs client": float64(after.client.CPUMicros-before.client.CPUMicros) / n,
		"allocs server": float64(after.server.Mallocs-before.server.Mallocs) / n,
	}
	more(m)
	return m, err
}

func idle(st stack, child *proc.Child, p params) (map[string]float64, error) {
	ctx := context.Background()
	before, err := child.Stat(true)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var kept []conn
	defer func() {
		for _, c := range kept {
			c.close()
		}
	}()
	start := time.Now()
	_, err = repeat(p.n, 8, func() error {
		c, err := st.dial(ctx)
		if err != nil {
			return err
		}
		s, err := c.open(ctx) // and it stays open
		if err != nil {
			return err
		}
		mu.Lock()
		kept = append(kept, c)
		mu.Unlock()
		return echo(s)
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	full, err := child.Stat(false)
	if err != nil {
		return nil, err
	}
	after, err := child.Stat(true)
	n := float64(p.n)
	return map[string]float64{
		"server KiB/conn":        float64(after.RSSKiB-before.RSSKiB) / n,
		"server stack KiB/conn":  float64(after.StackKiB-before.StackKiB) / n,
		"server heap KiB/conn":   float64(after.HeapKiB-before.HeapKiB) / n,
		"server goroutines/conn": float64(after.Goroutines-before.Goroutines) / n,
		"server MiB":             float64(full.RSSKiB) / 1024, // garbage of the dialling included
		"server MiB collected":   float64(after.RSSKiB) / 1024,
		"conns/s":                n / took,
	}, err
}
