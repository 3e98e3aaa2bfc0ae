package socks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"

	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh/forward"
)

// serve runs s on loopback and returns its address.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx) // what a test left open is cut
		require.ErrorIs(t, <-done, net.ErrClosed)
	})
	return l.Addr().String()
}

// web is a server that says hello. Its name is resolved by the dialer only.
func web(t *testing.T) (dial func(ctx context.Context, user, network, address string) (net.Conn, error), asked func() []string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(srv.Close)
	var mu sync.Mutex
	var list []string
	dial = func(ctx context.Context, user, network, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, user+" "+network+" "+address)
		switch address {
		case "web.only-there:80", "192.0.2.7:80", "[2001:db8::7]:80":
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		case "refused.test:80":
			return nil, fmt.Errorf("to somewhere: %w", &forward.Error{Code: forward.CodeRefused})
		}
		return nil, errors.New("a link that is down")
	}
	return dial, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}

func curl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := testenv.Command(t, "curl", append([]string{"-sS", "--max-time", "10"}, args...)...).CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

func TestCurl(t *testing.T) {
	dial, asked := web(t)
	addr := serve(t, &Server{Dial: dial})
	require.Equal(t, "hello", curl(t, "--socks5-hostname", addr, "http://web.only-there/"))
	require.Equal(t, "hello", curl(t, "--socks5", addr, "http://192.0.2.7/"))
	require.Equal(t, "hello", curl(t, "--socks5", addr, "http://[2001:db8::7]/"))
	require.Equal(t, "hello", curl(t, "--socks4a", addr, "http://web.only-there/"))
	require.Equal(t, "hello", curl(t, "--socks4", addr, "http://192.0.2.7/"))
	require.Equal(t, "hello", curl(t, "--proxy", "http://"+addr, "--proxytunnel", "http://web.only-there/"))
	require.Equal(t, []string{
		" tcp web.only-there:80", " tcp 192.0.2.7:80", " tcp [2001:db8::7]:80", " tcp web.only-there:80", " tcp 192.0.2.7:80", " tcp web.only-there:80",
	}, asked())
	require.Contains(t, curl(t, "--socks5-hostname", addr, "http://refused.test/"), "(5)")
	require.Contains(t, curl(t, "--socks5-hostname", addr, "http://down.test/"), "(1)", "a link that is down is no direct connection")
	require.Contains(t, curl(t, "--socks4a", addr, "http://down.test/"), "91")
	require.Contains(t, curl(t, "--proxy", "http://"+addr, "--proxytunnel", "http://down.test/"), "502")
	require.Contains(t, curl(t, "-i", "--proxy", "http://"+addr, "http://web.only-there/"), "405")
}

func TestCurlWithAuth(t *testing.T) {
	dial, asked := web(t)
	addr := serve(t, &Server{Dial: dial, Auth: func(user, password string) error {
		if user == "bob" && password == "secret" {
			return nil
		}
		return errors.New("no")
	}})
	require.Equal(t, "hello", curl(t, "--socks5-hostname", "bob:secret@"+addr, "http://web.only-there/"))
	require.Equal(t, "hello", curl(t, "--proxy", "http://bob:secret@"+addr, "--proxytunnel", "http://web.only-there/"))
	require.Equal(t, []string{"bob tcp web.only-there:80", "bob tcp web.only-there:80"}, asked())
	for _, args := range [][]string{
		{"--socks5-hostname", addr}, {"--socks5-hostname", "bob:wrong@" + addr}, {"--socks4a", "bob@" + addr},
		{"--proxy", "http://" + addr, "--proxytunnel"}, {"--proxy", "http://bob:wrong@" + addr, "--proxytunnel"},
	} {
		require.NotContains(t, curl(t, append(args, "http://web.only-there/")...), "hello", args)
	}
	require.Len(t, asked(), 2, "nothing was dialled for who is not admitted")
}

func TestProxychains(t *testing.T) {
	testenv.Tool(t, "curl")
	dial, _ := web(t)
	addr := serve(t, &Server{Dial: dial})
	host, port, _ := net.SplitHostPort(addr)
	config := t.TempDir() + "/conf"
	require.NoError(t, writeFile(config, "strict_chain\nquiet_mode\nproxy_dns\n[ProxyList]\nsocks5 "+host+" "+port+"\n"))
	out, err := testenv.Command(t, "proxychains4", "-f", config, "curl", "-sS", "--max-time", "10", "http://web.only-there/").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "hello")
}

func TestGoClient(t *testing.T) {
	dial, _ := web(t)
	d, err := proxy.SOCKS5("tcp", serve(t, &Server{Dial: dial}), nil, proxy.Direct)
	require.NoError(t, err)
	nc, err := d.Dial("tcp", "web.only-there:80")
	require.NoError(t, err)
	_, err = io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	text, err := io.ReadAll(nc)
	require.NoError(t, err)
	require.Contains(t, string(text), "hello")
	require.NoError(t, nc.Close())
	_, err = d.Dial("tcp", "refused.test:80")
	require.ErrorContains(t, err, "refused")
}

func TestOpenProxyIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	require.ErrorIs(t, new(Server).Serve(l), errOpenProxy)
	l, err = net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	s := &Server{Auth: func(string, string) error { return nil }}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	require.NoError(t, s.Shutdown(t.Context()))
	require.ErrorIs(t, <-done, net.ErrClosed)
}

// talk writes a request and returns the answer.
func talk(t *testing.T, addr, request string) []byte {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer nc.Close()
	_, err = io.WriteString(nc, request)
	require.NoError(t, err)
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	_ = nc.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(nc)
	return answer
}

func TestBindAndUDPAreRefused(t *testing.T) {
	dial, asked := web(t)
	addr := serve(t, &Server{Dial: dial})
	for _, cmd := range []byte{2, 3, 0, 4, 255} {
		got := talk(t, addr, "\x05\x01\x00\x05"+string([]byte{cmd})+"\x00\x01\x7f\x00\x00\x01\x00\x50")
		require.Equal(t, []byte{5, 0, 5, 7}, got[:4], "command %d", cmd)
	}
	require.Equal(t, []byte{5, 0, 5, 8}, talk(t, addr, "\x05\x01\x00\x05\x01\x00\x09\x7f\x00\x00\x01\x00\x50")[:4], "a type of address that is none")
	require.Equal(t, []byte{5, 0, 5, 8}, talk(t, addr, "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50")[:4], "an empty name")
	require.Equal(t, []byte{5, 0, 5, 8}, talk(t, addr, "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00")[:4], "port 0")
	require.Equal(t, []byte{5, 255}, talk(t, addr, "\x05\x01\x02"), "a method that is not offered")
	require.Equal(t, byte(0x5b), talk(t, addr, "\x04\x02\x00\x50\x7f\x00\x00\x01\x00")[1])
	require.Empty(t, talk(t, addr, "\x06\x01\x00"))
	require.Empty(t, asked())
}

func TestHandshakeTimeout(t *testing.T) { synctest.Test(t, testHandshakeTimeout) }
func testHandshakeTimeout(t *testing.T) {
	for _, sent := range []string{"", "\x05", "\x05\x01\x00", "\x04\x01", "CONNECT x"} {
		here, there := net.Pipe()
		begun := time.Now()
		done := make(chan error, 1)
		go func() { done <- (&Server{}).ServeConn(t.Context(), there) }()
		go func() { _, _ = io.Copy(io.Discard, here) }()
		if sent != "" {
			_, err := io.WriteString(here, sent)
			require.NoError(t, err)
		}
		<-done
		require.Equal(t, defaultHandshakeTimeout, time.Since(begun), "%q", sent)
		_ = here.Close()
	}
}

func TestLimits(t *testing.T) {
	for _, limit := range []int{2, -1} {
		addr := serve(t, &Server{MaxConns: limit})
		var open []net.Conn
		for range 4 {
			nc, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			open = append(open, nc)
			if limit > 0 && len(open) > limit {
				_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
				_, err := nc.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
				continue
			}
			_, err = io.WriteString(nc, "\x05\x01\x00")
			require.NoError(t, err)
			_, err = io.ReadFull(nc, make([]byte, 2))
			require.NoError(t, err)
		}
		for _, nc := range open {
			_ = nc.Close()
		}
	}
	for _, limit := range []int{1, -1} {
		addr := serve(t, &Server{UDP: true, MaxAssociations: limit})
		for i := range 2 {
			nc, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			defer nc.Close()
			_, err = io.WriteString(nc, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
			require.NoError(t, err)
			answer := make([]byte, 4)
			_, err = io.ReadFull(nc, answer)
			require.NoError(t, err)
			require.Equal(t, limit > 0 && i == 1, answer[3] != 0)
		}
	}
}

func TestLogHasNoDestination(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	dial, _ := web(t)
	s := &Server{Dial: dial, Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: &log, mu: &mu}, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	addr := serve(t, s)
	for _, target := range []string{"refused.test", "planted-canary.test"} {
		curl(t, "--socks5-hostname", addr, "http://"+target+"/")
		curl(t, "--proxy", "http://"+addr, "--proxytunnel", "http://"+target+"/")
	}
	require.NoError(t, s.Shutdown(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	require.Contains(t, log.String(), "socks: dial: connection refused")
	require.NotContains(t, log.String(), "test")
}

type lockedWriter struct {
	w  io.Writer
	mu *sync.Mutex
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(b)
}

func TestNpmSocks(t *testing.T) {
	node := testenv.Tool(t, "node")
	dial, _ := web(t)
	addr := serve(t, &Server{Dial: dial})
	host, port, _ := net.SplitHostPort(addr)
	script := `const {SocksClient} = require("socks");
for (const type of [4, 5]) SocksClient.createConnection({proxy: {host: "` + host + `", port: ` + port + `, type}, command: "connect",
  destination: {host: "web.only-there", port: 80}}).then(({socket}) => {
  socket.on("data", d => process.stdout.write(type + d.toString().split("\r\n\r\n")[1] + "\n")); socket.on("end", () => socket.destroy());
  socket.write("GET / HTTP/1.0\r\n\r\n"); socket.resume(); }).catch(e => { console.error(e); process.exit(1) });`
	out := runNode(t, node, script)
	require.Contains(t, out, "4hello")
	require.Contains(t, out, "5hello")
	require.Equal(t, 2, strings.Count(out, "hello"))
}
