//go:build unix

package ssh

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/ssh/tty"
)

// How long a process may take to end after SIGHUP.
const (
	killDelay = 10 * time.Second       // when its channel is gone
	cutDelay  = 500 * time.Millisecond // when its peer may no longer have it
)

// process runs a line or a shell as the account that the peer has. It returns
// when the output has been read to its end.
func (s *session) process(w wish, original string) tty.Exit {
	a, err := s.c.h.Accounts(s.ctx, s.c.identity(), s.c.sc.User())
	if err != nil || a == nil {
		s.c.h.log().LogAttrs(s.ctx, slog.LevelInfo, "ssh account refused", slog.Any("id", printable.Text(s.c.grant.identity.ID)),
			slog.Any("user", printable.Text(s.c.sc.User())))
		return s.refuse(errAccount)
	}
	if a.UID == 0 {
		s.c.h.rootOnce.Do(func() {
			s.c.h.log().Warn("ssh: an account is root: whoever has the scope " + ScopeShell + " has the machine")
		})
	}
	release, ok := s.c.hold(&right{holds: mayShell, check: s.sameAccount(a), cut: s.cutOff})
	if !ok {
		return s.refuse(errNeedsShell)
	}
	defer release()
	cmd := shell(a, w)
	cmd.Env = s.environ(a, original)
	if cmd.Dir = a.Home; !isDir(cmd.Dir) {
		cmd.Dir = "/"
	}
	if s.agent {
		ag, err := s.newAgent(a)
		if err != nil {
			return s.refuse(errors.New("ssh: agent forwarding failed"))
		}
		defer ag.end()
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+ag.path)
	}
	if p := s.terminal(); p != nil {
		return s.onTerminal(cmd, p)
	}
	return s.onPipes(cmd)
}

// shell is the command of an account's shell: a login shell, or one for a line.
func shell(a *Account, w wish) *exec.Cmd {
	base := filepath.Base(a.Shell)
	cmd := &exec.Cmd{Path: a.Shell, Args: []string{"-" + base}}
	if w.kind != "shell" {
		cmd.Args = []string{base, "-c", w.text}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if int(a.UID) != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
	}
	return cmd
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// onTerminal runs a process on a terminal of its own.
func (s *session) onTerminal(cmd *exec.Cmd, p *PTY) tty.Exit {
	t, err := tty.Start(cmd, p.Term, p.Size, p.Modes)
	if err != nil {
		return s.startFailed(err)
	}
	defer func() { _ = t.Close() }() // it is read to the end, or the client is gone
	done := s.run(t)
	defer done()
	ended, stop := s.hangUp(t, func() { _ = t.Close() }) // a Read of it ends
	defer stop()
	s.goes(func() { _, _ = s.copy(t, s.ch) })
	var output sync.WaitGroup
	output.Add(1)
	s.goes(func() {
		defer output.Done()
		_, _ = s.copy(s.ch, t)
	})
	exit := t.Wait()
	ended()
	s.tell(exit)
	output.Wait()
	return exit
}

// startFailed tells the client that a process could not be started, and the log
// why.
func (s *session) startFailed(err error) tty.Exit {
	s.c.h.log().LogAttrs(s.ctx, slog.LevelWarn, "ssh start failed", slog.Any("id", printable.Text(s.c.grant.identity.ID)),
		slog.Any("err", printable.Text(err.Error())))
	return s.refuse(errors.New("ssh: the shell could not be started"))
}

// A pipes is the three pipes of a process. The first of each pair is ours.
type pipes struct{ in, out, err [2]*os.File }

func newPipes() (*pipes, error) {
	p := &pipes{}
	var e1, e2, e3 error
	p.in[1], p.in[0], e1 = os.Pipe()
	p.out[0], p.out[1], e2 = os.Pipe()
	p.err[0], p.err[1], e3 = os.Pipe()
	if err := errors.Join(e1, e2, e3); err != nil {
		p.close(0)
		p.close(1)
		return nil, err
	}
	growPipe(p.out[0])
	return p, nil
}

// close closes our ends, 0, or those of the process, 1.
func (p *pipes) close(side int) {
	for _, f := range []*os.File{p.in[side], p.out[side], p.err[side]} {
		if f != nil {
			_ = f.Close() // twice is harmless
		}
	}
}

// onPipes runs a process without a terminal. Its end is told at once; the
// channel stays while a child of it holds the output.
func (s *session) onPipes(cmd *exec.Cmd) tty.Exit {
	p, err := newPipes()
	if err != nil {
		return s.startFailed(err)
	}
	defer p.close(0)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in[1], p.out[1], p.err[1]
	err = cmd.Start()
	p.close(1)
	if err != nil {
		return s.startFailed(err)
	}
	g := &group{cmd: cmd}
	done := s.run(g)
	defer done()
	ended, stop := s.hangUp(g, func() { p.close(0) }) // reads and writes of them end
	defer stop()
	s.goes(func() {
		if _, err := s.copy(p.in[0], s.ch); err == io.EOF {
			_ = p.in[0].Close() // the process sees the end; one that was cut off sees SIGHUP before it
		}
	})
	var output sync.WaitGroup
	output.Add(2)
	s.goes(func() {
		defer output.Done()
		_, _ = s.copy(s.ch, p.out[0])
	})
	s.goes(func() {
		defer output.Done()
		_, _ = s.copy(s.ch.Stderr(), p.err[0])
	})
	exit := g.wait()
	ended()
	s.tell(exit)
	output.Wait()
	return exit
}

// hangUp ends a process whose channel goes away: SIGHUP to its group, and after
// a while SIGKILL if it is still there. free is called after the first, and also
// when the process has ended by then and others still have its output: a process
// must not take input that was cut off for whole. Of the functions that it
// returns, ended is called when the process has ended, stop when its output has.
func (s *session) hangUp(p runningThing, free func()) (ended func(), stop func() bool) {
	done := make(chan struct{})
	stop = context.AfterFunc(s.ctx, func() {
		_ = p.Signal("HUP") // it may have ended
		_ = p.Signal("CONT")
		free()
	})
	s.goes(func() {
		select {
		case <-done:
			return
		case <-s.ctx.Done():
		}
		delay := killDelay
		if s.isCut() {
			delay = cutDelay
		}
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			_ = p.Signal("KILL")
		}
	})
	return func() { close(done) }, stop
}

// copy moves what src says to dst.
func (s *session) copy(dst io.Writer, src io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[copyBytes]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			s.moved()
			w, werr := dst.Write(buf[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if err != nil {
			return total, err
		}
	}
}

// A group is a process that leads a session, without a terminal.
type group struct {
	cmd *exec.Cmd

	mu    sync.Mutex
	ended bool // guarded by mu; it was waited for, its id is no longer ours
}

// wait waits for the process, not for what else has its output.
func (g *group) wait() tty.Exit {
	if !waitid(g.cmd.Process.Pid) {
		_ = g.cmd.Wait() // how it ended is in its state
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	if g.cmd.ProcessState == nil {
		_ = g.cmd.Wait()
	}
	return tty.ExitOf(g.cmd.ProcessState)
}

// Signal sends a signal to the process and its group.
func (g *group) Signal(name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return os.ErrProcessDone
	}
	return unix.Kill(-g.cmd.Process.Pid, unix.SignalNum("SIG"+name))
}

func (g *group) Resize(tty.Size) error { return nil }
func (g *group) Break() error          { return errors.ErrUnsupported }
