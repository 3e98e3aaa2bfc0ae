// Package netguard dials what others name: targets of forwarding and proxies,
// webhooks, imported descriptions, upstream servers. A name is resolved once,
// each address is judged, and exactly an address that was judged is dialled, so
// that neither a spelling nor an answer that changes leads elsewhere.
//
//	d := &netguard.Dialer{} // the public internet only
//	nc, err := d.DialContext(ctx, "tcp", target)
package netguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
)

const (
	defaultTimeout = 10 * time.Second
	maxJudged      = 64                     // addresses of a name that are looked at
	maxDialled     = 4                      // addresses of a name that are dialled
	stagger        = 250 * time.Millisecond // before the next one is tried too (RFC 8305, section 5)
)

// ErrRefused is wrapped by the error of a destination that may not be dialled,
// as opposed to one that does not exist or does not answer.
var ErrRefused = errors.New("destination refused")

// A Dialer dials destinations that others chose. The zero value dials the public
// internet. It may be used concurrently once its fields are set.
type Dialer struct {
	// Allow judges an address before it is dialled; an error refuses it. network
	// is "tcp" or "udp", as asked for; name is the host as asked for, which is
	// the address itself if that was asked for. The address is the one that
	// would be dialled, never an IPv4 address in IPv6 form; it may have a zone.
	// Nil means [PublicOnly].
	Allow func(ctx context.Context, network, name string, addr netip.AddrPort) error

	// Resolver looks up names, once each. Nil means [net.DefaultResolver].
	Resolver *net.Resolver

	// Timeout is for all of it: looking up, judging, connecting. Zero means
	// 10 s; negative means no limit but the context's.
	Timeout time.Duration
}

// DialContext connects to hostport on network, which is tcp or udp or one of
// these with a 4 or 6. The port is a number from 1 to 65535. The host is an IP
// address in its usual form or a name; other spellings of an address are
// refused, not looked up. Of a name's addresses those that Allow refuses are
// left out, and up to four of the others are tried, 250 ms apart, until one
// answers.
//
// The error quotes the host, and says for which address what went wrong; it
// wraps [ErrRefused] and the error of Allow if no address was allowed, or what
// [net.Dialer] and [net.Resolver] return.
func (d *Dialer) DialContext(ctx context.Context, network, hostport string) (net.Conn, error) {
	if timeout := cmp.Or(d.Timeout, defaultTimeout); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	name, addrs, err := d.resolve(ctx, network, hostport)
	if err == nil {
		addrs, err = d.judge(ctx, network, name, addrs)
	}
	if err != nil {
		return nil, fmt.Errorf("netguard: dial %s: %w", printable.Quote(hostport), err)
	}
	conn, err := race(ctx, addrs, func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr.String())
	})
	if err != nil {
		return nil, fmt.Errorf("netguard: dial %s: %w", printable.Quote(hostport), err)
	}
	return conn, nil
}

// refuse is an ErrRefused with a reason.
func refuse(why string) error { return fmt.Errorf("%w: %s", ErrRefused, why) }

// resolve returns the host in hostport and its addresses for network.
func (d *Dialer) resolve(ctx context.Context, network, hostport string) (string, []netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return "", nil, net.UnknownNetworkError(printable.Quote(network))
	}
	family := network[len("tcp"):]
	host, service, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", nil, refuse("not host:port")
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return "", nil, refuse("a port is a number from 1 to 65535")
	}
	ips, err := d.addresses(ctx, family, host)
	var addrs []netip.AddrPort
	for _, ip := range ips {
		if family == "" || ip.Is4() == (family == "4") {
			addrs = append(addrs, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	if err == nil && len(addrs) == 0 {
		err = refuse("no address for " + network)
	}
	return host, addrs, err
}

// addresses looks host up, unless it is an address. None of them is an IPv4
// address in IPv6 form, which the rules for IPv4 would not match.
func (d *Dialer) addresses(ctx context.Context, family, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Is4In6() && d.Allow == nil {
			return nil, refuse("IPv4-mapped address")
		}
		if zone := ip.Zone(); zone != "" && !letters(zone) {
			return nil, refuse("a zone is the name of an interface")
		}
		return []netip.Addr{ip.Unmap()}, nil
	}
	if why := checkName(host); why != "" {
		return nil, refuse(why)
	}
	resolver := cmp.Or(d.Resolver, net.DefaultResolver)
	ips, err := resolver.LookupNetIP(ctx, "ip"+family, host)
	if err != nil {
		return nil, err
	}
	ips = ips[:min(len(ips), maxJudged)]
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, nil
}

// judge returns up to maxDialled of the addresses that may be dialled, the two
// families in turn. If there are none, the error is that of the first.
func (d *Dialer) judge(ctx context.Context, network, name string, addrs []netip.AddrPort) ([]netip.AddrPort, error) {
	allow := d.Allow
	if allow == nil {
		allow = PublicOnly
	}
	var allowed []netip.AddrPort
	var refused error
	for _, addr := range inTurn(addrs) {
		err := allow(ctx, network[:len("tcp")], name, addr)
		switch {
		case err == nil && len(allowed) < maxDialled:
			allowed = append(allowed, addr)
		case err != nil && refused == nil && errors.Is(err, ErrRefused):
			refused = fmt.Errorf("%v: %w", addr, err)
		case err != nil && refused == nil:
			refused = fmt.Errorf("%v: %w: %w", addr, ErrRefused, err)
		}
	}
	if len(allowed) == 0 {
		return nil, refused
	}
	return allowed, nil
}

// inTurn orders addresses so that the families alternate, beginning with that
// of the first (RFC 8305, section 4).
func inTurn(addrs []netip.AddrPort) []netip.AddrPort {
	var families [2][]netip.AddrPort
	for _, a := range addrs {
		i := 0
		if a.Addr().Is4() != addrs[0].Addr().Is4() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	out := make([]netip.AddrPort, 0, len(addrs))
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out
}

// A result is the end of one attempt.
type result struct {
	conn net.Conn
	err  error
}

// race dials the addresses one after the other: the next one when the one
// before has failed, or has not answered for a while. It returns the first
// connection, or the first error, and no attempt goes on after it.
func race(ctx context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(addrs)) // each attempt sends once
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		closeLosers(results)
	}()

	timer := time.NewTimer(0)
	defer timer.Stop()
	var first error
	for running := 0; len(addrs) > 0 || running > 0; {
		select {
		case <-timer.C:
			if len(addrs) == 0 {
				continue
			}
			addr := addrs[0]
			safe.Go(&wg, func(err error) { results <- result{err: err} }, func() {
				conn, err := dial(ctx, addr)
				results <- result{conn, err}
			})
			addrs, running = addrs[1:], running+1
			timer.Reset(stagger)
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			first, running = cmp.Or(first, r.err), running-1
			timer.Reset(0)
		}
	}
	return nil, first
}

// closeLosers closes the connections of attempts that won too late.
func closeLosers(results chan result) {
	close(results)
	for r := range results {
		if r.conn != nil {
			_ = r.conn.Close() // nobody used it
		}
	}
}
