package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// A plan is what a connection to a peer's tunnels is for.
type plan struct {
	local, remote []string // -L and -R
	socks         string   // address; empty: no proxy
	expose        string   // local address that is published
	as            string   // under this name
}

func (a *app) connectCommand() *cobra.Command {
	var p plan
	c := &cobra.Command{Use: "connect PEER", Short: "Keep forwards and a SOCKS proxy through a peer up", Args: count(1, 1)}
	c.Flags().StringArrayVarP(&p.local, "local", "L", nil, "as ssh -L: `[ADDR:]PORT:HOST:PORT`")
	c.Flags().StringArrayVarP(&p.remote, "remote", "R", nil, "as ssh -R: `[ADDR:]PORT:HOST:PORT`")
	c.Flags().StringVar(&p.socks, "socks", "", "a SOCKS5 and HTTP proxy on this loopback `address`")
	c.RunE = func(c *cobra.Command, args []string) error { return a.keep(c.Context(), args[0], p) }
	return c
}

func (a *app) forwardCommand() *cobra.Command {
	var p plan
	c := &cobra.Command{Use: "forward PEER", Short: "Keep port forwards through a peer up", Args: count(1, 1)}
	c.Flags().StringArrayVarP(&p.local, "local", "L", nil, "as ssh -L: `[ADDR:]PORT:HOST:PORT`")
	c.Flags().StringArrayVarP(&p.remote, "remote", "R", nil, "as ssh -R: `[ADDR:]PORT:HOST:PORT`")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(p.local)+len(p.remote) == 0 {
			return fault.New(fault.Usage, "say what to forward: -L or -R", c.CommandPath()+" --help")
		}
		return a.keep(c.Context(), args[0], p)
	}
	return c
}

func (a *app) socksCommand() *cobra.Command {
	c := &cobra.Command{Use: "socks PEER [ADDR]", Short: "Run a SOCKS5 and HTTP proxy that leaves at a peer", Args: count(1, 2)}
	c.RunE = func(c *cobra.Command, args []string) error {
		p := plan{socks: "127.0.0.1:1080"}
		if len(args) == 2 {
			p.socks = args[1]
		}
		return a.keep(c.Context(), args[0], p)
	}
	return c
}

func (a *app) exposeCommand() *cobra.Command {
	var p plan
	var on string
	c := &cobra.Command{
		Use:   "expose ADDR --as NAME [--on PEER]",
		Short: "Publish a local port under a name, at the node here or at a peer",
		Long: "Publish a local port under a name, at the node here or at a peer. No port is opened there: who may dial the name by\n" +
			"[forward] reaches it as NAME.alk, through alknet socks, or with alknet forward -L PORT:NAME.alk:80.",
		Args: count(1, 1),
	}
	c.Flags().StringVar(&p.as, "as", "", "the `name`, [a-z0-9-]{1,63}")
	c.Flags().StringVar(&on, "on", "", "the `peer` that others dial it through; without it the node here")
	c.RunE = func(c *cobra.Command, args []string) error {
		if p.as == "" {
			return fault.New(fault.Usage, "say under which name: --as NAME", c.CommandPath()+" --help")
		}
		if on == "" {
			on = node.LocalID
		}
		if _, _, err := net.SplitHostPort(args[0]); err != nil {
			return fault.New(fault.Usage, quoted(args[0])+" is not HOST:PORT", "")
		}
		p.expose = args[0]
		return a.keep(c.Context(), on, p)
	}
	return c
}

// keep runs a plan until it is interrupted. The first connection has to succeed;
// after that it is made again for ever.
func (a *app) keep(ctx context.Context, peer string, p plan) error {
	forwards, err := p.forwards()
	if err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	w, err := a.way(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	var listener net.Listener
	if p.socks != "" {
		if !config.IsLoopback(p.socks) {
			return fault.New(fault.Usage, "the proxy asks nobody who they are: only loopback addresses", "")
		}
		if listener, err = net.Listen("tcp", p.socks); err != nil {
			return err
		}
	}
	first, err := w.tunnel(ctx, peer)
	if err != nil {
		if listener != nil {
			_ = listener.Close() // never used
		}
		return err
	}
	k := &keeping{a: a, w: w, peer: peer, plan: p, first: tunnel.NewClient(first), failc: make(chan error, 1)}
	k.Keeper = &forward.Keeper{Connect: k.connect, Forwards: forwards, OnState: k.state, Logger: slog.New(slog.DiscardHandler)}
	return k.run(ctx, listener)
}

// tunnel connects to the tunnels of a peer, or of the node here.
func (w *way) tunnel(ctx context.Context, peer string) (*alknet.Conn, error) {
	if peer != node.LocalID {
		return w.dial(ctx, peer, 0, tunnel.ALPN)
	}
	if w.node == nil {
		return nil, fault.New(fault.Unreachable, "no node runs here that could publish a name", "alknet serve")
	}
	return w.node.Dial(ctx, alknet.Mux, tunnel.ALPN)
}

// forwards reads -L and -R as ssh(1) does.
func (p plan) forwards() (all []forward.Forward, err error) {
	for _, group := range []struct {
		flag byte
		list []string
	}{{'L', p.local}, {'R', p.remote}} {
		for _, text := range group.list {
			f, err := forward.ParseForward(group.flag, text)
			if err != nil {
				return nil, fault.New(fault.Usage, err.Error(), "")
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// keeping is one run of a plan.
type keeping struct {
	*forward.Keeper
	a    *app
	w    *way
	peer string
	plan plan
	wg   sync.WaitGroup

	mu    sync.Mutex
	first *tunnel.Client // guarded by mu; used by the first connect
	up    bool           // guarded by mu
	failc chan error     // what ends the run at once
}

func (k *keeping) connect(ctx context.Context) (forward.Link, error) {
	k.mu.Lock()
	c := k.first
	k.first = nil
	k.mu.Unlock()
	if c == nil {
		conn, err := k.w.tunnel(ctx, k.peer)
		if err != nil {
			return nil, err
		}
		c = tunnel.NewClient(conn)
	}
	if k.plan.expose != "" {
		l, err := c.Publish(ctx, k.plan.as)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		safe.Go(&k.wg, k.fail, func() { k.serve(ctx, l) })
	}
	return node.WithNames(c), nil
}

func (k *keeping) fail(err error) {
	select {
	case k.failc <- err:
	default:
	}
}

// serve carries what comes for the published name to the local port.
func (k *keeping) serve(ctx context.Context, l net.Listener) {
	for {
		far, err := l.Accept()
		if err != nil {
			return // the link is down, or the plan is over
		}
		safe.Go(&k.wg, k.fail, func() {
			var d net.Dialer
			near, err := d.DialContext(ctx, "tcp", k.plan.expose)
			if err != nil {
				k.a.say("%s does not answer: %v", k.plan.expose, err)
				_ = far.Close() // nothing was exchanged
				return
			}
			_, _, _ = forward.Splice(ctx, far, near) // each end sees how it ended
		})
	}
}

// state prints the line for whoever waits for it.
func (k *keeping) state(up bool, err error) {
	k.mu.Lock()
	changed := up != k.up
	k.up = up
	k.mu.Unlock()
	switch {
	case up && err != nil:
		k.a.say("%s refuses a forward: %v", plain(k.peer), err)
	case up && changed:
		_ = k.a.result(upOut{"up", k.peer, k.plan.socks, k.plan.as}, func(w io.Writer) { fmt.Fprintf(w, "alknet: up %s\n", k.describe()) })
	case !up && err != nil:
		k.a.say("%s is down: %v", plain(k.peer), err)
		if k.plan.expose != "" && fault.Of(err).Exit == fault.Denied {
			k.fail(err)
		}
	}
}

// upOut is the event of a link that stands.
type upOut struct {
	Event string `json:"event"`
	Peer  string `json:"peer"`
	Socks string `json:"socks,omitzero"`
	As    string `json:"as,omitzero"`
}

func (k *keeping) describe() string {
	s := "peer=" + plain(k.peer)
	if k.plan.socks != "" {
		s += " socks=" + k.plan.socks
	}
	if k.plan.as != "" {
		s += " name=" + k.plan.as
	}
	return s
}

// run keeps the plan until ctx ends.
func (k *keeping) run(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	safe.Go(&k.wg, k.fail, func() { ended <- k.Run(ctx) })
	srv := &socks.Server{Dial: k.dialThrough}
	if listener != nil {
		safe.Go(&k.wg, k.fail, func() { _ = srv.Serve(listener) }) // ends with the listener
	}
	var err error
	select {
	case err = <-ended:
	case err = <-k.failc:
	}
	cancel(err)
	if listener != nil {
		now, stop := context.WithCancel(context.Background())
		stop()
		_ = srv.Shutdown(now) // cut at once
	}
	k.wg.Wait()
	if errors.Is(err, os.ErrPermission) {
		return fault.New(fault.Denied, err.Error(), "")
	}
	return err
}

func (k *keeping) dialThrough(ctx context.Context, _, network, address string) (net.Conn, error) {
	link, err := k.Link(ctx)
	if err != nil {
		return nil, err
	}
	return link.DialContext(ctx, network, address)
}
