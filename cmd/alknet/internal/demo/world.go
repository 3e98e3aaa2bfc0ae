package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// Options say how a demo runs.
type Options struct {
	Self    string // this program's path
	Own     bool   // no stock tools
	Keep    bool   // the folder stays
	Only    string // steps of this part, or whose name begins so
	Serve   bool   // everything stays up until ctx ends
	Version string // of the program
	// Look finds a stock tool; nil: none.
	Look func(tool string) (string, error)
	// Step is told of each step as it ends.
	Step func(*Result)
	// End is told of the end of the steps, with what draws who is connected.
	End func(s Summary, draw func(out io.Writer, unicode bool))
	// Serving is told what can be pasted, with Serve.
	Serving func(dir string, commands []string)
}

// A world is what the demo runs.
type world struct {
	o    Options
	dir  string
	log  *tail
	keys map[string]ed25519.PrivateKey

	head, you        *node.Node
	workerA, workerB *child
	killed           bool
	calls            int64
	sleeping         atomic.Int64 // calls of demo/sleep that have begun
}

// names are everybody with a key.
var names = []string{"head", "you", "worker-a", "worker-b", "stranger", "guest"}

// Run runs the demo. The error is one of building it, not of a step.
func Run(ctx context.Context, o Options) (s Summary, err error) {
	begun := time.Now()
	s = Summary{Event: "summary", Version: o.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	w, err := build(ctx, o)
	if w != nil {
		defer func() { err = errors.Join(err, w.close()) }()
	}
	if err != nil {
		return s, err
	}
	w.runSteps(ctx, &s)
	s.Seconds = time.Since(begun).Seconds()
	if s.Calls = w.calls; o.Serve {
		s.Calls = w.count()
	}
	if o.End != nil {
		o.End(s, func(out io.Writer, unicode bool) { w.drawing(out, s, unicode) })
	}
	if o.Serve && ctx.Err() == nil {
		if err := w.serve(ctx); err != nil {
			return s, err
		}
	}
	return s, ctx.Err()
}

func build(ctx context.Context, o Options) (w *world, err error) {
	w = &world{o: o, keys: make(map[string]ed25519.PrivateKey), log: &tail{}}
	if w.dir, err = os.MkdirTemp("", "alknet-demo-"); err != nil {
		return nil, err
	}
	if w.dir, err = filepath.EvalSymlinks(w.dir); err != nil {
		return w, err
	}
	for _, name := range names {
		if _, w.keys[name], err = newSeed(); err != nil {
			return w, err
		}
	}
	if err := w.startHead(ctx); err != nil {
		return w, err
	}
	if err := w.startYou(ctx); err != nil {
		return w, err
	}
	if w.workerA, err = w.startWorker(ctx, "worker-a", "quic"); err != nil {
		return w, err
	}
	if w.workerB, err = w.startWorker(ctx, "worker-b", "tcp"); err != nil {
		return w, err
	}
	return w, w.await(ctx, "worker-a", "worker-b")
}

// headConfig is the head's; the keys are filled in.
const headConfig = `[node]
listen = ["127.0.0.1:0"]
name = "head"
drain = "5s"
[call]
[graph]
heartbeat = "200ms" # a killed process is noticed within three of these
[pair]
[ssh]
accounts = "own"
[tunnel]
[forward]
policy = """
allow ssh:forward dial   tcp 127.0.0.1:*
allow ssh:forward dial   name *
allow ssh:listen  publish name *
"""
[[peer]]
id = "you"
keys = ["%s"]
scopes = ["ssh:shell", "ssh:forward", "ssh:listen"]
[[peer]]
id = "worker-a"
keys = ["%s"]
import = ["demo/*"]
export = true
[[peer]]
id = "worker-b"
keys = ["%s"]
import = ["demo/*"]
export = true
`

// youConfig is that of the user's node.
const youConfig = `[node]
listen = []
name = "you"
drain = "2s"
[call]
[[peer]]
id = "head"
keys = ["%s"]
addrs = ["%s"]
`

func (w *world) startHead(ctx context.Context) (err error) {
	text := fmt.Sprintf(headConfig, w.id("you"), w.id("worker-a"), w.id("worker-b"))
	w.head, err = w.startNode(ctx, "head", text)
	return err
}

func (w *world) startYou(ctx context.Context) (err error) {
	w.you, err = w.startNode(ctx, "you", fmt.Sprintf(youConfig, w.id("head"), w.headAddr().HostPort))
	return err
}

func (w *world) startNode(ctx context.Context, name, text string) (*node.Node, error) {
	dir := filepath.Join(w.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "alknet.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	load := func() (*config.File, []config.Problem) {
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, []config.Problem{{File: path, Message: err.Error()}}
		}
		return config.Load(path, src, nil)
	}
	f, problems := load()
	if config.Fatal(problems) {
		return nil, fmt.Errorf("the demo's own configuration: %v", problems[0])
	}
	return node.Start(ctx, node.Options{
		File:       f,
		Places:     config.Places{Config: path, State: dir, Runtime: dir, Vault: filepath.Join(dir, "vault"), Control: filepath.Join(dir, "control.sock")},
		Signer:     w.keys[name],
		Load:       load,
		Operations: operations(name, &w.sleeping),
		Version:    w.o.Version,
		Log:        slog.New(slog.NewTextHandler(w.log, nil)).With("node", name),
	})
}

func (w *world) id(name string) alknet.PeerID { return idOf(w.keys[name]) }

// headAddr is where the head listens, with its key pinned.
func (w *world) headAddr() alknet.Addr {
	return alknet.Addr{HostPort: w.head.Listeners()[0].UDP, Peer: w.id("head")}
}

func (w *world) startWorker(ctx context.Context, name, over string) (*child, error) {
	e := errand{Role: "worker", Name: name, Seed: w.keys[name].Seed(), Head: w.headAddr().String(), Over: over}
	return w.start(context.WithoutCancel(ctx), e, w.log)
}

// await waits until the head routes to workers.
func (w *world) await(ctx context.Context, workers ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		up := 0
		for _, p := range w.head.Status().Peers {
			if slices.Contains(workers, p.ID) && p.State == "up" && len(p.Operations) > 0 {
				up++
			}
		}
		if up == len(workers) {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%w: %s\n%s", errNoWorker, strings.Join(workers, ", "), w.log.last(20))
		}
	}
}

// dial is a connection of the user to the head's operations over one transport.
func (w *world) dial(ctx context.Context, over alknet.Transport) (*call.Client, error) {
	to := w.headAddr()
	to.Over = over
	return call.Dial(ctx, w.you.Dialer(), to, nil)
}

// close ends everything and removes the folder, also after Ctrl-C.
func (w *world) close() error {
	w.workerA.end()
	w.workerB.end()
	for _, n := range []*node.Node{w.you, w.head} {
		if n != nil {
			n.Stop(true)
		}
	}
	if w.o.Keep {
		return nil
	}
	return removeAll(w.dir)
}

// A tail is the end of a log.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

// maxTail bounds what is kept, in bytes.
const maxTail = 64 << 10

// Write adds to the log.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if len(t.text) > maxTail {
		t.text = slices.Clone(t.text[len(t.text)-maxTail:])
	}
	return len(b), nil
}

// take empties the log.
func (t *tail) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := string(t.text)
	t.text = nil
	return s
}

// last returns the last lines.
func (t *tail) last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(t.text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
