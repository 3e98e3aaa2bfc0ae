package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/tty"
)

// A Cmd is what [Client.Run] runs at the server.
type Cmd struct {
	// Line is the command line. Empty: a shell.
	Line string
	// Env is "NAME=value"; the server decides which names it takes, and says
	// nothing of others.
	Env []string
	// Stdin is read until its end, or until the command has ended; a Read that
	// does not return then is left behind. Nil: empty.
	Stdin io.Reader
	// Stdout and Stderr get the output. Nil: discarded.
	Stdout, Stderr io.Writer
	// PTY asks for a terminal, whose errors come with its output. Nil: none.
	PTY *PTY
	// Resizes are new sizes of the terminal.
	Resizes <-chan tty.Size
	// Signals are names without "SIG", such as "TERM", for the command.
	Signals <-chan string
	// Agent lets the command use ClientConfig.Agent.
	Agent bool
}

// An ExitError is a command that did not end with status 0.
type ExitError struct {
	Status  int    // if Signal is empty
	Signal  string // that ended it, without "SIG"
	Message string // that the server gave, quoted
}

// Error says how the command ended.
func (e *ExitError) Error() string {
	s := "ssh: the command ended with status " + strconv.Itoa(e.Status)
	if e.Signal != "" {
		s = "ssh: the command was ended by signal " + e.Signal
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// errNoStatus is a command of which the server did not say how it ended.
var errNoStatus = errors.New("ssh: the server does not say how the command ended")

// ErrRefused is what a [Client] returns for a request that the server has refused.
var ErrRefused = errors.New("ssh: refused by the server")

// Run runs cmd and returns when it has ended and its output is written: nil for
// status 0, an *[ExitError] for another one or a signal, an error that wraps
// net.ErrClosed if the connection was lost. The end of ctx closes the channel,
// which ends the command; a server that does not close it too within 10 s loses
// the connection.
func (c *Client) Run(ctx context.Context, cmd *Cmd) error {
	ch, reqs, err := c.open(ctx, "session", nil)
	if err != nil {
		return err
	}
	r := &running{c: c, ch: ch, cmd: cmd}
	return r.run(ctx, reqs)
}

// A running is one command.
type running struct {
	c   *Client
	ch  xssh.Channel
	cmd *Cmd
	wg  sync.WaitGroup // what reads from the channel

	exit  error       // set by the loop of requests before it ends
	whole atomic.Bool // the output or the channel ended before the connection did
}

// ended notes an end of the output or of the channel. The library ends them with
// the connection too, and a status comes before the end of the output.
func (r *running) ended() {
	if !r.c.nc.lost.Load() {
		r.whole.Store(true)
	}
}

func (r *running) run(ctx context.Context, reqs <-chan *xssh.Request) error {
	closed := make(chan struct{}) // by the server
	safe.Go(&r.wg, r.c.fail, func() {
		defer close(closed)
		r.exit = errNoStatus
		for req := range reqs {
			if err := exitOf(req); err != nil {
				r.exit = err
			}
			_ = req.Reply(false, nil)
		}
		r.ended()
	})
	var refused strings.Builder // what a server says on its standard error when it refuses
	safe.Go(&r.wg, r.c.fail, func() { r.output(r.cmd.Stdout, r.ch) })
	safe.Go(&r.wg, r.c.fail, func() {
		head := &headWriter{head: &refused, next: orDiscard(r.cmd.Stderr)}
		r.output(head, r.ch.Stderr())
	})
	defer r.endWith(ctx)()
	err := r.start()
	if err != nil {
		_ = r.ch.Close() // nothing runs
		r.wg.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if text := strings.TrimSpace(refused.String()); text != "" && errors.Is(err, ErrRefused) {
			return fmt.Errorf("%w: %s", err, printable.Quote(text))
		}
		return err
	}
	r.feed(closed)
	r.wg.Wait()
	_ = r.ch.Close() // it is closed by the server
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !r.whole.Load(), r.exit == errNoStatus && !r.c.lives():
		return r.c.lost()
	case r.exit == errExitZero:
		return nil
	}
	return r.exit
}

// closeGrace is how long a server may take to close a channel that we have closed.
const closeGrace = 10 * time.Second

// endWith closes the channel when ctx ends. A server that does not answer that
// is not to be waited for: then the connection ends.
func (r *running) endWith(ctx context.Context) (stop func()) {
	var mu sync.Mutex
	var late *time.Timer
	cancel := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		late = time.AfterFunc(closeGrace, r.c.nc.kill)
		_ = r.ch.Close()
	})
	return func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if late != nil {
			late.Stop()
		}
	}
}

// headWriter keeps the beginning of what goes through it.
type headWriter struct {
	head *strings.Builder
	next io.Writer
}

// maxHead is how much of it is kept, in bytes.
const maxHead = 512

func (w *headWriter) Write(b []byte) (int, error) {
	if room := maxHead - w.head.Len(); room > 0 {
		w.head.Write(b[:min(room, len(b))])
	}
	return w.next.Write(b)
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// ended reports whether the connection is over.
func (c *Client) ended() bool {
	select {
	case <-c.donc:
		return true
	default:
		return false
	}
}

// lives asks the server: channels end a little before the connection does.
func (c *Client) lives() bool {
	_, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil)
	return err == nil
}

// errExitZero stands for status 0 while the output is still read.
var errExitZero = errors.New("status 0")

// exitOf is what a request says of the end of the command; nil: nothing.
func exitOf(req *xssh.Request) error {
	switch req.Type {
	case "exit-status":
		var p struct{ Status uint32 }
		if xssh.Unmarshal(req.Payload, &p) != nil {
			return nil
		}
		if p.Status == 0 {
			return errExitZero
		}
		return &ExitError{Status: int(p.Status)}
	case "exit-signal":
		var p struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}
		if xssh.Unmarshal(req.Payload, &p) != nil {
			return nil
		}
		e := &ExitError{Signal: p.Name}
		if !slices.Contains(signalNames, p.Name) {
			e.Signal = printable.Quote(p.Name)
		}
		if p.Message != "" {
			e.Message = printable.Quote(p.Message)
		}
		return e
	}
	return nil
}

// output copies one direction. A writer that fails does not stop the command:
// the rest is discarded, as the window must stay open.
func (r *running) output(dst io.Writer, src io.Reader) {
	buf := copyBuffers.Get().(*[copyBytes]byte)
	defer copyBuffers.Put(buf)
	dst = orDiscard(dst)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				dst = io.Discard
			}
		}
		if err != nil {
			r.ended()
			return
		}
	}
}

// start asks for everything and begins the command.
func (r *running) start() error {
	for _, env := range r.cmd.Env {
		name, value, _ := strings.Cut(env, "=")
		if err := r.send("env", xssh.Marshal(struct{ Name, Value string }{name, value}), false); err != nil {
			return err
		}
	}
	if r.cmd.Agent {
		if err := r.send("auth-agent-req@openssh.com", nil, true); err != nil {
			return err
		}
	}
	if p := r.cmd.PTY; p != nil {
		payload := xssh.Marshal(struct {
			Term                   string
			Cols, Rows, XPix, YPix uint32
			Modes                  string
		}{p.Term, uint32(p.Size.Cols), uint32(p.Size.Rows), uint32(p.Size.XPixels), uint32(p.Size.YPixels), encodeModes(p.Modes)})
		if err := r.send("pty-req", payload, true); err != nil {
			return err
		}
	}
	if r.cmd.Line == "" {
		return r.send("shell", nil, true)
	}
	return r.send("exec", xssh.Marshal(struct{ Line string }{r.cmd.Line}), true)
}

// encodeModes is the reverse of parseModes, in the order of the opcodes.
func encodeModes(modes map[uint8]uint32) string {
	var b []byte
	for op := range uint8(160) {
		if v, ok := modes[op]; ok && op != 0 {
			b = append(b, op, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		}
	}
	return string(append(b, 0))
}

func (r *running) send(kind string, payload []byte, must bool) error {
	ok, err := r.ch.SendRequest(kind, must, payload)
	switch {
	case err != nil && r.c.ended():
		return r.c.lost()
	case err != nil || must && !ok:
		return fmt.Errorf("%w: %s", ErrRefused, kind)
	}
	return nil
}

// feed sends input, sizes and signals until the server has closed the channel.
// The goroutine that reads Stdin is the client's: a Read that does not return
// outlives the command.
func (r *running) feed(closed <-chan struct{}) {
	if r.cmd.Stdin == nil {
		_ = r.ch.CloseWrite() // the command may have ended
	} else {
		safe.Go(new(sync.WaitGroup), func(error) { _ = r.ch.Close() }, func() {
			if _, err := io.Copy(writerOnly{r.ch}, r.cmd.Stdin); err == nil {
				_ = r.ch.CloseWrite()
			}
		})
	}
	for {
		select {
		case <-closed:
			return
		case sz, ok := <-r.cmd.Resizes:
			if !ok {
				r.cmd.Resizes = nil
				continue
			}
			_, _ = r.ch.SendRequest("window-change", false, xssh.Marshal(struct{ Cols, Rows, XPix, YPix uint32 }{
				uint32(sz.Cols), uint32(sz.Rows), uint32(sz.XPixels), uint32(sz.YPixels)}))
		case name, ok := <-r.cmd.Signals:
			if !ok {
				r.cmd.Signals = nil
				continue
			}
			_, _ = r.ch.SendRequest("signal", false, xssh.Marshal(struct{ Name string }{name}))
		}
	}
}

// writerOnly hides what io.Copy would look for.
type writerOnly struct{ io.Writer }

// Subsystem starts a subsystem, such as "sftp". Closing it closes its channel;
// CloseWrite, where the caller asserts it, ends the writing direction.
func (c *Client) Subsystem(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	ch, reqs, err := c.open(ctx, "session", nil)
	if err != nil {
		return nil, err
	}
	if err := c.goes(func() { xssh.DiscardRequests(reqs) }); err != nil {
		_ = ch.Close() // the connection has ended
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = ch.Close() })
	ok, err := ch.SendRequest("subsystem", true, xssh.Marshal(struct{ Name string }{name}))
	if !stop() {
		return nil, ctx.Err()
	}
	if err != nil || !ok {
		_ = ch.Close() // nothing runs
		return nil, fmt.Errorf("%w: subsystem", ErrRefused)
	}
	if err := c.goes(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) }); err != nil {
		return nil, err
	}
	return &chanConn{counted: &counted{Channel: ch, nc: c.nc}, local: c.conn.LocalAddr(), remote: c.conn.RemoteAddr()}, nil
}
