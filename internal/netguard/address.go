package netguard

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// A special is a range of addresses that no service of the public internet has.
type special struct {
	prefix netip.Prefix
	kind   string
}

// specials are the IANA special-purpose registries for IPv4 (RFC 6890 and its
// updates) and IPv6, multicast, and the forms of IPv6 that hold an IPv4 address,
// behind which any of the others may be. The first match names the kind.
var specials = []special{
	{netip.MustParsePrefix("0.0.0.0/32"), "unspecified"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignment"},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmark"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},

	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped"},
	{netip.MustParsePrefix("::/96"), "IPv4-compatible"},
	{netip.MustParsePrefix("64:ff9b::/96"), "NAT64"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "NAT64"},
	{netip.MustParsePrefix("100::/64"), "discard"},
	{netip.MustParsePrefix("2001::/32"), "Teredo"},
	{netip.MustParsePrefix("2001:2::/48"), "benchmark"},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
	{netip.MustParsePrefix("2001::/23"), "protocol assignment"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "documentation"},
	{netip.MustParsePrefix("fc00::/7"), "unique-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// globalUnicast is all of IPv6 that is assigned for it (RFC 4291, section 2.4).
var globalUnicast = netip.MustParsePrefix("2000::/3")

// PublicOnly is a [Dialer.Allow] that refuses every address which is not one of
// the public internet: loopback, private, link-local, unique-local, multicast,
// unspecified, documentation, benchmark and carrier-grade NAT addresses, IPv6
// addresses that hold an IPv4 address (mapped, compatible, NAT64, 6to4,
// Teredo), addresses with a zone, and IPv6 outside 2000::/3. It looks at the
// address only. The error says what kind it is and wraps [ErrRefused].
func PublicOnly(_ context.Context, _, _ string, addr netip.AddrPort) error {
	if kind := kindOf(addr.Addr()); kind != "" {
		return fmt.Errorf("%w: %s address", ErrRefused, kind)
	}
	return nil
}

// kindOf is the kind of an address that is not public, "" for one that is.
func kindOf(a netip.Addr) string {
	if !a.IsValid() {
		return "invalid"
	}
	if a.Zone() != "" {
		return "zoned"
	}
	for _, s := range specials {
		if s.prefix.Contains(a) {
			return s.kind
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) {
		return "reserved"
	}
	return ""
}

// maxName is the longest name in bytes, without a final dot (RFC 1035, section 2.3.4).
const maxName = 253

// checkName says why s cannot be looked up, or "". Resolvers of operating systems
// take many spellings of an address for a name ("127.1", "0x7f.1", "017700000001",
// "2130706433"), so a name whose last label is a number never reaches one: there
// is no such top-level domain, and the URL standard calls it an address too.
func checkName(s string) string {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "a name has 1 to 253 bytes"
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "a label has 1 to 63 bytes"
		}
		if !letters(label) {
			return "a name has letters, digits, - and _ only"
		}
		last = label
	}
	if number(last) {
		return "a form of an address that is not the usual one"
	}
	return ""
}

// letters reports whether every byte of a label is one that names have. A name
// in other scripts is looked up in its ASCII form.
func letters(label string) bool {
	for i := range len(label) {
		switch c := label[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// number reports whether a label is a decimal, octal or hexadecimal number. The
// digits are all that Trim can remove, from either side.
func number(label string) bool {
	digits, set := label, "0123456789"
	if len(label) >= 2 && label[0] == '0' && label[1]|0x20 == 'x' {
		digits, set = label[2:], "0123456789abcdefABCDEF"
	}
	return strings.Trim(digits, set) == ""
}
