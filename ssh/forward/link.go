package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/alkdev/alknet/internal/printable"
)

// A Link is a way into another network: a client of ssh or of ssh/tunnel.
type Link interface {
	// DialContext connects from the far end of the link.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Listen accepts connections at the far end.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	// Done is closed when the link is down.
	Done() <-chan struct{}
	// Close takes it down.
	Close() error
}

// A Forward is one port forward. A local one listens here and connects from the
// far end of a link; a remote one listens there and connects from here.
type Forward struct {
	Remote        bool   // listen at the far end
	Network       string // of Listen: "tcp" or "unix"
	Listen        string // "ip:port" or a path; port 0: any free one
	TargetNetwork string // of Target: "tcp" or "unix"
	Target        string // "host:port" or a path
}

// maxForward bounds the text of a forward, in bytes.
const maxForward = 1024

// errForward is wrapped by the errors of ParseForward.
var errForward = errors.New("forward: not a forward")

// ParseForward reads what ssh(1) takes after -L, flag 'L', and -R, flag 'R':
// [bind_address:]port:host:hostport, [bind_address:]port:remote_socket,
// local_socket:host:hostport and local_socket:remote_socket. An IPv6 address
// stands in brackets, a socket is an absolute path, port 0 is any free one.
// Without a bind address it is loopback; * is every address.
func ParseForward(flag byte, s string) (Forward, error) {
	bad := func(why string) (Forward, error) {
		return Forward{}, fmt.Errorf("%w: %s: %s", errForward, printable.Quote(s), why)
	}
	if flag != 'L' && flag != 'R' {
		return bad("the flag is L or R")
	}
	if len(s) > maxForward || !printableASCII(s) {
		return bad("too long, or with characters that no address has")
	}
	parts, err := splitForward(s)
	if err != nil {
		return bad(err.Error())
	}
	f := Forward{Remote: flag == 'R'}
	rest, why := f.takeListen(parts)
	if why == "" {
		why = f.takeTarget(rest)
	}
	if why != "" {
		return bad(why)
	}
	return f, nil
}

// splitForward splits at colons that are not in brackets.
func splitForward(s string) ([]string, error) {
	var parts []string
	for {
		if strings.HasPrefix(s, "[") {
			host, rest, ok := strings.Cut(s[1:], "]")
			if !ok || rest != "" && rest[0] != ':' {
				return nil, errors.New("a bracket is not closed")
			}
			parts = append(parts, "["+host)
			if rest == "" {
				return parts, nil
			}
			s = rest[1:]
			continue
		}
		part, rest, more := strings.Cut(s, ":")
		parts = append(parts, part)
		if !more {
			return parts, nil
		}
		s = rest
	}
}

// takeListen reads the listening side and returns what is left, or what is wrong.
func (f *Forward) takeListen(parts []string) (rest []string, why string) {
	if strings.HasPrefix(parts[0], "/") {
		f.Network, f.Listen = "unix", parts[0]
		return parts[1:], ""
	}
	f.Network = "tcp"
	bind, port := "127.0.0.1", parts[0]
	rest = parts[1:]
	if len(parts) == 4 || len(parts) == 3 && strings.HasPrefix(parts[2], "/") {
		bind, port, rest = parts[0], parts[1], parts[2:]
	}
	switch bind = strings.TrimPrefix(bind, "["); bind {
	case "*":
		bind = ""
	case "localhost":
		bind = "127.0.0.1"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return nil, "the port to listen on is no number from 0 to 65535"
	}
	if strings.ContainsAny(bind, "/[]") {
		return nil, "the address to listen on is none"
	}
	f.Listen = net.JoinHostPort(bind, port)
	return rest, ""
}

// takeTarget reads the connecting side.
func (f *Forward) takeTarget(parts []string) (why string) {
	switch {
	case len(parts) == 1 && strings.HasPrefix(parts[0], "/"):
		f.TargetNetwork, f.Target = "unix", parts[0]
		return ""
	case len(parts) != 2:
		return "want [bind_address:]port:host:hostport"
	}
	host := strings.TrimPrefix(parts[0], "[")
	if host == "" || strings.ContainsAny(host, "/[]") {
		return "the host is none"
	}
	if _, err := parsePort(parts[1]); err != nil {
		return err.Error()
	}
	f.TargetNetwork, f.Target = "tcp", net.JoinHostPort(host, parts[1])
	return ""
}

// String is the forward as [ParseForward] reads it, with its bind address.
func (f Forward) String() string {
	return forwardSide(f.Network, f.Listen) + ":" + forwardSide(f.TargetNetwork, f.Target)
}

func forwardSide(network, address string) string {
	if network == "tcp" && strings.HasPrefix(address, ":") {
		return "*" + address
	}
	return address
}
