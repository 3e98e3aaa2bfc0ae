package netguard

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

// judgeAddr is PublicOnly of an address.
func judgeAddr(t *testing.T, addr netip.Addr) error {
	t.Helper()
	return PublicOnly(t.Context(), "tcp", "x", netip.AddrPortFrom(addr, 80))
}

func TestPublicOnlyRefuses(t *testing.T) {
	tests := []struct {
		kind  string
		addrs []string
	}{
		{"unspecified", []string{"0.0.0.0", "::"}},
		{"this network", []string{"0.0.0.1", "0.255.255.255"}},
		{"private", []string{"10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.0", "192.168.255.255"}},
		{"carrier-grade NAT", []string{"100.64.0.0", "100.127.255.255"}},
		{"loopback", []string{"127.0.0.0", "127.0.0.1", "127.255.255.255", "::1"}},
		{"link-local", []string{"169.254.0.0", "169.254.169.254", "fe80::", "fe80::1", "febf:ffff::1"}},
		{"protocol assignment", []string{"192.0.0.1", "192.0.0.170", "2001:1::1", "2001:1ff:ffff::"}},
		{"documentation", []string{"192.0.2.1", "198.51.100.1", "203.0.113.255", "2001:db8::1", "3fff:fff::1"}},
		{"6to4 relay", []string{"192.88.99.1"}},
		{"benchmark", []string{"198.18.0.0", "198.19.255.255", "2001:2::1"}},
		{"multicast", []string{"224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
		{"broadcast", []string{"255.255.255.255"}},
		{"reserved", []string{"240.0.0.1", "255.255.255.254", "4000::1", "5f00::1", "100:0:0:2::1", "::1:0:0:0", "200::1"}},
		{"IPv4-mapped", []string{"::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:0"}},
		{"IPv4-compatible", []string{"::127.0.0.1", "::8.8.8.8", "::2"}},
		{"NAT64", []string{"64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::7f00:1", "64:ff9b:1:ffff::1"}},
		{"discard", []string{"100::1"}},
		{"Teredo", []string{"2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"}},
		{"6to4", []string{"2002:7f00:1::", "2002::1", "2002:ffff::1"}},
		{"unique-local", []string{"fc00::1", "fd00:ec2::254", "fdff::1"}},
		{"site-local", []string{"fec0::1"}},
		{"zoned", []string{"fe80::1%eth0", "2606:4700::1%eth0", "::1%lo"}},
	}
	for _, tt := range tests {
		for _, addr := range tt.addrs {
			err := judgeAddr(t, netip.MustParseAddr(addr))
			require.ErrorIs(t, err, ErrRefused, addr)
			require.EqualError(t, err, "destination refused: "+tt.kind+" address", addr)
		}
	}
	require.ErrorIs(t, judgeAddr(t, netip.Addr{}), ErrRefused)
}

func TestPublicOnlyAllows(t *testing.T) {
	for _, addr := range []string{
		"1.0.0.0", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
		"169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
		"2000::1", "2001:200::", "2606:4700::1111", "2a00::1", "2003::", "3ffe::1", "3fff:1000::",
	} {
		require.NoError(t, judgeAddr(t, netip.MustParseAddr(addr)), addr)
	}
}

// TestPublicOnlyAgreesWithPython compares with a second reading of the
// registries, which is laxer about what holds an IPv4 address or is obsolete.
func TestPublicOnlyAgreesWithPython(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var addrs []netip.Addr
	for _, s := range specials {
		addrs = append(addrs, s.prefix.Addr(), s.prefix.Addr().Prev(), within(rnd, s.prefix), within(rnd, s.prefix))
	}
	for range 500 {
		addrs = append(addrs, within(rnd, netip.MustParsePrefix("0.0.0.0/0")), within(rnd, netip.MustParsePrefix("::/0")), within(rnd, globalUnicast))
	}
	var in strings.Builder
	for _, a := range addrs {
		if a.IsValid() {
			fmt.Fprintln(&in, a)
		}
	}
	cmd := testenv.Command(t, "python3", "-c", `
import ipaddress, sys
for line in sys.stdin:
    a = ipaddress.ip_address(line.strip())
    print(line.strip(), a.is_global and not a.is_multicast)`)
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	require.NoError(t, err)
	for scan := bufio.NewScanner(strings.NewReader(string(out))); scan.Scan(); {
		text, global, _ := strings.Cut(scan.Text(), " ")
		addr := netip.MustParseAddr(text)
		if judgeAddr(t, addr) == nil {
			require.Equal(t, "True", global, "%s is allowed", addr)
		} else if global == "True" {
			require.True(t, stricter(addr), "%s is refused", addr)
		}
	}
}

// stricter reports whether we refuse an address that the registries call global.
func stricter(a netip.Addr) bool {
	if a.Is6() && !globalUnicast.Contains(a) {
		return true
	}
	for _, s := range []string{"192.88.99.0/24", "192.0.0.0/24", "2001::/23", "2002::/16", "3fff::/20"} {
		if netip.MustParsePrefix(s).Contains(a) {
			return true
		}
	}
	return false
}

// within returns a random address of a prefix.
func within(rnd *rand.Rand, p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= byte(rnd.IntN(2)) << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestCheckNameRefusesSpellingsOfAddresses(t *testing.T) {
	for _, s := range []string{
		"127.1", "127.0.1", "0x7f.1", "0X7F.0.0.1", "0x7f000001", "0x7F.0x0.0x0.0x1", "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1.", "127.0.0.01",
		"127.0.0.0x1", "0x", "0x.0x", "1.2.3.4.5", "256.1.1.1", "a.1", "a.0x1", "0", "00", "4294967296", "1.", "example.com.0x7f",
	} {
		require.Equal(t, "a form of an address that is not the usual one", checkName(s), s)
	}
}

func TestCheckNameRefusesWhatIsNoName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, s := range []string{
		"", ".", "..", "a..b", ".a", "a b", "a\x00b", "a\nb", "a/b", "a:b", "a%b", "a@b", "[::1]", "::1", "①②⑦.0.0.1", "１２７.0.0.1", "exa。mple", "bücher.example",
		"\u2024", "a\u200bb", "-\xff", "+1", long + "a.b", strings.Repeat(long+".", 4), "*.a",
	} {
		require.NotEmpty(t, checkName(s), "%q", s)
	}
	require.NotEmpty(t, checkName(strings.Repeat(long+".", 3)+strings.Repeat("a", 62)), "254 bytes")
}

func TestCheckNameAcceptsNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, s := range []string{
		"a", "localhost", "localhost.", "example.com", "EXAMPLE.com.", "xn--bcher-kva.example", "_acme.example", "3com.com", "1.0x7g", "0xg", "a-b", "7f", "1e3",
		"127.0.0.1.nip.io", strings.Repeat(long+".", 3) + strings.Repeat("a", 61),
	} {
		require.Empty(t, checkName(s), s)
	}
}
