package ssh

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/tty"
)

// The bounds of a session.
const (
	startTimeout  = 10 * time.Second // until something is asked for
	maxEnv        = 64               // variables
	maxEnvBytes   = 4 << 10          // their names and values together
	maxTerm       = 64               // bytes of TERM
	maxLine       = 64 << 10         // bytes of a command line: what a kernel takes as one argument is 128 KiB
	statusRefused = 126              // of a program that could not be run
)

// defaultEnviron are the variables that a client may set.
var defaultEnviron = []string{"LANG", "LC_*", "COLORTERM", "NO_COLOR", "TERM", "GIT_PROTOCOL", "ALKNET_SESSION"}

// A Session is a shell or a command that Handler.Session runs. Read is what the
// client sends, Write is what it gets.
type Session struct {
	io.ReadWriter
	// Stderr is the client's standard error.
	Stderr io.Writer
	// Identity is who the peer is.
	Identity alknet.Identity
	// User is the name that the client gave. It gives no right.
	User string
	// Command is the line; empty for a shell.
	Command string
	// Environ is "NAME=value" as the client set them, within Handler.Environ.
	Environ []string
	// PTY is the terminal that the client has, nil without one.
	PTY *PTY
	// Resizes gets the newest size of the terminal.
	Resizes <-chan tty.Size
	// Signals gets names without "SIG": "TERM". One that nobody takes is lost
	// when 16 wait.
	Signals <-chan string
}

// A PTY is the terminal of a client (RFC 4254, section 6.2).
type PTY struct {
	Term  string           // its type, such as "xterm-256color"
	Size  tty.Size         // in characters and pixels
	Modes map[uint8]uint32 // terminal modes by opcode (RFC 4254, section 8)
}

// A session is one channel of type "session".
type session struct {
	c    *connection
	ch   *counted
	ctx  context.Context // ends with the channel
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // what runs in it
	idle *time.Timer    // ends a session through which nothing moves; nil: none

	kind  string    // of what runs; set before the handler remembers it
	since time.Time // when that began

	// By the loop of requests only.
	started  bool
	told     bool // that it was started
	env      []string
	envBytes int
	agent    bool

	resizes chan tty.Size
	signals chan string
	beginc  chan struct{} // closed when the client was told

	mu      sync.Mutex
	pty     *PTY         // guarded by mu
	program runningThing // guarded by mu; nil: not running
	result  []slog.Attr  // guarded by mu; for the log
}

// A runningThing is a process, which can be signalled and resized.
type runningThing interface {
	Signal(name string) error
	Resize(tty.Size) error
	Break() error
}

// session serves a channel until the client has closed it and what ran in it
// has ended.
func (c *connection) session(nch xssh.NewChannel) {
	ch, reqs, err := nch.Accept()
	if err != nil {
		return // the connection has ended
	}
	begun := time.Now()
	s := &session{c: c, ch: &counted{Channel: ch, nc: c.nc}, resizes: make(chan tty.Size, 1), signals: make(chan string, 16), beginc: make(chan struct{})}
	s.ctx, s.stop = context.WithCancelCause(c.ctx)
	defer s.stop(nil)
	if c.limits.SessionIdle > 0 {
		s.idle = time.AfterFunc(c.limits.SessionIdle, func() {
			s.stop(nil) // what runs ends, whatever the client answers
			_ = ch.Close()
		})
		defer s.idle.Stop()
	}
	unused := time.AfterFunc(startTimeout, func() { _ = ch.Close() })
	defer unused.Stop()
	s.goes(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) }) // extended data of a client means nothing
	defer func() {
		s.stop(nil)
		s.wg.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		c.closed("session", s.ch, begun, s.result...)
	}()
	defer func() { // a panic below costs this channel, and must not stop the loop of the connection
		if v := recover(); v != nil {
			_ = ch.Close()
			s.goes(func() { xssh.DiscardRequests(reqs) })
			panic(v)
		}
	}()
	for req := range reqs {
		ok := s.request(req)
		if s.started {
			unused.Stop()
		}
		_ = req.Reply(ok, nil) // a channel that ends ends the loop
		s.answered()
	}
}

// answered lets the program of the session begin, once: it may end, and with it
// the channel, before the client has been told that it was started.
func (s *session) answered() {
	if s.started && !s.told {
		s.told = true
		close(s.beginc)
	}
}

// goes runs f with the session. A panic in it costs the channel.
func (s *session) goes(f func()) {
	safe.Go(&s.wg, func(err error) {
		s.c.logPanic(err)
		_ = s.ch.Close()
	}, f)
}

// moved notes that something went through the session.
func (s *session) moved() {
	if s.idle != nil {
		s.idle.Reset(s.c.limits.SessionIdle)
	}
}

// request does what a request asks for and never waits: programs start in
// goroutines of their own.
func (s *session) request(req *xssh.Request) bool {
	switch req.Type {
	case "exec":
		var p struct{ Line string }
		return xssh.Unmarshal(req.Payload, &p) == nil && len(p.Line) <= maxLine && s.start(wish{"exec", p.Line})
	case "shell":
		return len(req.Payload) == 0 && s.start(wish{kind: "shell"})
	case "subsystem":
		var p struct{ Name string }
		return xssh.Unmarshal(req.Payload, &p) == nil && p.Name != "" && s.start(wish{"subsystem", p.Name})
	case "pty-req":
		return s.requestPTY(req.Payload)
	case "window-change":
		return s.resize(req.Payload)
	case "env":
		return s.setenv(req.Payload)
	case "signal":
		return s.signal(req.Payload)
	case "break":
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.program != nil && s.program.Break() == nil
	case "auth-agent-req@openssh.com":
		return s.requestAgent()
	case "keepalive@openssh.com":
		return true
	}
	return false // x11-req and what we do not know
}

// start begins the one program of the session, or says why not on the client's
// standard error, for which a refusal of the protocol has no place.
func (s *session) start(w wish) bool {
	if s.started {
		return false
	}
	run, err := s.choose(w)
	if err != nil {
		s.c.refused(w.kind, err)
		s.explain(err)
		return false
	}
	s.started = true
	s.kind, s.since = w.kind, time.Now()
	forget := s.c.h.remember(s)
	s.goes(func() {
		defer forget()
		select {
		case <-s.beginc:
		case <-s.ctx.Done():
		}
		s.c.awaitRequests(s.ctx)
		exit := run()
		s.exited(exit)
	})
	return true
}

// remember makes a session one that an operator sees, until forget is called.
func (h *Handler) remember(s *session) (forget func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.programs == nil {
		h.programs = make(map[uint64]*session)
	}
	h.numbered++
	id := h.numbered
	h.programs[id] = s
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.programs, id)
	}
}

// refusalWait is how long a client may take to make room for the reason of a
// refusal, before it gets the refusal alone and the channel ends.
const refusalWait = time.Second

// explain writes a reason to the client's standard error, before the answer to
// its request.
func (s *session) explain(why error) {
	written := make(chan struct{})
	s.goes(func() {
		defer close(written)
		_, _ = io.WriteString(s.ch.Stderr(), why.Error()+"\r\n") // the client may be gone
	})
	t := time.NewTimer(refusalWait)
	defer t.Stop()
	select {
	case <-written:
	case <-t.C:
		_ = s.ch.Close() // nothing else may write there meanwhile
	}
}

// exited tells how the program ended and closes the channel.
func (s *session) exited(e tty.Exit) {
	s.tell(e)
	_ = s.ch.CloseWrite() // the client may have closed it
	_ = s.ch.Close()
}

// tell sends the status, once: a process is told of when it ends, which may be
// before the end of its output.
func (s *session) tell(e tty.Exit) {
	s.mu.Lock()
	told := s.result != nil
	if e.Signal != "" {
		s.result = []slog.Attr{slog.String("signal", e.Signal)}
	} else {
		s.result = []slog.Attr{slog.Int("exit", e.Status)}
	}
	s.mu.Unlock()
	if told {
		return
	}
	if e.Signal != "" {
		_, _ = s.ch.SendRequest("exit-signal", false, xssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{e.Signal, e.Core, "", ""}))
		return
	}
	_, _ = s.ch.SendRequest("exit-status", false, xssh.Marshal(struct{ Status uint32 }{uint32(e.Status)}))
}

func (s *session) requestPTY(payload []byte) bool {
	var p struct {
		Term                   string
		Cols, Rows, XPix, YPix uint32
		Modes                  string
	}
	if s.started || s.c.grant.noPTY || xssh.Unmarshal(payload, &p) != nil || !validTerm(p.Term) {
		return false
	}
	modes, err := parseModes([]byte(p.Modes))
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty != nil {
		return false
	}
	s.pty = &PTY{Term: p.Term, Size: size(p.Cols, p.Rows, p.XPix, p.YPix), Modes: modes}
	return true
}

// validTerm refuses names that a program would read as a path or a sequence.
func validTerm(s string) bool {
	return len(s) <= maxTerm && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._+-", c))
	})
}

// errModes are terminal modes that are cut off.
var errModes = errors.New("ssh: malformed terminal modes")

// parseModes reads the modes of RFC 4254, section 8: opcodes below 160 have an
// argument of 4 bytes, opcode 0 and those above end the list.
func parseModes(b []byte) (map[uint8]uint32, error) {
	modes := make(map[uint8]uint32)
	for len(b) > 0 && b[0] != 0 && b[0] < 160 {
		if len(b) < 5 {
			return nil, errModes
		}
		modes[b[0]] = uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])
		b = b[5:]
	}
	return modes, nil
}

// size cuts numbers that no terminal has.
func size(cols, rows, x, y uint32) tty.Size {
	cut := func(n uint32) uint16 { return uint16(min(n, 65535)) }
	s := tty.Size{Cols: cut(cols), Rows: cut(rows), XPixels: cut(x), YPixels: cut(y)}
	if s.Cols == 0 {
		s.Cols = 80
	}
	if s.Rows == 0 {
		s.Rows = 24
	}
	return s
}

func (s *session) resize(payload []byte) bool {
	var p struct{ Cols, Rows, XPix, YPix uint32 }
	if xssh.Unmarshal(payload, &p) != nil {
		return false
	}
	sz := size(p.Cols, p.Rows, p.XPix, p.YPix)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty == nil {
		return false
	}
	s.pty.Size = sz
	select { // the newest replaces one that nobody has taken
	case <-s.resizes:
	default:
	}
	s.resizes <- sz
	return s.program == nil || s.program.Resize(sz) == nil
}

func (s *session) setenv(payload []byte) bool {
	var p struct{ Name, Value string }
	if s.started || xssh.Unmarshal(payload, &p) != nil || !s.c.h.mayset(p.Name) {
		return false
	}
	s.envBytes += len(p.Name) + len(p.Value)
	if len(s.env) == maxEnv || s.envBytes > maxEnvBytes || strings.ContainsRune(p.Name+p.Value, 0) {
		return false
	}
	s.env = append(s.env, p.Name+"="+p.Value)
	return true
}

// mayset reports whether a client may set a variable.
func (h *Handler) mayset(name string) bool {
	list := h.Environ
	if list == nil {
		list = defaultEnviron
	}
	if name == "" || strings.ContainsAny(name, "=*") {
		return false
	}
	return slices.ContainsFunc(list, func(entry string) bool {
		prefix, star := strings.CutSuffix(entry, "*")
		return entry == name || star && strings.HasPrefix(name, prefix)
	})
}

func (s *session) signal(payload []byte) bool {
	var p struct{ Name string }
	if xssh.Unmarshal(payload, &p) != nil || !slices.Contains(signalNames, p.Name) {
		return false
	}
	select {
	case s.signals <- p.Name:
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.program == nil || s.program.Signal(p.Name) == nil
}

// signalNames are those of RFC 4254, section 6.10.
var signalNames = []string{"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}

// run makes p the program that requests reach, until the function that it
// returns is called.
func (s *session) run(p runningThing) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.program = p
	if s.pty != nil {
		_ = p.Resize(s.pty.Size) // it may have changed while it started
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.program = nil
	}
}

// terminal returns a copy of what the client has.
func (s *session) terminal() *PTY {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty == nil {
		return nil
	}
	p := *s.pty
	return &p
}
