package ssh

import (
	"errors"
	"net"
	"os"
	"path/filepath"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
)

// requestAgent permits the agent to the program that will be started.
func (s *session) requestAgent() bool {
	s.agent = !s.started && s.c.h.AllowAgent && !s.c.grant.noAgent && mayAgent(s.c.identity())
	return s.agent
}

// mayAgent reports whether id has ScopeAgent.
func mayAgent(id *alknet.Identity) bool {
	return alknet.AccessControl{RequiredScopes: []string{ScopeAgent}}.Check(id) == nil
}

// An agent is the socket behind which the client's agent is.
type agent struct {
	path    string
	dir     string
	l       net.Listener
	release func() // of the right to it
}

// newAgent makes a socket that only the account can reach, for as long as the
// program runs.
func (s *session) newAgent(a *Account) (*agent, error) {
	dir, err := os.MkdirTemp("", "alknet-agent-") // 0700
	if err != nil {
		return nil, err
	}
	ag := &agent{dir: dir, path: filepath.Join(dir, "agent.sock")}
	ag.l, err = net.Listen("unix", ag.path)
	if err == nil {
		err = os.Chmod(ag.path, 0o600)
	}
	if err == nil && int(a.UID) != os.Getuid() {
		err = errors.Join(os.Chown(ag.path, int(a.UID), int(a.GID)), os.Chown(dir, int(a.UID), int(a.GID)))
	}
	if err != nil {
		ag.close()
		return nil, err
	}
	release, ok := s.c.hold(&right{holds: mayAgent, cut: ag.close})
	if !ok {
		ag.close()
		return nil, errNoLonger
	}
	ag.release = release
	s.goes(func() { s.serveAgent(ag.l) })
	return ag, nil
}

// close ends the socket; connections to it have a right of their own. Twice is
// harmless.
func (ag *agent) close() {
	if ag.l != nil {
		_ = ag.l.Close() // it is given up
	}
	_ = os.RemoveAll(ag.dir) // what we made in it is all there is
}

// end ends it with the program.
func (ag *agent) end() {
	ag.release()
	ag.close()
}

// serveAgent opens a channel to the client's agent for each connection.
func (s *session) serveAgent(l net.Listener) {
	const kind = "auth-agent@openssh.com"
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		if why := s.c.take(false); why != "" {
			_ = nc.Close() // it is one too many
			continue
		}
		safe.Go(&s.c.wg, func(err error) { s.c.logPanic(err); _ = nc.Close() }, func() {
			defer s.c.give(false)
			release, ok := s.c.hold(&right{holds: mayAgent, cut: func() { _ = nc.Close() }}) // whoever uses it closes it again
			if !ok {
				_ = nc.Close() // it came too late
				return
			}
			defer release()
			ch, reqs, err := s.c.sc.OpenChannel(kind, nil)
			if err != nil {
				_ = nc.Close() // the client has no agent
				return
			}
			s.c.splice(kind, ch, reqs, nc)
		})
	}
}
