package node

import (
	"context"
	"net"
	"strings"

	"github.com/alkdev/alknet/ssh/forward"
)

// nameSuffix marks a host that is a name which somebody has published, and none of
// the DNS: web.alk is the name web.
const nameSuffix = ".alk"

// WithNames makes a link on which hosts below .alk are published names, so that -L
// and SOCKS clients reach them.
func WithNames(l forward.Link) forward.Link { return namedLink{l} }

type namedLink struct{ forward.Link }

// DialContext dials a published name, or what the link below does.
func (l namedLink) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if name, ok := strings.CutSuffix(host, nameSuffix); ok && err == nil && network == "tcp" {
		return l.Link.DialContext(ctx, "name", name)
	}
	return l.Link.DialContext(ctx, network, address)
}
