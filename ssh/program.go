package ssh

import (
	"errors"
	"io"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh/tty"
)

// Why nothing is run. The peer reads these.
var (
	errNeedsShell  = errors.New("denied: needs scope " + ScopeShell)
	errNoAccounts  = errors.New("denied: no shells and no free commands here")
	errNoSubsystem = errors.New("denied: no such subsystem")
)

// A wish is what a client asks to be run. A shell has no line; an empty line is
// a command that does nothing.
type wish struct {
	kind string // "exec", "shell" or "subsystem"
	text string // the line, or the name of the subsystem
}

// choose decides what a request runs, by what is in memory only. A line whose
// first word is registered runs that function, for every peer; anything else
// needs ScopeShell. A forced command takes the place of every wish.
func (s *session) choose(asked wish) (func() tty.Exit, error) {
	w := asked
	if s.c.grant.forced {
		w = wish{"exec", s.c.grant.command}
	}
	if w.kind == "subsystem" {
		serve := s.c.h.Subsystems[w.text]
		if serve == nil {
			return nil, errNoSubsystem
		}
		return func() tty.Exit { return s.subsystem(serve) }, nil
	}
	id := s.c.identity()
	if args, ok := splitLine(w.text); ok {
		if f := s.c.h.Commands[args[0]]; f != nil {
			return func() tty.Exit { return s.command(f, args, asked.text) }, nil
		}
	}
	if !mayShell(id) {
		return nil, errNeedsShell
	}
	switch {
	case w == wish{kind: "exec"}:
		return func() tty.Exit { return tty.Exit{} }, nil // and never a shell instead
	case s.c.h.Session != nil:
		return func() tty.Exit { return s.function(w.text) }, nil
	case s.c.h.Accounts == nil:
		return nil, errNoAccounts
	}
	return func() tty.Exit { return s.process(w, asked.text) }, nil
}

// mayShell reports whether id has ScopeShell.
func mayShell(id *alknet.Identity) bool {
	return alknet.AccessControl{RequiredScopes: []string{ScopeShell}}.Check(id) == nil
}

// asNow runs a function of the node by what the peer is now, and cuts it off when
// the peer has lost something that the function may have decided by.
func (s *session) asNow(need func(*alknet.Identity) bool, f func(id *alknet.Identity) int) tty.Exit {
	was := s.c.identity()
	id := *was // f may do with it what it likes
	id.Scopes, id.Resources = slices.Clone(was.Scopes), maps.Clone(was.Resources)
	for kind, entries := range id.Resources {
		id.Resources[kind] = slices.Clone(entries)
	}
	release, ok := s.c.hold(&right{
		holds: func(now *alknet.Identity) bool { return need(now) && stillHas(now, was) }, cut: s.cutOff,
	})
	if !ok {
		return s.refuse(errNoLonger)
	}
	defer release()
	return tty.Exit{Status: f(&id)}
}

// nothing is what a function needs that decides access itself.
func nothing(*alknet.Identity) bool { return true }

// subsystem serves one until it or the client is done.
func (s *session) subsystem(serve SubsystemFunc) tty.Exit {
	return s.asNow(nothing, func(id *alknet.Identity) int {
		if err := serve(s.ctx, &moving{s}, id); err != nil {
			return 1
		}
		return 0
	})
}

// command runs a registered function.
func (s *session) command(f CommandFunc, args []string, original string) tty.Exit {
	return s.asNow(nothing, func(id *alknet.Identity) int {
		return f(s.ctx, id, &exec.Cmd{
			Path: args[0], Args: args, Env: s.environ(nil, original), Stdin: &moving{s}, Stdout: &moving{s}, Stderr: s.ch.Stderr(),
		})
	})
}

// function runs Handler.Session.
func (s *session) function(line string) tty.Exit {
	return s.asNow(mayShell, func(id *alknet.Identity) int {
		return s.c.h.Session(s.ctx, &Session{
			ReadWriter: &moving{s}, Stderr: s.ch.Stderr(), Identity: *id, User: s.c.sc.User(), Command: line,
			Environ: slices.Clone(s.env), PTY: s.terminal(), Resizes: s.resizes, Signals: s.signals,
		})
	})
}

// moving is the session's channel, noting that something moves. Nothing does
// after the session has ended, such as for a client that has lost a right and
// keeps sending.
type moving struct{ s *session }

func (m *moving) Read(b []byte) (int, error) {
	m.s.moved()
	n, err := m.s.ch.Read(b)
	if m.s.ctx.Err() != nil {
		return 0, net.ErrClosed
	}
	return n, err
}

func (m *moving) Write(b []byte) (int, error) {
	m.s.moved()
	if m.s.ctx.Err() != nil {
		return 0, net.ErrClosed
	}
	return m.s.ch.Write(b)
}
func (m *moving) CloseWrite() error { return m.s.ch.CloseWrite() }
func (m *moving) Close() error      { return m.s.ch.Close() }

// The search paths of processes: the environment of the node reaches none.
const (
	userPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// environ is built from nothing. a is nil for functions, which run as the node.
func (s *session) environ(a *Account, original string) []string {
	env := slices.Clone(s.env) // what follows wins
	if a != nil {
		path := userPath
		if a.UID == 0 {
			path = rootPath
		}
		env = append(env, "HOME="+a.Home, "USER="+a.Name, "LOGNAME="+a.Name, "SHELL="+a.Shell, "PATH="+path)
	}
	id := s.c.identity()
	if !id.Peer.IsZero() {
		env = append(env, "ALKNET_PEER="+id.Peer.String())
	}
	if id.ID != "" && !strings.ContainsRune(id.ID, 0) {
		env = append(env, "ALKNET_IDENTITY="+id.ID)
	}
	env = append(env, "SSH_CONNECTION="+s.connectionText())
	if s.c.grant.forced && !strings.ContainsRune(original, 0) {
		env = append(env, "SSH_ORIGINAL_COMMAND="+original)
	}
	return env
}

// connectionText is "address port address port", as sshd has it.
func (s *session) connectionText() string {
	var parts []string
	for _, a := range []net.Addr{s.c.login.remote, s.c.nc.LocalAddr()} {
		host, port := "UNKNOWN", uint16(65535)
		if ap := addrPortOf(a); ap.Addr().IsValid() {
			host, port = ap.Addr().String(), ap.Port()
		}
		parts = append(parts, host, strconv.Itoa(int(port)))
	}
	return strings.Join(parts, " ")
}

// refuse says on the client's standard error why a program did not run.
func (s *session) refuse(why error) tty.Exit {
	_, _ = io.WriteString(s.ch.Stderr(), why.Error()+"\r\n") // the client may be gone
	return tty.Exit{Status: statusRefused}
}
