package forward

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/alkdev/alknet"
)

// The scopes without which a peer may do nothing here, whatever the rules say.
const (
	ScopeDial   = "ssh:forward" // to dial
	ScopeListen = "ssh:listen"  // to listen and to publish
)

// An Op is what a peer asks for.
type Op uint8

// The operations.
const (
	OpDial    Op = iota + 1 // connect to an address, a socket or a published name
	OpListen                // accept connections for the peer
	OpPublish               // offer a name that other peers dial
)

// String is the name that rules use.
func (op Op) String() string {
	switch op {
	case OpDial:
		return "dial"
	case OpListen:
		return "listen"
	case OpPublish:
		return "publish"
	}
	return "none"
}

// scope is what a peer needs before a rule is read.
func (op Op) scope() string {
	if op == OpDial {
		return ScopeDial
	}
	return ScopeListen
}

// A Policy is a list of rules. The first that matches decides; if none does,
// the request is denied.
type Policy struct {
	Rules []Rule // in order; a Policy in use is not to be changed
}

// A Rule allows or denies what it matches.
type Rule struct {
	// Allow is the decision.
	Allow bool
	// Scope is who is meant: "" every peer, else a scope that the identity must
	// hold, or "peer:ID".
	Scope string
	// Op is the operation.
	Op Op
	// Networks are "tcp", "udp", "unix", "name". Nil: all.
	Networks []string
	// Name holds globs, separated by commas, of which one must match the name
	// that was asked for, the path of a socket, or a published name. * matches
	// any run of characters but a slash. "" matches everything; anything else
	// never matches an address that was asked for as such.
	Name string
	// In holds prefixes of which one must contain the address. Nil means, for a
	// rule that allows, the public internet to dial and loopback to listen; for
	// one that denies, any address. A rule that denies matches if Name or In does.
	In []netip.Prefix
	// Ports are ranges, both ends included. Nil: any port.
	Ports [][2]uint16
}

// A query is one thing that a peer wants.
type query struct {
	op      Op
	network string
	name    string       // in lower case; "" for an address that was asked for as such
	port    uint16       // of tcp and udp; for listen 0 is any
	addr    netip.Addr   // un-mapped; invalid: not known yet, or none
	other   netip.Addr   // of a listener on every address of both families
	ranges  *[][2]uint16 // set to the ports of the rule that allowed port 0
}

// addressed reports whether the network has addresses and ports.
func (q *query) addressed() bool { return q.network == "tcp" || q.network == "udp" }

// A verdict is what a policy says. rule counts from 1; 0 is the default.
type verdict struct {
	allow bool
	rule  int
	why   string // scope of the rule, or the reason of the default
}

// judge applies the rules. Without an address it says whether some address
// could be allowed, so that nothing is looked up in vain.
func (p *Policy) judge(id *alknet.Identity, q query) verdict {
	if err := (alknet.AccessControl{RequiredScopes: []string{q.op.scope()}}).Check(id); err != nil {
		return verdict{why: "needs scope " + q.op.scope()}
	}
	if p == nil {
		return verdict{why: "no policy"}
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Op != q.op || !r.who(id) || !r.on(q.network) || !r.covers(q) {
			continue
		}
		if r.Allow {
			if why := p.embedded(id, q, r); why != "" {
				return verdict{rule: i + 1, why: why}
			}
		}
		return verdict{allow: r.Allow, rule: i + 1, why: r.whoText()}
	}
	return verdict{why: "no rule allows it"}
}

// judgeFlow judges what is open, or about to be, for id.
func (p *Policy) judgeFlow(id *alknet.Identity, f *flow) verdict {
	v := p.judge(id, f.q)
	if v.allow && f.q.other.IsValid() {
		q := f.q
		q.addr = q.other
		v = p.judge(id, q)
	}
	return v
}

// embedded judges the IPv4 addresses that hide in an IPv6 one: each must pass
// as if it had been asked for.
func (p *Policy) embedded(id *alknet.Identity, q query, r *Rule) string {
	if !q.addr.IsValid() {
		return ""
	}
	for _, inner := range embeddedIPv4(q.addr) {
		in := q
		in.addr = inner
		if v := p.judge(id, in); !v.allow {
			return "the IPv4 address inside is not allowed"
		}
	}
	return ""
}

// who reports whether the rule is about a peer.
func (r *Rule) who(id *alknet.Identity) bool {
	if r.Scope == "" {
		return true
	}
	if peer, ok := strings.CutPrefix(r.Scope, "peer:"); ok {
		return id.ID == peer
	}
	return slices.Contains(id.Scopes, r.Scope)
}

func (r *Rule) whoText() string {
	if r.Scope == "" {
		return "*"
	}
	return r.Scope
}

// on reports whether the rule is about a network.
func (r *Rule) on(network string) bool {
	return r.Networks == nil || slices.Contains(r.Networks, network)
}

// covers reports whether what is asked for is what the rule names.
func (r *Rule) covers(q query) bool {
	if !q.addressed() {
		return r.Ports == nil && r.In == nil && matchName(r.Name, q.name)
	}
	if !r.coversPort(q) {
		return false
	}
	if r.Allow {
		return matchName(r.Name, q.name) && r.coversAddr(q)
	}
	switch {
	case r.Name == "" && r.In == nil:
		return true
	case r.Name != "" && matchName(r.Name, q.name):
		return true
	}
	return q.addr.IsValid() && contains(r.In, q.addr)
}

func (r *Rule) coversPort(q query) bool {
	if r.Ports == nil {
		return true
	}
	if q.op == OpListen && q.port == 0 {
		if r.Allow && q.ranges != nil {
			*q.ranges = r.Ports
		}
		return r.Allow // a rule that denies some ports does not deny any free one
	}
	return slices.ContainsFunc(r.Ports, func(p [2]uint16) bool { return p[0] <= q.port && q.port <= p[1] })
}

// coversAddr is for rules that allow.
func (r *Rule) coversAddr(q query) bool {
	switch {
	case !q.addr.IsValid():
		return true // to be judged when the address is known
	case r.In == nil && q.op == OpListen:
		return q.addr.IsLoopback()
	case r.In == nil:
		return public(q.addr)
	case q.op == OpListen && q.addr.IsUnspecified():
		return slices.Contains(r.In, netip.PrefixFrom(q.addr, 0))
	}
	return allows(r.In, q.addr)
}

// matchName reports whether a name matches one of the globs. An address that was
// asked for as such has no name.
func matchName(globs, name string) bool {
	if globs == "" {
		return true
	}
	if name == "" {
		return false
	}
	for glob := range strings.SplitSeq(globs, ",") {
		if ok, err := path.Match(glob, name); ok && err == nil {
			return true
		}
	}
	return false
}
