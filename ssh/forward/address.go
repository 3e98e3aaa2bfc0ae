package forward

import (
	"context"
	"net/netip"
	"slices"

	"github.com/alkdev/alknet/internal/netguard"
)

// The forms of IPv6 addresses that hold an IPv4 address (RFC 6052, RFC 8215,
// RFC 3056, RFC 4291 section 2.5.5.1), behind which anything may be.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	compatible = netip.MustParsePrefix("::/96")
)

// public reports whether an address is one of the public internet.
func public(a netip.Addr) bool {
	return netguard.PublicOnly(context.Background(), "", "", netip.AddrPortFrom(a, 1)) == nil
}

// contains reports whether one of the prefixes contains a.
func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// allows is contains for rules that allow: an address that holds an IPv4 address
// is covered only by a prefix that names its form, which ::/0 does not.
func allows(list []netip.Prefix, a netip.Addr) bool {
	form, hides := formOf(a)
	return slices.ContainsFunc(list, func(p netip.Prefix) bool {
		return p.Contains(a) && (!hides || p.Bits() >= form.Bits())
	})
}

// formOf returns the form of an address that holds an IPv4 address.
func formOf(a netip.Addr) (netip.Prefix, bool) {
	if a.IsUnspecified() || a == netip.IPv6Loopback() {
		return netip.Prefix{}, false
	}
	for _, form := range [...]netip.Prefix{nat64, nat64Local, sixToFour, compatible} {
		if form.Contains(a) {
			return form, true
		}
	}
	return netip.Prefix{}, false
}

// embeddedIPv4 are the IPv4 addresses that an IPv6 address holds. A local NAT64
// prefix may be longer than /48, and nobody can tell: both ends of the range are
// read, but for one that is all zero while the other is not.
func embeddedIPv4(a netip.Addr) []netip.Addr {
	form, hides := formOf(a)
	if !hides {
		return nil
	}
	b := a.As16()
	low := netip.AddrFrom4([4]byte(b[12:16]))
	switch form {
	case sixToFour:
		return []netip.Addr{netip.AddrFrom4([4]byte(b[2:6]))}
	case nat64Local:
		high := netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}) // RFC 6052, section 2.2
		switch {
		case high.IsUnspecified():
			return []netip.Addr{low}
		case low.IsUnspecified():
			return []netip.Addr{high}
		}
		return []netip.Addr{low, high}
	}
	return []netip.Addr{low}
}
