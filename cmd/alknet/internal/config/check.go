package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh/forward"
)

// peerID is the grammar of the ids of peers.
var peerID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// reserved ids mean something else where a peer is named.
var reserved = []string{"local", "any", "all", "self"}

// check judges values that have the right type.
func (l *loader) check() {
	f := l.f
	if f.Node != nil {
		l.checkNode(f.Node)
	}
	if f.Vault != nil {
		l.checkSecretRef("vault.unlock", f.Vault.Unlock)
	}
	if f.Log != nil {
		l.oneOf("log.level", f.Log.Level, "debug", "info", "warn", "error")
		l.oneOf("log.format", f.Log.Format, "text", "json")
	}
	for _, role := range slices.Sorted(maps.Keys(f.Roles)) {
		l.checkScopes("roles."+role, f.Roles[role])
	}
	l.checkPeers()
	l.checkServices()
	if f.Forward != nil && f.Forward.Policy != "" {
		if _, err := forward.ParsePolicy(f.Forward.Policy); err != nil {
			l.problem("forward.policy", "%v", err)
		}
	}
	l.checkLocal()
}

func (l *loader) checkNode(n *Node) {
	loopback := true
	for i, s := range n.Listen {
		addr, _, err := SplitListen(s)
		if err != nil {
			l.problem(element("node.listen", i), "%v", err)
			continue
		}
		loopback = loopback && IsLoopback(addr)
	}
	for i, s := range n.Advertise {
		if err := hostPort(s); err != nil {
			l.problem(element("node.advertise", i), "%v", err)
		}
	}
	if n.TestNamespace && (!loopback || n.Listen == nil) {
		l.problem("node.test_namespace", "the operations below test/ are for loopback only: set node.listen to addresses such as 127.0.0.1:4433")
	}
	for _, p := range []struct{ key, path string }{{"node.state", n.State}, {"node.control", n.Control}} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			l.problem(p.key, "%q is not an absolute path", p.path)
		}
	}
	if len(n.Control) > maxSocketPath {
		l.problem("node.control", "a socket's path has at most %d bytes, this one %d", maxSocketPath, len(n.Control))
	}
	l.notNegative("node.drain", int64(n.Drain))
}

func (l *loader) notNegative(key string, n int64) {
	if n < 0 {
		l.problem(key, "must not be negative")
	}
}

// checkScopes refuses what could not be a scope.
func (l *loader) checkScopes(key string, scopes []string) {
	for i, s := range scopes {
		if s == "" || strings.ContainsAny(s, " \t\r\n*") || !strings.Contains(s, ":") {
			l.problem(element(key, i), "%q is no scope: scopes are such as fs:read", s)
		}
	}
}

func (l *loader) checkPeers() {
	ids, keys := make(map[string]int), make(map[alknet.PeerID]string)
	for i := range l.f.Peer {
		p := &l.f.Peer[i]
		at := fmt.Sprintf("peer[%d]", i)
		switch {
		case p.ID == "":
			l.problem(at, "a peer needs an id")
		case !ValidPeerID(p.ID):
			l.problem(at+".id", "%q is no id of a peer: [a-z0-9][a-z0-9._-]{0,62}, and not local, any, all, self or alk_...", p.ID)
		}
		if first, twice := ids[p.ID]; twice && p.ID != "" {
			l.problem(at+".id", "%q is the id of peer[%d] too", p.ID, first)
		}
		ids[p.ID] = i
		if len(p.Keys) == 0 {
			l.warn(at, "peer %q has no key: nobody can be it", p.ID)
		}
		for j, text := range p.Keys {
			l.checkKey(fmt.Sprintf("%s.keys[%d]", at, j), text, p.ID, keys)
		}
		l.checkPeerLists(at, p)
	}
}

func (l *loader) checkKey(key, text, owner string, keys map[alknet.PeerID]string) {
	id, err := alknet.ParsePeerID(text)
	if err != nil {
		l.problem(key, "%v", err)
		return
	}
	if other, taken := keys[id]; taken {
		l.problem(key, "the key belongs to peer %q already", other)
	}
	keys[id] = owner
}

func (l *loader) checkPeerLists(at string, p *Peer) {
	l.checkScopes(at+".scopes", p.Scopes)
	for j, r := range p.Roles {
		if _, ok := l.f.Roles[r]; !ok {
			l.problem(element(at+".roles", j), "there is no role %q", r).Suggestion = Nearest(r, slices.Sorted(maps.Keys(l.f.Roles)))
		}
	}
	for j, a := range p.Addrs {
		if err := hostPort(a); err != nil {
			l.problem(element(at+".addrs", j), "%v", err)
		}
	}
	for j, op := range p.Import {
		if op == "" || strings.ContainsAny(op, " @") {
			l.problem(element(at+".import", j), `%q names no operations: write a name or a glob such as "box/*"`, op)
		}
	}
}

func (l *loader) checkServices() {
	f := l.f
	if f.Call != nil {
		l.checkService("call", f.Call.Service, "quic", "raw")
		l.checkCallLimits()
	}
	if f.SSH != nil {
		l.checkService("ssh", f.SSH.Service, "quic", "mux")
		l.oneOf("ssh.accounts", f.SSH.Accounts, "own", "system")
		l.checkSSHListeners(f.SSH)
	}
	if f.Tunnel != nil {
		l.checkService("tunnel", f.Tunnel.Service, "quic", "mux")
	}
	if f.Pair != nil {
		l.checkOver("pair", f.Pair.Over, "quic", "raw")
	}
	if f.Graph != nil {
		for i, glob := range f.Graph.Connect {
			if _, err := filepath.Match(glob, ""); err != nil || glob == "" {
				l.problem(element("graph.connect", i), "%q is no glob of peer ids", glob)
			}
		}
	}
	if f.Graph != nil && f.Call == nil {
		l.warn("graph", "without [call] no peer can attach to this node")
	}
	if f.Tunnel != nil && f.Forward == nil {
		l.warn("tunnel", "without [forward] every request is refused")
	}
}

// checkSSHListeners judges what concerns clients that speak SSH to a port.
func (l *loader) checkSSHListeners(s *SSH) {
	for i, a := range s.Listen {
		if err := hostPort(a); err != nil {
			l.problem(element("ssh.listen", i), "%v", err)
		}
	}
	for _, f := range []struct{ key, path string }{{"ssh.authorized_keys", s.AuthorizedKeys}, {"ssh.revoked_keys", s.RevokedKeys}} {
		switch {
		case f.path == "":
		case !filepath.IsAbs(f.path):
			l.problem(f.key, "%q is not an absolute path", f.path)
		case len(s.Listen) == 0:
			l.warn(f.key, "without ssh.listen nobody logs in with a key")
		}
	}
}

func (l *loader) checkCallLimits() {
	const most = 64 << 20
	if n := l.f.Call.Limits.MaxFrameBytes; n > most {
		l.problem("call.limits.max_frame_bytes", "a frame has at most 64 MiB")
	}
}

func (l *loader) checkService(section string, s Service, over ...string) {
	l.checkOver(section, s.Over, over...)
	l.checkScopes(section+".access.required_scopes", s.Access.RequiredScopes)
	l.checkScopes(section+".access.required_scopes_any", s.Access.RequiredScopesAny)
}

func (l *loader) checkOver(section string, over []string, known ...string) {
	for i, o := range over {
		if !slices.Contains(known, o) {
			l.problem(element(section+".over", i), "%q is not one of %s", o, strings.Join(known, ", ")).Suggestion = Nearest(o, known)
		}
	}
}

// Transports are the ones that a list names; 0 for an empty list.
func Transports(over []string) (t alknet.Transport) {
	for _, o := range over {
		switch o {
		case "quic":
			t |= alknet.QUIC
		case "mux":
			t |= alknet.Mux
		case "raw":
			t |= alknet.Raw
		}
	}
	return t
}

// checkLocal judges the sections that open local sockets.
func (l *loader) checkLocal() {
	if s := l.f.Socks; s != nil {
		if s.Listen == "" {
			l.problem("socks", "listen is missing: write one such as \"127.0.0.1:1080\"")
		} else if err := hostPort(s.Listen); err != nil {
			l.problem("socks.listen", "%v", err)
		} else if !IsLoopback(s.Listen) {
			l.problem("socks.listen", "the proxy asks nobody who they are: only loopback addresses")
		}
		if s.Peer == "" {
			l.problem("socks", "peer is missing: the id of the peer through which it dials")
		}
	}
	if a := l.f.Admin; a != nil {
		path, unix := strings.CutPrefix(a.Listen, "unix:")
		switch err := hostPort(a.Listen); {
		case a.Listen == "":
			l.problem("admin", "listen is missing: write one such as \"127.0.0.1:9464\"")
		case unix && !filepath.IsAbs(path):
			l.problem("admin.listen", "%q is not an absolute path", path)
		case unix && len(path) > maxSocketPath:
			l.problem("admin.listen", "a socket's path has at most %d bytes, this one %d", maxSocketPath, len(path))
		case unix:
		case err != nil:
			l.problem("admin.listen", "%v", err)
		case !IsLoopback(a.Listen):
			l.problem("admin.listen", "it answers everybody in the clear: only loopback addresses and unix:PATH")
		}
	}
}

func (l *loader) oneOf(key, value string, known ...string) {
	if value != "" && !slices.Contains(known, value) {
		l.problem(key, "%q is not one of %s", value, strings.Join(known, ", ")).Suggestion = Nearest(value, known)
	}
}

// maxSocketPath is what every system takes as the path of a unix socket.
const maxSocketPath = 100

func element(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// ValidPeerID reports whether id may name a peer.
func ValidPeerID(id string) bool {
	return peerID.MatchString(id) && !slices.Contains(reserved, id) && !strings.HasPrefix(id, "alk_")
}

// SplitListen reads one of node.listen: the address, and "udp", "tcp", "systemd"
// or "" for UDP and TCP.
func SplitListen(s string) (addr, kind string, err error) {
	for _, k := range []string{"udp", "tcp", "systemd"} {
		if rest, ok := strings.CutPrefix(s, k+":"); ok {
			if k == "systemd" {
				if rest == "" {
					return "", k, fmt.Errorf("%q names no sockets", s)
				}
				return rest, k, nil
			}
			return rest, k, hostPort(rest)
		}
	}
	return s, "", hostPort(s)
}

func hostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf(`%q is no address: want HOST:PORT, such as "127.0.0.1:4433" or ":4433"`, s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port from 0 to 65535", s)
	} else if strings.ContainsAny(host, " /%") && n <= 65535 {
		return fmt.Errorf("%q has no host", s)
	}
	return nil
}

// IsLoopback reports whether nobody outside this machine reaches an address
// HOST:PORT.
func IsLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
