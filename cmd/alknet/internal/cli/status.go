package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	var wait string
	c := &cobra.Command{Use: "status", Short: "Describe the running node", Args: count(0, 0)}
	c.Flags().BoolVar(&watch, "watch", false, "go on with what happens")
	c.Flags().StringVar(&wait, "wait", "", "wait until the node is in this `state`: ready")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		if wait != "" && wait != "ready" {
			return fault.New(fault.Usage, "--wait takes ready", "")
		}
		s, err := a.status(ctx, wait)
		if err != nil {
			return err
		}
		if err := a.result(s, func(w io.Writer) { a.writeStatus(w, s) }); err != nil || !watch {
			return err
		}
		return a.watch(ctx)
	}
	return c
}

// status asks the node, with wait until it is ready.
func (a *app) status(ctx context.Context, wait string) (node.Status, error) {
	for {
		s, err := a.statusOnce(ctx)
		if wait == "" || err == nil && s.Node.State == wait {
			return s, err
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fault.New(fault.Deadline, "the node is "+s.Node.State, "")
			}
			return s, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *app) statusOnce(ctx context.Context) (s node.Status, err error) {
	n, err := a.connect(ctx)
	if err != nil {
		return s, err
	}
	defer n.Close()
	return call.Call[node.Status](ctx, n, "node/status", struct{}{})
}

func (a *app) watch(ctx context.Context) error {
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	for e, err := range call.Subscribe[node.Event](ctx, n, "node/events", struct{}{}) {
		if err != nil {
			return err
		}
		if err := a.result(e, func(w io.Writer) {
			fmt.Fprintf(w, "%s  %-16s %s %s\n", e.At.Local().Format("15:04:05.000"), e.Event, plain(e.Peer), plain(e.Detail))
		}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) writeStatus(w io.Writer, s node.Status) {
	name := s.Node.ID
	if s.Node.Name != "" {
		name += " " + plain(s.Node.Name)
	}
	fmt.Fprintf(w, "%s, %s since %s, pid %d, version %s\n", name, s.Node.State,
		s.Node.Started.Local().Format(time.DateTime), s.Node.PID, s.Node.Version)
	for _, l := range s.Listeners {
		fmt.Fprintf(w, "listens on %s: udp %s, tcp %s\n", l.Name, orNone(l.UDP), orNone(l.TCP))
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "warning: %s (try: %s)\n", warning.Text, warning.Fix)
	}
	rows := [][]string{{"ALPN", "OVER", "FOR", "CONNS", "STREAMS", "IN", "OUT", "PANICS"}}
	for _, v := range s.Services {
		rows = append(rows, []string{v.ALPN, v.Over, v.Access, fmt.Sprint(v.Connections), fmt.Sprint(v.Streams), size(v.BytesIn), size(v.BytesOut), fmt.Sprint(v.Panics)})
	}
	fmt.Fprintln(w)
	table(w, rows)
	if len(s.Peers) > 0 {
		rows = [][]string{{"PEER", "STATE", "BY", "RTT", "KEY"}}
		for _, p := range s.Peers {
			by, rtt := "-", "-"
			if len(p.Links) > 0 {
				by = p.Links[0].Transport + " " + p.Links[0].Remote
				if ms := p.Links[0].RTTMillis; ms > 0 { // not measured yet
					rtt = fmt.Sprintf("%.1f ms", ms)
				}
			}
			rows = append(rows, []string{plain(p.ID), p.State, by, rtt, p.Key})
		}
		fmt.Fprintln(w)
		table(w, rows)
	}
	fmt.Fprintf(w, "\ncalls: %d running, %d streams, %d kept; %d goroutines, %s resident, %d files open\n", s.Calls.Running,
		s.Calls.Subscriptions, s.Calls.Retained, s.Runtime.Goroutines, size(s.Runtime.RSS), s.Runtime.FDs)
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func (a *app) reloadCommand() *cobra.Command {
	c := &cobra.Command{Use: "reload", Short: "Apply the configuration as it is now, or nothing of it", Args: count(0, 0)}
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		if a.dryRun {
			_, _, list, err := a.load()
			if err != nil {
				return err
			}
			if err := asError(list); err != nil {
				return err
			}
			return a.dry("apply a configuration without problems")
		}
		n, err := a.connect(ctx)
		if err != nil {
			return err
		}
		defer n.Close()
		out, err := call.Call[node.ReloadOut](ctx, n, "node/reload", struct{}{})
		if err != nil {
			return err
		}
		if err := asError(out.Problems); err != nil {
			return err
		}
		if err := a.result(out, func(w io.Writer) {
			if len(out.Changed) == 0 {
				fmt.Fprintln(w, "nothing changed")
				return
			}
			fmt.Fprintln(w, "changed: "+strings.Join(out.Changed, " "))
		}); err != nil {
			return err
		}
		return reloadFault(out)
	}
	return c
}

func (a *app) drainCommand() *cobra.Command {
	c := &cobra.Command{Use: "drain", Short: "Refuse new work, finish what runs, then end the node", Args: count(0, 0)}
	c.RunE = func(c *cobra.Command, _ []string) error { return a.stop(c.Context(), "node/drain", struct{}{}) }
	return c
}

func (a *app) stopCommand() *cobra.Command {
	var now bool
	c := &cobra.Command{Use: "stop", Short: "Drain and end the node; with --now cut what runs", Args: count(0, 0)}
	c.Flags().BoolVar(&now, "now", false, "do not wait for what runs")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return a.stop(c.Context(), "node/stop", node.StopIn{Now: now})
	}
	return c
}

// stop asks the node to end and waits until it has.
func (a *app) stop(ctx context.Context, op string, in any) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	if a.dryRun {
		return a.dry("stop " + n.ID().String())
	}
	if _, err := call.Call[string](ctx, n, op, in); err != nil {
		return err
	}
	select {
	case <-n.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	for { // the lock is the last thing that a node gives up
		_, p, _, err := a.load()
		if err != nil {
			return err
		}
		if free(p.State) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return a.result(stoppedOut{n.ID().String()}, func(w io.Writer) { fmt.Fprintf(w, "stopped %s\n", n.ID()) })
}
