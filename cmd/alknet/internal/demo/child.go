package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/peer"
)

// An errand is what a child process is told on its standard input: never its
// arguments or environment, which others can read.
type errand struct {
	Role string   `json:"role"` // "worker" or "stranger"
	Name string   `json:"name"`
	Seed []byte   `json:"seed"` // of its key
	Head string   `json:"head"` // KEY@HOST:PORT
	Over string   `json:"over"` // "quic" or "tcp"
	ALPN []string `json:"alpn,omitzero"`
}

// Verb is the hidden command that runs a child.
const Verb = "demo-child"

// Child runs a child process: it does its errand until standard input ends, which
// it does when the parent dies too.
func Child(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dec := json.NewDecoder(in)
	var e errand
	if err := dec.Decode(&e); err != nil {
		return err
	}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: ed25519.NewKeyFromSeed(e.Seed)})
	if err != nil {
		return err
	}
	defer ep.Close()
	head, err := alknet.ParseAddr(e.Head)
	if err != nil {
		return err
	}
	if e.Role == "stranger" {
		return json.NewEncoder(out).Encode(knock(ctx, ep, head, e.ALPN))
	}
	return work(ctx, ep, head, e, dec)
}

// work serves the demo's operations to the head over a connection that it dials.
func work(ctx context.Context, ep *alknet.Endpoint, head alknet.Addr, e errand, parent *json.Decoder) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	head.Over = alknet.QUIC
	if e.Over == "tcp" {
		head.Over = alknet.Raw
	}
	var reg call.Registry
	if err := reg.Register(operations(e.Name, new(atomic.Int64))...); err != nil {
		return err
	}
	h := &call.Handler{Registry: &reg}
	s := &peer.Supervisor{MinBackoff: 50 * time.Millisecond, Dial: func(ctx context.Context) (*call.Client, error) { return call.Dial(ctx, ep, head, h) }}
	done := make(chan error, 1)
	begin(func() { done <- s.Run(ctx) })
	_ = parent.Decode(new(any)) // the parent says no more: its end is what we wait for
	cancel()
	<-done
	return nil
}

// A knock is how one attempt of the stranger ended.
type knocked struct {
	ALPN    string `json:"alpn"`
	Over    string `json:"over"`
	Refused bool   `json:"refused"`
	How     string `json:"how"`
}

// knock tries every service on every transport, as somebody whom the head does
// not know.
func knock(ctx context.Context, ep *alknet.Endpoint, head alknet.Addr, alpns []string) []knocked {
	all := []knocked{}
	for _, alpn := range alpns {
		overs := []alknet.Transport{alknet.QUIC, alknet.Mux}
		if alpn == call.ALPN {
			overs[1] = alknet.Raw
		}
		for _, over := range overs {
			head.Over = over
			how := tryService(ctx, ep, head, alpn)
			all = append(all, knocked{ALPN: alpn, Over: over.String(), Refused: how != "", How: how})
		}
	}
	return all
}

// tryService returns how a service refused us, or "" if it let us in.
func tryService(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr, alpn string) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := ep.Dial(ctx, to, alpn)
	if err != nil {
		return code(err)
	}
	defer conn.Close()
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return code(err)
	}
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline); err != nil {
		return code(err)
	}
	// A frame of call, which means nothing to the others: who is let in gets an answer or is kept waiting.
	_, err = s.Write([]byte("\x00\x00\x00\x5f{\"type\":\"call.requested\",\"id\":\"q1\",\"payload\":{\"operationId\":\"/demo/add\",\"input\":{\"a\":2,\"b\":3}}}"))
	if err != nil {
		return code(err)
	}
	buf := make([]byte, 512)
	n, err := s.Read(buf)
	if n > 0 {
		return ""
	}
	return code(err)
}

// code is how a connection was refused; "" if it was not.
func code(err error) string {
	if e, ok := errors.AsType[*alknet.Error](err); ok && (e.Code == alknet.CodeUnauthenticated || e.Code == alknet.CodeRefused) {
		return e.Code.String()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, alknet.ErrNoService) {
		return "" // kept waiting is not refused, and nor is what does not exist
	}
	return "closed" // bare TLS has no codes
}

// A child is a process of ours.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// start starts a child process with an errand.
func (w *world) start(ctx context.Context, e errand, out io.Writer) (*child, error) {
	cmd := exec.CommandContext(ctx, w.o.Self, Verb)
	cmd.Dir = w.dir
	cmd.Env = []string{"HOME=" + w.dir, "TMPDIR=" + w.dir}
	cmd.Stdout, cmd.Stderr = out, w.log
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", e.Name, err)
	}
	return &child{cmd, stdin}, json.NewEncoder(stdin).Encode(e)
}

// end lets a child finish.
func (c *child) end() {
	if c == nil {
		return
	}
	_ = c.stdin.Close() // which is its sign to end
	done := make(chan struct{})
	begin(func() { _ = c.cmd.Wait(); close(done) })
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		_ = c.cmd.Process.Kill() // it did not end by itself
		<-done
	}
}

// kill is SIGKILL.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = c.cmd.Wait() // it was killed: that is its status
	return nil
}

// newSeed is a fresh key's.
func newSeed() ([]byte, ed25519.PrivateKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return nil, nil, err
	}
	return seed, ed25519.NewKeyFromSeed(seed), nil
}

func idOf(key ed25519.PrivateKey) alknet.PeerID {
	return alknet.PeerID(key.Public().(ed25519.PublicKey))
}

// removeAll removes the demo's folder.
func removeAll(dir string) error { return os.RemoveAll(dir) }
