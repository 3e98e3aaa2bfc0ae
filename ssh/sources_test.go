package ssh

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// from is an address of IPv4 with a number of its own.
func from(n int) net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, byte(n>>16), byte(n>>8), byte(n)), Port: 1}
}

// A login ends the startup, and who leaves makes room; leaving twice makes no more.
func TestPlacesAreGivenBack(t *testing.T) {
	s := &sources{limits: Limits{MaxConns: 2, MaxStartups: 1, MaxStartupsPerAddr: 1}.withDefaults()}
	first, limit := s.begin(from(1))
	require.Empty(t, limit)
	_, limit = s.begin(from(2))
	require.Equal(t, "MaxStartups", limit)
	first.loggedIn()
	second, limit := s.begin(from(1))
	require.Empty(t, limit, "a login is no startup, of this address nor in all")
	second.loggedIn()
	_, limit = s.begin(from(3))
	require.Equal(t, "MaxConns", limit)
	second.leave()
	second.leave()
	third, limit := s.begin(from(3))
	require.Empty(t, limit)
	_, limit = s.begin(from(4))
	require.Equal(t, "MaxConns", limit)
	third.leave() // without a login
	_, limit = s.begin(from(4))
	require.Empty(t, limit)
}

// What a source owes adds up, to a bound, and passes.
func TestPenaltiesAreBounded(t *testing.T) { synctest.Test(t, testPenaltiesAreBounded) }
func testPenaltiesAreBounded(t *testing.T) {
	s := &sources{limits: Limits{MaxPenalty: time.Minute}.withDefaults()}
	p, _ := s.begin(from(1))
	for range 3 {
		p.punish(penaltyLogin)
		_, limit := s.begin(from(1))
		require.Empty(t, limit, "15 s are forgiven")
	}
	for range 100 {
		p.punish(penaltyCrash)
	}
	_, limit := s.begin(from(1))
	require.Equal(t, "MaxPenalty", limit)
	_, limit = s.begin(from(2))
	require.Empty(t, limit, "another source")
	time.Sleep(time.Minute - penaltyFloor)
	_, limit = s.begin(from(1))
	require.Empty(t, limit, "no longer than the longest penalty")
}

// Sources are remembered up to a number: those that owe least are forgotten.
func TestSourcesAreBounded(t *testing.T) {
	s := &sources{limits: Limits{MaxConns: -1, MaxStartups: -1}.withDefaults()}
	worst, _ := s.begin(from(0))
	worst.punish(penaltyCrash)
	for n := range maxSources + 100 {
		p, limit := s.begin(from(n + 1))
		require.Empty(t, limit)
		p.punish(penaltyLogin)
		p.leave()
	}
	require.Len(t, s.owes, maxSources)
	require.Empty(t, s.perAddr[source(from(1))])
	_, limit := s.begin(from(0))
	require.Equal(t, "MaxPenalty", limit, "who owes most is not forgotten")
}

func TestSourceIsOneOf(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::1": "2001:db8:1::/56", "fe80::1%lo": "fe80::/56",
	} {
		require.Equal(t, netip.MustParsePrefix(want), source(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(a), 1))), a)
	}
	require.Zero(t, source(&net.UnixAddr{Name: "x"}), "all sockets are one")
}
