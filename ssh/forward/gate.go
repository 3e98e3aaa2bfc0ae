package forward

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/netguard"
)

const (
	defaultMaxFlows    = 256
	defaultDialTimeout = 10 * time.Second
	maxName            = 253 // bytes of a host name
	maxPath            = 512 // bytes of the path of a socket
)

// A Decision is what the policy says of one address, path or name.
type Decision struct {
	Op      Op             // what was asked for
	Network string         // "tcp", "udp", "unix" or "name"
	Address string         // as it was asked for
	Addr    netip.AddrPort // that was judged; zero for unix and name
	Allow   bool           // the decision
	Rule    int            // that decided, from 1; 0: the default
	Reason  string         // the scope of the rule, or why the default holds
}

// A Gate does what its policy allows: it resolves, judges each address and dials
// that very address. The zero value denies everything. The fields are not to be
// changed once it is used; all methods may be called concurrently.
//
// What it has opened is judged again when the policy changes and, where the
// context of the request belongs to a connection of the peer
// ([alknet.ConnFromContext]), when the peer's identity does: what is no longer
// allowed is cut before [alknet.Router.Reauthenticate] returns. Of an identity
// that does not come from the connection only its user knows when it changes.
type Gate struct {
	// Resolver looks names up, once each. Nil: net.DefaultResolver.
	Resolver *net.Resolver
	// DialTimeout is for all of a dial: looking up and connecting. 0: 10 s;
	// negative: none but the context's.
	DialTimeout time.Duration
	// MaxFlows is how many connections and listeners one identity may have open.
	// 0: 256; negative: no limit.
	MaxFlows int
	// Audit is told every decision on a request, with its destination, before
	// the request goes on. It is the only place that is. Nil: nobody.
	Audit func(ctx context.Context, id *alknet.Identity, d Decision)
	// Logger gets changes of the policy and what they cut. Nil: silent.
	Logger *slog.Logger

	mu     sync.Mutex
	policy *Policy                  // guarded by mu
	flows  map[*flow]struct{}       // guarded by mu
	counts map[string]int           // guarded by mu; flows by identity
	conns  map[*alknet.Conn]*holder // guarded by mu; whose peers have flows
}

func (g *Gate) log() *slog.Logger {
	if g.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return g.Logger
}

// DialContext connects to address on network: "host:port" on tcp and udp, an
// absolute path on unix. The error is an *[Error]. Whoever called it closes the
// connection, which has CloseWrite where the network does.
func (g *Gate) DialContext(ctx context.Context, id *alknet.Identity, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "udp":
		return g.dialHost(ctx, id, network, address)
	case "unix":
		return g.dialUnix(ctx, id, address)
	}
	return nil, &Error{Code: CodeCommand, Reason: "unknown network"}
}

// Listen accepts connections for id on address: "ip:port" on tcp, where an empty
// host is every address and port 0 a free port that the rule allows, an absolute
// path on unix, where nothing must exist yet. The error is an *[Error]. Whoever
// called it closes the listener and what it accepted.
func (g *Gate) Listen(ctx context.Context, id *alknet.Identity, network, address string) (net.Listener, error) {
	switch network {
	case "tcp":
		return g.listenTCP(ctx, id, address)
	case "unix":
		return g.listenUnix(ctx, id, address)
	}
	return nil, &Error{Code: CodeCommand, Reason: "unknown network"}
}

// Admit judges a request that the caller fulfils itself, such as the use of a
// published name, and counts it as a flow until release is called, once. cut is
// called, at most once and from any goroutine, when a new policy or identity no
// longer allows it; it must not wait. The error is an *[Error].
func (g *Gate) Admit(ctx context.Context, id *alknet.Identity, op Op, name string, cut func()) (release func(), err error) {
	q := query{op: op, network: "name", name: name}
	if err := g.decide(ctx, id, q, name); err != nil {
		return nil, err
	}
	f := newFlow(ctx, id, q, cut)
	if err := g.open(f); err != nil {
		return nil, err
	}
	return func() { g.release(f) }, nil
}

// Explain says what would be decided, and does nothing but look a name up. One
// Decision for each address.
func (g *Gate) Explain(ctx context.Context, id *alknet.Identity, op Op, network, address string) ([]Decision, error) {
	decide := func(q query) Decision {
		v := g.judge(id, q)
		return decision(q, address, v)
	}
	q := query{op: op, network: network}
	switch network {
	case "tcp", "udp":
	case "unix":
		resolved, _, err := resolvePath(op, address)
		if err != nil {
			return nil, err
		}
		q.name = resolved
		return []Decision{decide(q)}, nil
	case "name":
		q.name = address
		return []Decision{decide(q)}, nil
	default:
		return nil, &Error{Code: CodeCommand, Reason: "unknown network"}
	}
	host, err := splitTarget(&q, address)
	if err != nil {
		return nil, err
	}
	if q.addr.IsValid() || op == OpListen {
		return []Decision{decide(q)}, nil
	}
	if d := decide(q); !d.Allow {
		return []Decision{d}, nil
	}
	ips, lerr := cmp.Or(g.Resolver, net.DefaultResolver).LookupNetIP(ctx, "ip", host)
	if lerr != nil {
		return nil, dialError(lerr)
	}
	var list []Decision
	for _, ip := range ips {
		q.addr = ip.Unmap()
		list = append(list, decide(q))
	}
	return list, nil
}

// judge applies the policy of the moment.
func (g *Gate) judge(id *alknet.Identity, q query) verdict {
	g.mu.Lock()
	p := g.policy
	g.mu.Unlock()
	return p.judge(id, q)
}

// decide judges a request and tells the audit.
func (g *Gate) decide(ctx context.Context, id *alknet.Identity, q query, asked string) error {
	v := g.judge(id, q)
	if g.Audit != nil {
		g.Audit(ctx, id, decision(q, asked, v))
	}
	if !v.allow {
		return denied(v)
	}
	return nil
}

func decision(q query, asked string, v verdict) Decision {
	d := Decision{Op: q.op, Network: q.network, Address: asked, Allow: v.allow, Rule: v.rule, Reason: v.why}
	if q.addr.IsValid() {
		d.Addr = netip.AddrPortFrom(q.addr, q.port)
	}
	return d
}

// splitTarget reads "host:port" into q and returns the host.
func splitTarget(q *query, address string) (string, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil || len(host) > maxName {
		return "", &Error{Code: CodeAddress, Reason: "want host:port"}
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 && q.op == OpDial {
		return "", &Error{Code: CodeAddress, Reason: "a port is a number from 1 to 65535"}
	}
	q.port = uint16(port)
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return "", &Error{Code: CodeAddress, Reason: "an address with a zone"}
		}
		q.addr = ip.Unmap()
		return host, nil
	}
	if q.op == OpListen {
		if host != "" {
			return "", &Error{Code: CodeAddress, Reason: "only an IP address can be listened on"}
		}
		return "", nil
	}
	q.name = strings.TrimSuffix(strings.ToLower(host), ".")
	if q.name == "" {
		return "", &Error{Code: CodeAddress, Reason: "no host"}
	}
	return host, nil
}

// dialHost dials tcp or udp. The policy is asked before a name is looked up, so
// that the resolver is not a way out, and then for each address.
func (g *Gate) dialHost(ctx context.Context, id *alknet.Identity, network, address string) (net.Conn, error) {
	q := query{op: OpDial, network: network}
	if _, err := splitTarget(&q, address); err != nil {
		return nil, err
	}
	if !q.addr.IsValid() {
		if v := g.judge(id, q); !v.allow {
			return nil, g.decide(ctx, id, q, address)
		}
	}
	d := &netguard.Dialer{Resolver: g.Resolver, Timeout: cmp.Or(g.DialTimeout, defaultDialTimeout)}
	d.Allow = func(ctx context.Context, _, _ string, addr netip.AddrPort) error {
		judged := q
		judged.addr = addr.Addr()
		return g.decide(ctx, id, judged, address)
	}
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		if e := new(Error); !errors.As(err, &e) && errors.Is(err, netguard.ErrRefused) {
			return nil, &Error{Code: CodeAddress, Reason: "not a host and a port", Err: err}
		}
		return nil, dialError(err)
	}
	q.addr = addrOf(nc.RemoteAddr())
	return g.track(ctx, id, q, nc)
}

// dialUnix dials a socket by its path without symbolic links.
func (g *Gate) dialUnix(ctx context.Context, id *alknet.Identity, address string) (net.Conn, error) {
	resolved, found, err := resolvePath(OpDial, address)
	if err != nil {
		return nil, err
	}
	q := query{op: OpDial, network: "unix", name: resolved}
	if err := g.decide(ctx, id, q, address); err != nil {
		return nil, err
	}
	if !found {
		return nil, &Error{Code: CodeHostUnreachable, Reason: "no such socket"}
	}
	d := net.Dialer{Timeout: max(cmp.Or(g.DialTimeout, defaultDialTimeout), 0)}
	nc, derr := d.DialContext(ctx, "unix", resolved)
	if derr != nil {
		return nil, dialError(derr)
	}
	return g.track(ctx, id, q, nc)
}

// resolvePath is the path of a socket without symbolic links. A path that is
// missing is judged as it was asked for, so that it looks like one that no rule
// allows, and then not found.
func resolvePath(op Op, address string) (resolved string, found bool, err error) {
	if !filepath.IsAbs(address) || len(address) > maxPath || strings.ContainsRune(address, 0) {
		return "", false, &Error{Code: CodeAddress, Reason: "want the absolute path of a socket"}
	}
	clean := filepath.Clean(address)
	base := ""
	exists := clean
	if op == OpListen {
		exists, base = filepath.Dir(clean), filepath.Base(clean)
	}
	if exists, err = filepath.EvalSymlinks(exists); err != nil {
		return clean, false, nil
	}
	return filepath.Join(exists, base), true, nil
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
