package socks

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/things-go/go-socks5/statute"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/alkdev/alknet/internal/testenv"
)

func writeFile(name, text string) error { return os.WriteFile(name, []byte(text), 0o600) }

// runNode runs a script beside the npm packages of the module.
func runNode(t *testing.T, node, script string) string {
	t.Helper()
	if _, err := os.Stat("../../internal/tools/npm/node_modules/socks"); err != nil {
		if os.Getenv("ALKNET_REQUIRE_TOOLS") == "1" {
			t.Fatal("npm ci in internal/tools/npm was not run")
		}
		t.Skip("npm ci in internal/tools/npm was not run")
	}
	cmd := testenv.Command(t, "node", "-e", script)
	cmd.Path = node
	cmd.Dir = "../../internal/tools/npm"
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// associate opens an association and returns the address of its relay.
func associate(t *testing.T, proxyAddr string) netip.AddrPort {
	t.Helper()
	nc, err := net.Dial("tcp", proxyAddr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	_, err = io.WriteString(nc, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	require.NoError(t, err)
	_, err = io.ReadFull(nc, make([]byte, 2))
	require.NoError(t, err)
	reply, err := statute.ParseReply(nc)
	require.NoError(t, err)
	require.Zero(t, reply.Response)
	ip, _ := netip.AddrFromSlice(reply.BndAddr.IP)
	return netip.AddrPortFrom(ip.Unmap(), uint16(reply.BndAddr.Port))
}

func udpDialer(target string) func(ctx context.Context, user, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, target)
	}
}

// dig asks a name server through the relay: a few lines wrap its datagrams.
func TestDigThroughUDPAssociate(t *testing.T) {
	dns := dnsServer(t)
	relay := associate(t, serve(t, &Server{UDP: true, Dial: udpDialer(dns)}))
	wrap, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var client netip.AddrPort
		buf := make([]byte, 4096)
		for {
			n, from, err := wrap.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if from != relay {
				client = from
				d, _ := statute.NewDatagram("ns.only-there:53", buf[:n])
				_, _ = wrap.WriteToUDPAddrPort(d.Bytes(), relay)
			} else if d, err := statute.ParseDatagram(buf[:n]); err == nil {
				_, _ = wrap.WriteToUDPAddrPort(d.Data, client)
			}
		}
	}()
	defer func() { _ = wrap.Close(); <-done }()
	_, port, _ := net.SplitHostPort(wrap.LocalAddr().String())
	out, err := testenv.Command(t, "dig", "@127.0.0.1", "-p", port, "+short", "+noedns", "www.example", "A").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "192.0.2.53\n", string(out))
}

// dnsServer answers every question with one address.
func dnsServer(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response = true
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 53}},
			}}
			if out, err := m.Pack(); err == nil {
				_, _ = pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { _ = pc.Close(); <-done })
	return pc.LocalAddr().String()
}

func TestAssociationIsItsClients(t *testing.T) {
	relay := associate(t, serve(t, &Server{UDP: true, Dial: udpDialer(testenv.Echo(t, "udp", "127.0.0.1:0").String())}))
	send := func(from *net.UDPConn, frag byte, text string) {
		d, err := statute.NewDatagram("x.test:7", []byte(text))
		require.NoError(t, err)
		d.Frag = frag
		_, err = from.WriteToUDPAddrPort(d.Bytes(), relay)
		require.NoError(t, err)
	}
	receive := func(c *net.UDPConn) string {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		require.NoError(t, err)
		d, err := statute.ParseDatagram(buf[:n])
		require.NoError(t, err)
		require.Equal(t, "x.test", d.DstAddr.FQDN)
		return string(d.Data)
	}
	listen := func(ip net.IP) *net.UDPConn {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	stranger, first, other := listen(net.IPv4(127, 0, 0, 9)), listen(net.IPv4(127, 0, 0, 1)), listen(net.IPv4(127, 0, 0, 1))
	send(stranger, 0, "from another address")
	send(first, 0, "one")
	require.Equal(t, "one", receive(first))
	send(other, 0, "from another port")
	send(first, 1, "a fragment")
	send(first, 0, "two")
	require.Equal(t, "two", receive(first), "nothing else was carried")
}
