package socks

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/things-go/go-socks5/statute"

	"github.com/alkdev/alknet/ssh/forward"
)

// socks5 is RFC 1928.
func (c *client) socks5(ctx context.Context) error {
	if err := c.login(); err != nil {
		return err
	}
	req, err := statute.ParseRequest(c.in)
	if errors.Is(err, statute.ErrUnrecognizedAddrType) {
		return errors.Join(errProtocol, c.reply(forward.CodeAddress, netip.AddrPort{}))
	}
	if err != nil {
		return errProtocol
	}
	switch req.Command {
	case statute.CommandConnect:
	case statute.CommandAssociate:
		if c.s.UDP {
			return c.associate(ctx, req.DstAddr)
		}
		fallthrough
	default:
		return errors.Join(errCommand, c.reply(forward.CodeCommand, netip.AddrPort{}))
	}
	address, ok := target(req.DstAddr)
	if !ok {
		return errors.Join(errProtocol, c.reply(forward.CodeAddress, netip.AddrPort{}))
	}
	nc, err := c.dial(ctx, "tcp", address)
	if err != nil {
		return errors.Join(dialFailed(codeOf(err)), c.reply(codeOf(err), netip.AddrPort{}))
	}
	if err := c.reply(forward.CodeOK, netip.AddrPort{}); err != nil {
		_ = nc.Close() // the client is gone
		return nil
	}
	c.splice(ctx, nc)
	return nil
}

// target is the address to dial; false: it is none.
func target(a statute.AddrSpec) (string, bool) {
	host := a.FQDN
	if a.AddrType != statute.ATYPDomain {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			return "", false
		}
		host = ip.Unmap().String()
	}
	return address(host, a.Port)
}

// address joins a host that may be one and a port; the dialer judges it further.
func address(host string, port int) (string, bool) {
	_, err := netip.ParseAddr(host)
	strange := strings.ContainsFunc(host, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	})
	if host == "" || port == 0 || err != nil && strange {
		return "", false
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), true
}

// login agrees on a method: none, or with Auth a name and a password (RFC 1929).
func (c *client) login() error {
	req, err := statute.ParseMethodRequest(c.in)
	if err != nil {
		return errProtocol
	}
	method := statute.MethodNoAuth
	if c.s.Auth != nil {
		method = statute.MethodUserPassAuth
	}
	if !slices.Contains(req.Methods, method) {
		_, err := c.nc.Write([]byte{statute.VersionSocks5, statute.MethodNoAcceptable})
		return errors.Join(errAuth, err)
	}
	if _, err := c.nc.Write([]byte{statute.VersionSocks5, method}); err != nil || c.s.Auth == nil {
		return err
	}
	up, err := statute.ParseUserPassRequest(c.in)
	if err != nil {
		return errProtocol
	}
	if c.s.Auth(string(up.User), string(up.Pass)) != nil {
		_, err := c.nc.Write([]byte{statute.UserPassAuthVersion, statute.AuthFailure})
		return errors.Join(errAuth, err)
	}
	c.user = string(up.User)
	_, err = c.nc.Write([]byte{statute.UserPassAuthVersion, statute.AuthSuccess})
	return err
}

// reply answers a request. The bound address is told for datagrams only.
func (c *client) reply(code forward.Code, bound netip.AddrPort) error {
	r := statute.Reply{Version: statute.VersionSocks5, Response: byte(code)}
	r.BndAddr.AddrType, r.BndAddr.IP = statute.ATYPIPv4, net.IPv4zero
	if a := bound.Addr().Unmap(); a.IsValid() {
		r.BndAddr.IP, r.BndAddr.Port = a.AsSlice(), int(bound.Port())
		if a.Is6() {
			r.BndAddr.AddrType = statute.ATYPIPv6
		}
	}
	_, err := c.nc.Write(r.Bytes())
	return err
}

// The bounds of SOCKS4, in bytes.
const maxField4 = 255

// The answers of SOCKS4.
const (
	granted4  = 0x5a
	rejected4 = 0x5b
)

// socks4 is SOCKS4, and SOCKS4a where the address is 0.0.0.x.
func (c *client) socks4(ctx context.Context) error {
	req, err := parseSOCKS4(c.in)
	if err != nil {
		return err
	}
	reply := func(code byte) error {
		_, err := c.nc.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
		return err
	}
	switch {
	case c.s.Auth != nil: // it has no password
		return errors.Join(errAuth, reply(rejected4))
	case req.command != statute.CommandConnect:
		return errors.Join(errCommand, reply(rejected4))
	case req.address == "":
		return errors.Join(errProtocol, reply(rejected4))
	}
	nc, err := c.dial(ctx, "tcp", req.address)
	if err != nil {
		return errors.Join(dialFailed(codeOf(err)), reply(rejected4))
	}
	if err := reply(granted4); err != nil {
		_ = nc.Close() // the client is gone
		return nil
	}
	c.splice(ctx, nc)
	return nil
}

// A request4 is what a SOCKS4 client wants; an empty address is none.
type request4 struct {
	command byte
	address string
}

func parseSOCKS4(r io.ByteReader) (request4, error) {
	var fixed [8]byte
	for i := range fixed {
		b, err := r.ReadByte()
		if err != nil {
			return request4{}, errProtocol
		}
		fixed[i] = b
	}
	req := request4{command: fixed[1]}
	port := int(fixed[2])<<8 | int(fixed[3])
	ip := netip.AddrFrom4([4]byte(fixed[4:]))
	if _, err := field4(r); fixed[0] != 4 || err != nil { // the user id proves nothing
		return request4{}, errProtocol
	}
	host := ip.String()
	if fixed[4] == 0 && fixed[5] == 0 && fixed[6] == 0 && fixed[7] != 0 {
		name, err := field4(r)
		if err != nil {
			return request4{}, err
		}
		host = name
	}
	req.address, _ = address(host, port)
	return req, nil
}

// field4 reads up to a NUL.
func field4(r io.ByteReader) (string, error) {
	var b []byte
	for len(b) <= maxField4 {
		c, err := r.ReadByte()
		if err != nil {
			return "", errProtocol
		}
		if c == 0 {
			return string(b), nil
		}
		b = append(b, c)
	}
	return "", errProtocol
}

// maxHTTPHead is the largest head of a CONNECT, in bytes.
const maxHTTPHead = 16 << 10

// http is CONNECT (RFC 9110, section 9.3.6); other methods are not for tunnels.
func (c *client) http(ctx context.Context) error {
	head, err := readHead(c.in)
	if err != nil {
		return err
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		return errors.Join(errProtocol, c.status(http.StatusBadRequest, ""))
	}
	if req.Method != http.MethodConnect {
		return errors.Join(errCommand, c.status(http.StatusMethodNotAllowed, "Allow: CONNECT\r\n"))
	}
	if c.s.Auth != nil {
		user, password, ok := basicAuth(req.Header.Get("Proxy-Authorization"))
		if !ok || c.s.Auth(user, password) != nil {
			return errors.Join(errAuth, c.status(http.StatusProxyAuthRequired, "Proxy-Authenticate: Basic realm=\"proxy\"\r\n"))
		}
		c.user = user
	}
	host, port, err := net.SplitHostPort(req.RequestURI)
	n, perr := strconv.ParseUint(port, 10, 16)
	target, ok := address(host, int(n))
	if err != nil || perr != nil || !ok {
		return errors.Join(errProtocol, c.status(http.StatusBadRequest, ""))
	}
	nc, err := c.dial(ctx, "tcp", target)
	if err != nil {
		return errors.Join(dialFailed(codeOf(err)), c.status(httpStatus(codeOf(err)), ""))
	}
	if _, err := io.WriteString(c.nc, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = nc.Close() // the client is gone
		return nil
	}
	c.splice(ctx, nc)
	return nil
}

// readHead reads up to the empty line and not a byte more: what follows is the
// tunnel's.
func readHead(r io.ByteReader) (string, error) {
	var b strings.Builder
	for b.Len() < maxHTTPHead {
		c, err := r.ReadByte()
		if err != nil {
			return "", errProtocol
		}
		b.WriteByte(c)
		if c == '\n' && (strings.HasSuffix(b.String(), "\r\n\r\n") || strings.HasSuffix(b.String(), "\n\n")) {
			return b.String(), nil
		}
	}
	return "", errProtocol
}

func basicAuth(header string) (user, password string, ok bool) {
	scheme, encoded, ok := strings.Cut(header, " ")
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if !ok || !strings.EqualFold(scheme, "Basic") || err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

func (c *client) status(code int, header string) error {
	_, err := fmt.Fprintf(c.nc, "HTTP/1.1 %d %s\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n", code, http.StatusText(code), header)
	return err
}

func httpStatus(code forward.Code) int {
	switch code {
	case forward.CodeDenied:
		return http.StatusForbidden
	case forward.CodeExpired:
		return http.StatusGatewayTimeout
	case forward.CodeAddress:
		return http.StatusBadRequest
	}
	return http.StatusBadGateway
}
