package forward

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alkdev/alknet"
)

// bob may dial and listen as far as the rules go.
var bob = &alknet.Identity{ID: "bob", Scopes: []string{ScopeDial, ScopeListen, "ssh:forward:db"}}

func mustPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy(text)
	require.NoError(t, err)
	return p
}

// asks is a query in one line: "dial tcp name 443 10.1.1.1"; - is no name or address.
func asks(t testing.TB, s string) query {
	t.Helper()
	f := strings.Fields(s)
	require.Len(t, f, 5, s)
	q := query{network: f[1]}
	for _, op := range []Op{OpDial, OpListen, OpPublish} {
		if op.String() == f[0] {
			q.op = op
		}
	}
	if f[2] != "-" {
		q.name = f[2]
	}
	if f[3] != "-" {
		p, err := netip.ParseAddrPort("1.1.1.1:" + f[3])
		require.NoError(t, err)
		q.port = p.Port()
	}
	if f[4] != "-" {
		q.addr = netip.MustParseAddr(f[4])
	}
	return q
}

const example = `
# ACTION WHO OP NETWORK TARGET [in PREFIX,…]
deny  *                dial    *    *:25
allow ssh:forward      dial    tcp  *.corp.example:443,8443 in 10.0.0.0/8
allow ssh:forward      dial    tcp  *:80,443
allow ssh:forward:db   dial    tcp  127.0.0.1:5432
allow peer:worker-a    dial    unix /run/app/*.sock
allow ssh:listen       listen  tcp  127.0.0.1:8000-8999
allow ssh:listen       publish name grafana,ci-*
allow ssh:forward      dial    name grafana
`

func TestPolicyDecides(t *testing.T) {
	p := mustPolicy(t, example)
	worker := &alknet.Identity{ID: "worker-a", Scopes: []string{ScopeDial}}
	tests := []struct {
		who  *alknet.Identity
		asks string
		rule int
		ok   bool
	}{
		{bob, "dial tcp mail.example 25 8.8.8.8", 1, false},
		{bob, "dial udp - 25 8.8.8.8", 1, false},
		{bob, "dial tcp db.corp.example 443 10.1.2.3", 2, true},
		{bob, "dial tcp db.corp.example 443 8.8.8.8", 3, true},
		{bob, "dial tcp db.corp.example 8443 8.8.8.8", 0, false},
		{bob, "dial tcp x.example 80 10.1.2.3", 0, false},
		{bob, "dial tcp x.example 80 127.0.0.1", 0, false},
		{bob, "dial tcp x.example 80 169.254.169.254", 0, false},
		{bob, "dial tcp x.example 80 ::1", 0, false},
		{bob, "dial tcp x.example 80 2606:4700::1", 3, true},
		{bob, "dial tcp - 5432 127.0.0.1", 4, true},
		{bob, "dial tcp localhost 5432 127.0.0.1", 4, true},
		{bob, "dial tcp - 5433 127.0.0.1", 0, false},
		{bob, "dial udp - 5432 127.0.0.1", 0, false},
		{worker, "dial tcp - 5432 127.0.0.1", 0, false},
		{worker, "dial unix /run/app/a.sock - -", 5, true},
		{worker, "dial unix /run/app/x/a.sock - -", 0, false},
		{bob, "dial unix /run/app/a.sock - -", 0, false},
		{bob, "listen tcp - 8000 127.0.0.1", 6, true},
		{bob, "listen tcp - 0 127.0.0.1", 6, true},
		{bob, "listen tcp - 9000 127.0.0.1", 0, false},
		{bob, "listen tcp - 8000 0.0.0.0", 0, false},
		{bob, "listen tcp - 8000 ::1", 0, false},
		{worker, "listen tcp - 8000 127.0.0.1", 0, false},
		{bob, "publish name grafana - -", 7, true},
		{bob, "publish name ci-7 - -", 7, true},
		{bob, "publish name other - -", 0, false},
		{bob, "dial name grafana - -", 8, true},
		{bob, "dial name ci-7 - -", 0, false},
	}
	for _, tt := range tests {
		v := p.judge(tt.who, asks(t, tt.asks))
		require.Equal(t, tt.ok, v.allow, "%s %s: %+v", tt.who.ID, tt.asks, v)
		require.Equal(t, tt.rule, v.rule, "%s %s", tt.who.ID, tt.asks)
	}
}

func TestNothingIsAllowedWithoutScopeOrPolicy(t *testing.T) {
	everything := mustPolicy(t, "allow * dial * *\nallow * dial tcp *:* in 0.0.0.0/0,::/0\nallow * listen tcp *:* in 0.0.0.0/0\nallow * publish name *")
	for _, id := range []*alknet.Identity{nil, {}, {ID: "eve"}, {ID: "eve", Scopes: []string{"ssh:shell"}}} {
		for _, q := range []string{"dial tcp - 80 8.8.8.8", "dial unix /x - -", "listen tcp - 80 127.0.0.1", "publish name x - -"} {
			require.False(t, everything.judge(id, asks(t, q)).allow, q)
		}
	}
	require.True(t, everything.judge(bob, asks(t, "dial tcp - 80 127.0.0.1")).allow)
	var none *Policy
	require.False(t, none.judge(bob, asks(t, "dial tcp - 80 8.8.8.8")).allow)
	require.False(t, new(Policy).judge(bob, asks(t, "dial tcp - 80 8.8.8.8")).allow)
}

func TestDenyMatchesNameOrAddress(t *testing.T) {
	p := mustPolicy(t, "deny * dial tcp *.secret.example:* in 10.0.0.0/8\nallow * dial tcp *:* in 0.0.0.0/0")
	require.False(t, p.judge(bob, asks(t, "dial tcp a.secret.example 80 8.8.8.8")).allow, "by name")
	require.False(t, p.judge(bob, asks(t, "dial tcp other.example 80 10.0.0.1")).allow, "by address")
	require.True(t, p.judge(bob, asks(t, "dial tcp other.example 80 8.8.8.8")).allow)
}

func TestAddressesThatHideIPv4(t *testing.T) {
	wide := mustPolicy(t, "allow * dial tcp *:* in ::/0,0.0.0.0/0")
	for _, a := range []string{"64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:808:808::", "::127.0.0.1", "::8.8.8.8"} {
		require.False(t, wide.judge(bob, asks(t, "dial tcp - 80 "+a)).allow, "%s: ::/0 does not name it", a)
	}
	require.True(t, wide.judge(bob, asks(t, "dial tcp - 80 ::1")).allow)
	named := mustPolicy(t, "allow * dial tcp *:* in 64:ff9b::/96,64:ff9b:1::/48,2002::/16,::/96,8.0.0.0/8\n")
	for _, a := range []string{"64:ff9b::808:808", "64:ff9b:1::808:808", "64:ff9b:1:808:8:800::", "2002:808:808::1", "::8.8.8.8"} {
		require.True(t, named.judge(bob, asks(t, "dial tcp - 80 "+a)).allow, a)
	}
	for _, a := range []string{"64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "64:ff9b:1:7f00:0:100::", "64:ff9b:1:7f00:0:100:808:808", "2002:7f00:1::8", "::127.0.0.1"} {
		require.False(t, named.judge(bob, asks(t, "dial tcp - 80 "+a)).allow, a)
	}
	deny := mustPolicy(t, "deny * dial tcp *:* in 8.8.8.8/32\nallow * dial tcp *:* in 64:ff9b::/96,8.0.0.0/8")
	require.False(t, deny.judge(bob, asks(t, "dial tcp - 80 64:ff9b::808:808")).allow, "what is denied as IPv4 is denied inside")
}

func TestListenOnEveryAddressNeedsARuleThatSaysSo(t *testing.T) {
	for text, want := range map[string][2]bool{
		"allow * listen tcp *:*":                                 {false, false},
		"allow * listen tcp *:* in 10.0.0.0/8":                   {false, false},
		"allow * listen tcp *:* in 0.0.0.0/8":                    {false, false},
		"allow * listen tcp *:* in 0.0.0.0/0":                    {true, false},
		"allow * listen tcp *:* in ::/0":                         {false, true},
		"deny * listen tcp *:22\nallow * listen tcp *:* in ::/0": {false, true},
	} {
		p := mustPolicy(t, text)
		require.Equal(t, want[0], p.judge(bob, asks(t, "listen tcp - 80 0.0.0.0")).allow, text)
		require.Equal(t, want[1], p.judge(bob, asks(t, "listen tcp - 80 ::")).allow, text)
	}
}

func TestParsePolicySaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		"allow *":                                         "line 1, column 7",
		"\n\npermit * dial tcp *":                         "line 3, column 1",
		"allow * dail tcp *":                              "line 1, column 9",
		"allow * dial tcp,unix *:80":                      "line 1, column 14",
		"allow * dial sctp *:80":                          "line 1, column 14",
		"allow * listen udp *:80":                         "line 1, column 16",
		"allow * dial tcp example":                        "line 1, column 18",
		"allow * dial tcp example:0":                      "line 1, column 18",
		"allow * dial tcp example:65536":                  "line 1, column 18",
		"allow * dial tcp example:9-8":                    "line 1, column 18",
		"allow * dial tcp example:080":                    "line 1, column 18",
		"allow * dial tcp ::1:80":                         "line 1, column 18",
		"allow * dial tcp [127.0.0.1]:80":                 "line 1, column 18",
		"allow * dial tcp [::ffff:1.2.3.4]:80":            "line 1, column 18",
		"allow * dial tcp [fe80::1%eth0]:80":              "line 1, column 18",
		"allow * dial tcp 10.*:80":                        "line 1, column 18",
		"allow * dial tcp Example:80":                     "line 1, column 18",
		"allow * dial unix run/x":                         "line 1, column 19",
		"allow * dial tcp *:80 on 10.0.0.0/8":             "line 1, column 23",
		"allow * dial tcp *:80 in 10.0.0.1/8":             "line 1, column 26",
		"allow * dial tcp *:80 in 10.0.0.0":               "line 1, column 26",
		"allow * dial tcp *:80 in ::ffff:10.0.0.0/104":    "line 1, column 26",
		"allow * dial tcp 1.1.1.1:80 in 10.0.0.0/8":       "line 1, column 32",
		"allow * dial unix /x in 10.0.0.0/8":              "line 1, column 25",
		"allow peer: dial tcp *":                          "line 1, column 7",
		"allow * dial tcp *:80 in 10.0.0.0/8 # ok\nallow": "line 2, column 1",
	} {
		_, err := ParsePolicy(text)
		require.ErrorIs(t, err, errPolicy, text)
		require.Contains(t, err.Error(), want, text)
	}
	require.Len(t, mustPolicy(t, example).Rules, 8)
	_, err := ParsePolicy(strings.Repeat("allow * dial tcp *\n", maxRules+1))
	require.ErrorContains(t, err, "more than 4096 rules")
}

// rules draws a rule as ParsePolicy makes them.
func rules(t *rapid.T) Rule {
	r := Rule{Allow: rapid.Bool().Draw(t, "allow"), Op: rapid.SampledFrom([]Op{OpDial, OpListen, OpPublish}).Draw(t, "op")}
	r.Scope = rapid.SampledFrom([]string{"", "ssh:forward:db", "peer:bob", "peer:eve"}).Draw(t, "who")
	kinds := [][]string{nil, {"tcp"}, {"udp"}, {"tcp", "udp"}, {"unix"}, {"name"}, {"unix", "name"}}
	switch r.Op {
	case OpListen:
		kinds = [][]string{nil, {"tcp"}, {"unix"}}
	case OpPublish:
		kinds = [][]string{nil, {"name"}}
	}
	r.Networks = rapid.SampledFrom(kinds).Draw(t, "networks")
	hosts, _ := r.hosts()
	if !hosts {
		names := []string{"", "grafana,ci-*"}
		if slices.Contains(r.Networks, "unix") {
			names = []string{"", "/run/*.sock", "/a,/b/[c-d]"}
		}
		r.Name = rapid.SampledFrom(names).Draw(t, "name")
		return r
	}
	r.Name = rapid.SampledFrom([]string{"", "*.corp.example", "a.example,b*"}).Draw(t, "name")
	r.In = rapid.SliceOfN(rapid.SampledFrom(prefixes), 0, 3).Draw(t, "in")
	r.Ports = rapid.SliceOfN(rapid.SampledFrom([][2]uint16{{25, 25}, {80, 443}, {1, 65535}, {8000, 8999}}), 0, 2).Draw(t, "ports")
	if len(r.In) == 0 {
		r.In = nil
	}
	if len(r.Ports) == 0 {
		r.Ports = nil
	}
	return r
}

var prefixes = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("8.8.0.0/16"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fd00::/8"),
}

func queries(t *rapid.T) query {
	kind := rapid.SampledFrom([]string{
		"dial tcp", "dial tcp", "dial udp", "dial unix", "dial name", "listen tcp", "listen unix", "publish name",
	}).Draw(t, "kind")
	op, network, _ := strings.Cut(kind, " ")
	q := query{network: network, op: map[string]Op{"dial": OpDial, "listen": OpListen, "publish": OpPublish}[op]}
	if !q.addressed() {
		q.name = rapid.SampledFrom([]string{"grafana", "ci-1", "/run/x.sock", "/a", "/b/c"}).Draw(t, "name")
		return q
	}
	if op == "dial" {
		q.name = rapid.SampledFrom([]string{"", "x.corp.example", "a.example", "bb"}).Draw(t, "name")
	}
	q.port = rapid.SampledFrom([]uint16{25, 80, 443, 5432, 8080}).Draw(t, "port")
	q.addr = netip.MustParseAddr(rapid.SampledFrom([]string{
		"8.8.8.8", "10.1.2.3", "127.0.0.1", "0.0.0.0", "::", "::1", "2606:4700::1", "64:ff9b::808:808", "64:ff9b::a00:1", "2002:808:808::", "fd00::1", "169.254.169.254",
	}).Draw(t, "addr"))
	return q
}

func TestPolicyPrintsAsItParses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Policy{Rules: rapid.SliceOfN(rapid.Custom(rules), 0, 5).Draw(t, "rules")}
		got, err := ParsePolicy(p.String())
		require.NoError(t, err, p.String())
		require.Equal(t, p.String(), got.String())
		if len(p.Rules) > 0 {
			require.Equal(t, p.Rules, got.Rules, p.String())
		}
	})
}

func TestAnotherDenyRuleNeverAllowsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Policy{Rules: rapid.SliceOfN(rapid.Custom(rules), 0, 5).Draw(t, "rules")}
		deny := rapid.Custom(rules).Draw(t, "deny")
		deny.Allow = false
		at := rapid.IntRange(0, len(p.Rules)).Draw(t, "at")
		stricter := &Policy{Rules: slices.Insert(slices.Clone(p.Rules), at, deny)}
		q := queries(t)
		if !p.judge(bob, q).allow {
			require.False(t, stricter.judge(bob, q).allow)
		}
	})
}

// oracle is a second reading of the policy's description.
func oracle(p *Policy, id *alknet.Identity, q query) bool {
	for _, r := range p.Rules {
		if r.Op != q.op || r.Networks != nil && !slices.Contains(r.Networks, q.network) {
			continue
		}
		if r.Scope != "" && r.Scope != "peer:"+id.ID && !slices.Contains(id.Scopes, r.Scope) {
			continue
		}
		if !q.addressed() {
			if r.Ports == nil && r.In == nil && glob(r.Name, q.name) {
				return r.Allow
			}
			continue
		}
		port := r.Ports == nil
		for _, pr := range r.Ports {
			port = port || q.port >= pr[0] && q.port <= pr[1]
		}
		if !port {
			continue
		}
		inside, named := false, false
		for _, in := range r.In {
			if in.Contains(q.addr) {
				inside = true
				named = named || in.String() == "64:ff9b::/96" || in.String() == "2002::/16"
			}
		}
		if !r.Allow {
			if r.Name == "" && r.In == nil || r.Name != "" && glob(r.Name, q.name) || inside {
				return false
			}
			continue
		}
		var inner netip.Addr
		switch s := q.addr.String(); s {
		case "64:ff9b::808:808", "2002:808:808::":
			inner = netip.MustParseAddr("8.8.8.8")
		case "64:ff9b::a00:1":
			inner = netip.MustParseAddr("10.0.0.1")
		}
		ok := inside
		switch unspecified := q.addr.IsUnspecified(); {
		case r.In == nil && q.op == OpListen:
			ok = q.addr.IsLoopback()
		case r.In == nil:
			ok = slices.Contains([]string{"8.8.8.8", "2606:4700::1"}, q.addr.String())
		case q.op == OpListen && unspecified:
			ok = slices.Contains(r.In, netip.PrefixFrom(q.addr, 0))
		case inner.IsValid():
			ok = named
		}
		if !ok || !glob(r.Name, q.name) {
			continue
		}
		if inner.IsValid() {
			in := q
			in.addr = inner
			return oracle(p, id, in)
		}
		return true
	}
	return false
}

func glob(globs, name string) bool {
	if globs == "" {
		return true
	}
	for g := range strings.SplitSeq(globs, ",") {
		head, tail, star := strings.Cut(g, "*")
		switch {
		case g == "/b/[c-d]" && (name == "/b/c" || name == "/b/d"), g == name && name != "":
			return true
		case star && len(name) >= len(head)+len(tail) && strings.HasPrefix(name, head) && strings.HasSuffix(name, tail) &&
			!strings.Contains(name[len(head):len(name)-len(tail)], "/"):
			return name != ""
		}
	}
	return false
}

func TestPolicyAgreesWithTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Policy{Rules: rapid.SliceOfN(rapid.Custom(rules), 0, 6).Draw(t, "rules")}
		q := queries(t)
		require.Equal(t, oracle(p, bob, q), p.judge(bob, q).allow, fmt.Sprintf("%s\n%+v", p, q))
	})
}
