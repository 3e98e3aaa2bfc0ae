package node

import (
	"net"
	"net/netip"
	"slices"
)

// maxAdvertised is how many addresses an invite names.
const maxAdvertised = 16

// reachable are the addresses under which the listeners can be dialled: those of
// the interfaces where a listener is on all of them, global ones first.
func reachable(listeners []Listener) []string {
	var all []string
	for _, l := range listeners {
		addr := l.UDP
		if addr == "" {
			addr = l.TCP
		}
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			continue
		}
		if !ap.Addr().IsUnspecified() {
			all = append(all, ap.String())
			continue
		}
		for _, ip := range interfaceAddrs() {
			all = append(all, netip.AddrPortFrom(ip, ap.Port()).String())
		}
	}
	if len(all) > maxAdvertised {
		all = all[:maxAdvertised]
	}
	return all
}

// interfaceAddrs are this machine's addresses; loopback only if there are no others.
func interfaceAddrs() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var public, private, loopback []netip.Addr
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ip = ip.Unmap()
		switch {
		case !ok || ip.IsLinkLocalUnicast():
		case ip.IsLoopback():
			loopback = append(loopback, ip)
		case ip.IsPrivate():
			private = append(private, ip)
		default:
			public = append(public, ip)
		}
	}
	all := slices.Concat(public, private)
	if len(all) == 0 {
		return loopback
	}
	return all
}
