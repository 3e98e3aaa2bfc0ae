package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/alkdev/alknet/internal/printable"
)

// The bounds of the text of a policy.
const (
	maxPolicyBytes = 1 << 20
	maxRules       = 4096
	maxListed      = 256 // names, prefixes or port ranges of one rule
)

// errPolicy is wrapped by the errors of ParsePolicy.
var errPolicy = errors.New("forward: policy")

// ParsePolicy reads one rule a line:
//
//	ACTION WHO OP NETWORK TARGET [in PREFIX,…]
//
// ACTION is allow or deny. WHO is * for every peer, a scope, or peer:ID. OP is
// dial, listen or publish. NETWORK is tcp, udp, unix, name, several of these
// with commas, or * for all. TARGET on tcp, udp and * is HOST:PORTS, where HOST
// is a glob of names, an IPv4 address, an IPv6 address in brackets or *, and
// PORTS is numbers and ranges like 8000-8999 with commas, or *; on unix it is a
// glob of absolute paths, on name one of names. * alone is any target. A list of
// globs has commas. "in" restricts the addresses behind names. # begins a
// comment. An error names line and column.
func ParsePolicy(text string) (*Policy, error) {
	if len(text) > maxPolicyBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", errPolicy, maxPolicyBytes)
	}
	p := &Policy{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		fields := fieldsOf(line)
		if len(fields) == 0 {
			continue
		}
		if len(p.Rules) == maxRules {
			return nil, fmt.Errorf("%w: line %d: more than %d rules", errPolicy, number, maxRules)
		}
		r, at, err := parseRule(fields)
		if err != nil {
			return nil, fmt.Errorf("%w: line %d, column %d: %w", errPolicy, number, at, err)
		}
		p.Rules = append(p.Rules, r)
	}
	return p, nil
}

// A field is a word of a line and the column, from 1, at which it begins.
type field struct {
	text string
	col  int
}

// fieldsOf splits a line at blanks, without its comment.
func fieldsOf(line string) []field {
	line, _, _ = strings.Cut(strings.TrimRight(line, "\r\n"), "#")
	var list []field
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' {
			i++
			continue
		}
		end := i
		for end < len(line) && line[end] != ' ' && line[end] != '\t' {
			end++
		}
		list = append(list, field{line[i:end], i + 1})
		i = end
	}
	return list
}

// parseRule returns a rule, or what is wrong and in which column.
func parseRule(f []field) (r Rule, at int, err error) {
	const words = 5
	if len(f) != words && len(f) != words+2 {
		last := f[len(f)-1]
		return r, last.col, errors.New("want ACTION WHO OP NETWORK TARGET [in PREFIX,…]")
	}
	steps := []func(string) error{r.parseAction, r.parseWho, r.parseOp, r.parseNetworks, r.parseTarget}
	for i, step := range steps {
		if err := step(f[i].text); err != nil {
			return r, f[i].col, err
		}
	}
	if len(f) == words {
		return r, 0, nil
	}
	if f[words].text != "in" {
		return r, f[words].col, fmt.Errorf("%s stands where \"in\" should", printable.Quote(f[words].text))
	}
	if err := r.parseIn(f[words+1].text); err != nil {
		return r, f[words+1].col, err
	}
	return r, 0, nil
}

func (r *Rule) parseAction(s string) error {
	switch s {
	case "allow":
		r.Allow = true
	case "deny":
	default:
		return fmt.Errorf("%s is neither allow nor deny", printable.Quote(s))
	}
	return nil
}

func (r *Rule) parseWho(s string) error {
	if s == "*" {
		return nil
	}
	id, peer := strings.CutPrefix(s, "peer:")
	if !printableASCII(s) || peer && id == "" {
		return fmt.Errorf("%s is neither *, a scope nor peer:ID", printable.Quote(s))
	}
	r.Scope = s
	return nil
}

func (r *Rule) parseOp(s string) error {
	for _, op := range []Op{OpDial, OpListen, OpPublish} {
		if s == op.String() {
			r.Op = op
			return nil
		}
	}
	return fmt.Errorf("%s is none of dial, listen, publish", printable.Quote(s))
}

// networks are those that an operation has.
func (op Op) networks() []string {
	switch op {
	case OpDial:
		return []string{"tcp", "udp", "unix", "name"}
	case OpListen:
		return []string{"tcp", "unix"}
	}
	return []string{"name"}
}

func (r *Rule) parseNetworks(s string) error {
	if s == "*" {
		return nil
	}
	for n := range strings.SplitSeq(s, ",") {
		if !slices.Contains(r.Op.networks(), n) {
			return fmt.Errorf("%s has no network %s", r.Op, printable.Quote(n))
		}
		if slices.Contains(r.Networks, n) {
			return fmt.Errorf("network %s is named twice", n)
		}
		r.Networks = append(r.Networks, n)
	}
	_, err := r.hosts()
	return err
}

// hosts reports whether targets of the rule are hosts and ports.
func (r *Rule) hosts() (bool, error) {
	host, other := r.Networks == nil && r.Op != OpPublish, false
	for _, n := range r.Networks {
		if n == "tcp" || n == "udp" {
			host = true
		} else {
			other = true
		}
	}
	if host && other {
		return false, errors.New("hosts and paths have targets of different kinds: write two rules")
	}
	return host, nil
}

func (r *Rule) parseTarget(s string) error {
	hosts, err := r.hosts()
	if err != nil || s == "*" {
		return err
	}
	if !hosts {
		return r.parseGlobs(s, slices.Contains(r.Networks, "unix"))
	}
	host, ports, ok := cutLast(s, ':')
	if !ok {
		return fmt.Errorf("%s is not HOST:PORTS", printable.Quote(s))
	}
	if err := r.parsePorts(ports); err != nil {
		return err
	}
	if host == "*" {
		return nil
	}
	literal := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		literal = host[1 : len(host)-1]
		if !strings.Contains(literal, ":") {
			return errors.New("brackets are for IPv6 addresses")
		}
	} else if strings.Contains(host, ":") {
		return errors.New("an IPv6 address stands in brackets")
	}
	if a, err := netip.ParseAddr(literal); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return errors.New("an address has no zone here, and IPv4 has its own form")
		}
		r.In = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
		return nil
	}
	return r.parseGlobs(host, false)
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// parseGlobs reads names or paths.
func (r *Rule) parseGlobs(s string, paths bool) error {
	globs := strings.Split(s, ",")
	if len(globs) > maxListed {
		return fmt.Errorf("more than %d names", maxListed)
	}
	for _, g := range globs {
		if _, err := path.Match(g, ""); err != nil || g == "" || !printableASCII(g) {
			return fmt.Errorf("%s is no pattern", printable.Quote(g))
		}
		switch {
		case paths && !strings.HasPrefix(g, "/"):
			return fmt.Errorf("%s is no absolute path", printable.Quote(g))
		case !paths && strings.ContainsAny(g, "/:[]\\"):
			return fmt.Errorf("%s is no pattern of a name", printable.Quote(g))
		case !paths && g != strings.ToLower(g):
			return fmt.Errorf("%s: names are compared in lower case", printable.Quote(g))
		case !paths && strings.Trim(g, "0123456789.*?") == "" && g != "*":
			return fmt.Errorf("%s looks like addresses: write *:PORTS in PREFIX", printable.Quote(g))
		}
	}
	r.Name = s
	return nil
}

func (r *Rule) parsePorts(s string) error {
	if s == "*" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		from, err := parsePort(low)
		to := from
		if err == nil && isRange {
			to, err = parsePort(high)
		}
		if err != nil || to < from {
			return fmt.Errorf("%s is no port or range of ports", printable.Quote(part))
		}
		if len(r.Ports) == maxListed {
			return fmt.Errorf("more than %d ranges of ports", maxListed)
		}
		r.Ports = append(r.Ports, [2]uint16{from, to})
	}
	return nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("a port is a number from 1 to 65535")
	}
	return uint16(n), nil
}

func (r *Rule) parseIn(s string) error {
	hosts, err := r.hosts()
	switch {
	case err != nil:
		return err
	case !hosts:
		return errors.New("only hosts have addresses")
	case r.In != nil:
		return errors.New("the target is an address already")
	}
	for part := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(part)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("%s is no prefix such as 10.0.0.0/8", printable.Quote(part))
		}
		if len(r.In) == maxListed {
			return fmt.Errorf("more than %d prefixes", maxListed)
		}
		r.In = append(r.In, p)
	}
	return nil
}

func printableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}

// String is the text of the policy, one rule a line; [ParsePolicy] reads it.
func (p *Policy) String() string {
	var b strings.Builder
	for i := range p.Rules {
		b.WriteString(p.Rules[i].String())
		b.WriteByte('\n')
	}
	return b.String()
}

// String is the rule as a line of a policy has it.
func (r *Rule) String() string {
	action, who, networks := "deny", r.Scope, strings.Join(r.Networks, ",")
	if r.Allow {
		action = "allow"
	}
	if who == "" {
		who = "*"
	}
	if networks == "" {
		networks = "*"
	}
	s := action + " " + who + " " + r.Op.String() + " " + networks + " " + r.target()
	for i, p := range r.In {
		if i == 0 {
			s += " in "
		} else {
			s += ","
		}
		s += p.String()
	}
	return s
}

func (r *Rule) target() string {
	name := r.Name
	if name == "" {
		name = "*"
	}
	if hosts, err := r.hosts(); err != nil || !hosts || name == "*" && r.Ports == nil && r.In == nil {
		return name
	}
	if r.Ports == nil {
		return name + ":*"
	}
	var list []string
	for _, p := range r.Ports {
		s := strconv.Itoa(int(p[0]))
		if p[1] != p[0] {
			s += "-" + strconv.Itoa(int(p[1]))
		}
		list = append(list, s)
	}
	return name + ":" + strings.Join(list, ",")
}
