package node

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/socks"
)

// A local is a listener on this machine, of [admin] or [socks].
type local struct {
	settings any
	addrs    []string // where it listens
	shutdown func(context.Context) error
	wg       sync.WaitGroup
}

func (l *local) close() {
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.shutdown(ctx) // what is left is cut
	l.wg.Wait()
}

// network is where it listens for others than the processes of this machine's user.
func (l *local) network(name string) (all []Listener) {
	if l == nil {
		return nil
	}
	for _, addr := range l.addrs {
		if !filepath.IsAbs(addr) {
			all = append(all, Listener{Name: name, TCP: addr})
		}
	}
	return all
}

// openLocal opens, changes or closes the local listeners as a configuration says.
func (n *Node) openLocal(f *config.File) error {
	var errs []error
	open := func(p **local, settings any, start func() (*local, error)) {
		if *p != nil && reflect.DeepEqual((*p).settings, settings) {
			return
		}
		set := func(l *local) {
			n.mu.Lock()
			defer n.mu.Unlock()
			*p = l
		}
		(*p).close()
		set(nil)
		if settings == nil {
			return
		}
		l, err := start()
		if err != nil {
			errs = append(errs, err)
			return
		}
		l.settings = settings
		set(l)
	}
	open(&n.admin, value(f.Admin), func() (*local, error) { return n.openAdmin(f.Admin) })
	open(&n.sshd, sshdSettings(f.SSH), func() (*local, error) { return n.openSSHD(f.SSH) })
	open(&n.socks, value(f.Socks), func() (*local, error) { return n.openSocks(f.Socks) })
	return errors.Join(errs...)
}

func (n *Node) openAdmin(a *config.Admin) (*local, error) {
	network, address := "tcp", a.Listen
	if path, ok := strings.CutPrefix(a.Listen, "unix:"); ok {
		network, address = "unix", path
		if err := removeSocket(path); err != nil {
			return nil, fmt.Errorf("[admin]: %w", err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("[admin]: %w", err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("[admin]: %w", err), l.Close())
		}
	}
	srv := &http.Server{Handler: n.adminHandler(a), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10}
	lo := &local{addrs: []string{l.Addr().String()}, shutdown: func(ctx context.Context) error { return errors.Join(srv.Shutdown(ctx), srv.Close()) }}
	safe.Go(&lo.wg, n.fail("admin"), func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.fail("admin")(err)
		}
	})
	return lo, nil
}

// removeSocket removes the socket that a dead node left at a path, and nothing
// that is not a socket.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != iofs.ModeSocket:
		return fmt.Errorf("%s is in the way: it is no socket", path)
	}
	return os.Remove(path)
}

func (n *Node) openSocks(s *config.Socks) (*local, error) {
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("[socks]: %w", err)
	}
	k, stop := n.keepTunnel(s.Peer)
	srv := &socks.Server{UDP: s.UDP, MaxConns: s.MaxConns, MaxAssociations: s.MaxAssociations, HandshakeTimeout: s.HandshakeTimeout, Logger: n.log}
	srv.Dial = func(ctx context.Context, _, network, address string) (net.Conn, error) {
		link, err := k.Link(ctx)
		if err != nil {
			return nil, err
		}
		return link.DialContext(ctx, network, address)
	}
	lo := &local{addrs: []string{l.Addr().String()}, shutdown: func(ctx context.Context) error {
		defer stop()
		return srv.Shutdown(ctx)
	}}
	safe.Go(&lo.wg, n.fail("socks"), func() { _ = srv.Serve(l) }) // ends with the listener
	return lo, nil
}

// fail notes that something that runs beside the node has failed.
func (n *Node) fail(what string) func(error) {
	return func(err error) {
		n.log.Error(what+" failed", "event", "part.failed", "err", err)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.problems = append(n.problems, what+": "+err.Error())
	}
}
