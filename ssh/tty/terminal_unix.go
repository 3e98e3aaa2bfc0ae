//go:build unix

package tty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A Terminal is a process and the terminal that it runs on. Read is what the
// process prints, and Write is what it reads as typed. One goroutine may read
// while another writes; the other methods may be called at any time.
type Terminal struct {
	cmd    *exec.Cmd
	master *os.File
	tty    string

	waited sync.Once
	exit   Exit

	mu    sync.Mutex
	ended bool // guarded by mu; the process was waited for, its id is no longer ours
}

// Start starts cmd on a new terminal, as the leader of a session of its own.
// term becomes its TERM unless it is empty, SSH_TTY the terminal's name; modes are the terminal modes of RFC
// 4254, section 8, by opcode; what the system does not know is left out. The
// descriptors of cmd must not be set. Whoever called Start calls Wait and Close.
func Start(cmd *exec.Cmd, term string, size Size, modes map[uint8]uint32) (*Terminal, error) {
	master, slave, err := open()
	if err != nil {
		return nil, fmt.Errorf("tty: open: %w", err)
	}
	t := &Terminal{cmd: cmd, master: master, tty: slave.Name()}
	defer func() { _ = slave.Close() }() // the process has it
	if err := errors.Join(t.Resize(size), setModes(slave, modes), t.own(slave)); err != nil {
		_ = master.Close()
		return nil, fmt.Errorf("tty: set up: %w", err)
	}
	if term != "" {
		cmd.Env = append(cmd.Env, "TERM="+term)
	}
	cmd.Env = append(cmd.Env, "SSH_TTY="+t.tty)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		_ = master.Close()
		return nil, fmt.Errorf("tty: start: %w", err)
	}
	return t, nil
}

// open opens a terminal. The library leaves the master in blocking mode, where
// Close does not end a Read, so it is opened once more.
func open() (master, slave *os.File, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = blocking.Close() }() // there is a duplicate
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, nil, errors.Join(err, slave.Close())
	}
	return os.NewFile(uintptr(fd), blocking.Name()), slave, nil
}

// own gives the terminal to the account that the process runs as.
func (t *Terminal) own(slave *os.File) error {
	attr := t.cmd.SysProcAttr
	if attr == nil || attr.Credential == nil {
		return nil
	}
	return errors.Join(slave.Chown(int(attr.Credential.Uid), -1), slave.Chmod(0o620))
}

// drainTime is how long after the end of the process its terminal must have
// been silent to count as read to the end.
const drainTime = 50 * time.Millisecond

// Read reads what the process and its children print. It returns io.EOF when
// they have closed the terminal, or the process was waited for, and everything
// is read: a child in the background that keeps the terminal keeps no reader.
func (t *Terminal) Read(b []byte) (int, error) {
	for last := false; ; last = true {
		n, err := t.master.Read(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !last: // the process has ended: what is left?
			_ = t.master.SetReadDeadline(time.Now().Add(drainTime))
			continue
		case errors.Is(err, syscall.EIO), errors.Is(err, os.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			err = io.EOF // EIO is how Linux says that nobody has the other side
		}
		return n, err
	}
}

// Write types b.
func (t *Terminal) Write(b []byte) (int, error) { return t.master.Write(b) }

// Resize sets the size, of which the process hears by SIGWINCH.
func (t *Terminal) Resize(s Size) error {
	s = s.orDefault()
	return t.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols, Xpixel: s.XPixels, Ypixel: s.YPixels})
	})
}

// Break sends a break (RFC 4335).
func (t *Terminal) Break() error {
	return t.control(sendBreak)
}

// control runs f with the descriptor of the terminal.
func (t *Terminal) control(f func(fd int) error) error {
	rc, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// Signal sends a signal, such as "TERM", to the process and its group. It
// returns an error for a name that is none, or when the process has ended.
func (t *Terminal) Signal(name string) error {
	sig := unix.SignalNum("SIG" + name)
	if sig == 0 {
		return fmt.Errorf("tty: signal: %w", errors.ErrUnsupported)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return fmt.Errorf("tty: signal: %w", os.ErrProcessDone)
	}
	return unix.Kill(-t.cmd.Process.Pid, sig)
}

// Wait waits until the process has ended. Output may still be there to be read.
func (t *Terminal) Wait() Exit {
	t.waited.Do(func() {
		if !waitid(t.cmd.Process.Pid) {
			_ = t.cmd.Wait() // how it ended is in its state
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ended = true
		if t.cmd.ProcessState == nil {
			_ = t.cmd.Wait()
		}
		t.exit = ExitOf(t.cmd.ProcessState)
		_ = t.master.SetReadDeadline(time.Now()) // a Read that waits looks once more
	})
	return t.exit
}

// Close gives the terminal up: what is unread is lost and the processes that
// are left on it get SIGHUP.
func (t *Terminal) Close() error { return t.master.Close() }

// ExitOf is how a process ended.
func ExitOf(s *os.ProcessState) Exit {
	ws, ok := s.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		name := unix.SignalName(ws.Signal())
		if len(name) > len("SIG") {
			name = name[len("SIG"):]
		}
		return Exit{Signal: name, Core: ws.CoreDump()}
	}
	return Exit{Status: s.ExitCode()}
}
