package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
	"github.com/alkdev/alknet/ssh/tunnel"
)

const page = "a page behind the head\n"

// A site is a web server on loopback, which stands for what only the head reaches.
type site struct {
	http.Server
	wg sync.WaitGroup
}

func openSite(l net.Listener) *site {
	s := &site{Server: http.Server{ReadHeaderTimeout: stepTime, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, page) // the client went away
	})}}
	safe.Go(&s.wg, func(error) {}, func() { _ = s.Serve(l) }) // ends with Close
	return s
}

func (s *site) close() {
	_ = s.Close() // what is left is cut
	s.wg.Wait()
}

// fetch gets a page, with curl where it is, through a proxy unless that is empty.
func (w *world) fetch(ctx context.Context, target, proxy string) (body, with string, err error) {
	if path, stock := w.tool("curl"); stock {
		args := []string{"-sS", "--noproxy", "", "--max-time", "25"}
		if proxy != "" {
			args = append(args, "--proxy", proxy)
		}
		cmd := exec.CommandContext(ctx, path, append(args, target)...)
		cmd.Env, cmd.Dir = []string{"HOME=" + w.dir}, w.dir
		out, err := cmd.CombinedOutput()
		return string(out), curlVersion(ctx, path), err
	}
	tr := &http.Transport{DisableKeepAlives: true}
	if proxy != "" {
		u, err := url.Parse(proxy)
		if err != nil {
			return "", "", err
		}
		tr.Proxy = http.ProxyURL(u)
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", "", err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(b), "our own client", err
}

func curlVersion(ctx context.Context, path string) string {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 2 {
		return "curl"
	}
	return fields[0] + " " + fields[1]
}

// tunnel is a connection of the user to the head's tunnels.
func (w *world) tunnel(ctx context.Context) (*tunnel.Client, error) {
	return tunnel.Dial(ctx, w.you.Dialer(), w.headAddr())
}

func (w *world) stepForward(ctx context.Context) (o outcome, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return o, err
	}
	behind := openSite(l)
	defer behind.close()
	local, err := freePort(ctx)
	if err != nil {
		return o, err
	}
	f, err := forward.ParseForward('L', local+":"+l.Addr().String())
	if err != nil {
		return o, err
	}
	up := make(chan error, 1)
	k := &forward.Keeper{Forwards: []forward.Forward{f},
		Connect: func(ctx context.Context) (forward.Link, error) { return w.tunnel(ctx) },
		OnState: func(ok bool, err error) {
			select {
			case up <- err:
			default:
			}
		}}
	ended := make(chan error, 1)
	begin(func() { ended <- k.Run(ctx) })
	defer func() { cancel(); <-ended }()
	select {
	case err := <-up:
		if err != nil {
			return o, err
		}
	case <-ctx.Done():
		return o, ctx.Err()
	}
	body, with, err := w.fetch(ctx, "http://"+local+"/", "")
	if err != nil {
		return o, fmt.Errorf("-L: %w: %s", err, body)
	}
	if err := want(body == page, page, "%q", body); err != nil {
		return o, err
	}
	if err := w.throughSocks(ctx, k, l.Addr().String()); err != nil {
		return o, err
	}
	return outcome{with, "-L and a SOCKS5 proxy, both leave at the head"}, nil
}

// throughSocks fetches the page through a SOCKS5 proxy that leaves at the head.
func (w *world) throughSocks(ctx context.Context, k *forward.Keeper, behind string) error {
	body, _, err := w.bySocks(ctx, "http://"+behind+"/", k.Link)
	if err != nil {
		return fmt.Errorf("SOCKS5: %w: %s", err, body)
	}
	return want(body == page, page, "%q", body)
}

// bySocks fetches a page through a SOCKS5 proxy whose connections go over a link.
func (w *world) bySocks(ctx context.Context, url string, link func(context.Context) (forward.Link, error)) (body, with string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	srv := &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		c, err := link(ctx)
		if err != nil {
			return nil, err
		}
		return c.DialContext(ctx, network, address)
	}}
	done := make(chan error, 1)
	begin(func() { done <- srv.Serve(l) })
	body, with, err = w.fetch(ctx, url, "socks5h://"+l.Addr().String())
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = srv.Shutdown(stop) // what is left is cut
	<-done
	return body, with, err
}

// stepExpose publishes a web server of the user's at the head, where others reach
// it by its name.
func (w *world) stepExpose(ctx context.Context) (o outcome, err error) {
	owner, err := w.tunnel(ctx)
	if err != nil {
		return o, err
	}
	defer owner.Close()
	l, err := owner.Publish(ctx, "web")
	if err != nil {
		return o, err
	}
	s := openSite(l)
	defer s.close()
	visitor, err := w.tunnel(ctx)
	if err != nil {
		return o, err
	}
	defer visitor.Close()
	link := node.WithNames(visitor)
	body, with, err := w.bySocks(ctx, "http://web.alk/", func(context.Context) (forward.Link, error) { return link, nil })
	if err != nil {
		return o, fmt.Errorf("%w: %s", err, body)
	}
	return outcome{with, "a local web server, published at the head as \"web\""}, want(body == page, page, "%q", body)
}
