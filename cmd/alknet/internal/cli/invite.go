package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/peer/pair"
)

func (a *app) inviteCommand() *cobra.Command {
	var r rights
	var in node.InviteIn
	var period time.Duration
	c := &cobra.Command{Use: "invite", Short: "Make a ticket with which one new peer joins", Args: count(0, 0)}
	r.flags(c)
	c.Flags().StringVar(&in.Name, "name", "", "the `id` of the new peer; without it its own name")
	c.Flags().DurationVar(&period, "for", time.Hour, "how long the ticket is good for")
	c.Flags().BoolVar(&in.Confirm, "confirm", false, "the join waits for: alknet requests approve CODE")
	c.Flags().IntVar(&in.Uses, "uses", 1, "how many may join with it")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		var err error
		if in.Scopes, in.Resources, err = parseRights(r.can); err != nil {
			return err
		}
		if in.Name != "" && !config.ValidPeerID(in.Name) {
			return fault.New(fault.Usage, quoted(in.Name)+" is no id of a peer", "")
		}
		in.Labels, in.Import, in.Export, in.ForMS = r.labels, r.imports, r.export, period.Milliseconds()
		n, err := a.connect(ctx)
		if err != nil {
			return err
		}
		defer n.Close()
		if a.dryRun {
			return a.dry("invite " + quoted(in.Name) + ": " + describeRights(in.Scopes, in.Resources, false))
		}
		out, err := call.Call[node.InviteOut](ctx, n, "node/peers/invite", in)
		if err != nil {
			return err
		}
		return a.result(out, func(w io.Writer) { fmt.Fprintln(w, out.Ticket) })
	}
	return c
}

func (a *app) joinCommand() *cobra.Command {
	var in node.JoinIn
	c := &cobra.Command{Use: "join TICKET", Short: "Join a node with its ticket", Args: count(1, 1)}
	c.Flags().StringVar(&in.Name, "name", "", "what we call ourselves")
	c.Flags().StringVar(&in.As, "as", "", "what the other node is called here")
	c.Flags().StringToStringVar(&in.Labels, "label", nil, "`k=v` that we say of ourselves")
	c.RunE = func(c *cobra.Command, args []string) error {
		in.Ticket = args[0]
		if _, err := pair.ParseTicket(in.Ticket); err != nil {
			return fault.New(fault.Usage, err.Error(), "")
		}
		if in.As != "" && !config.ValidPeerID(in.As) {
			return fault.New(fault.Usage, quoted(in.As)+" is no id of a peer", "")
		}
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		if a.dryRun {
			return a.dry("join with the ticket")
		}
		out, err := a.join(ctx, in)
		if err != nil {
			return err
		}
		return a.result(out, func(w io.Writer) {
			fmt.Fprintf(w, "joined %s as %s; you %s\n", plain(out.Head), plain(out.ID), describeRights(out.Scopes, nil, false))
		})
	}
	return c
}

// join joins with the running node, or with the vault unlocked here.
func (a *app) join(ctx context.Context, in node.JoinIn) (out node.JoinOut, err error) {
	_, p, err := a.configured()
	if err != nil {
		return out, err
	}
	if !a.direct {
		n, err := agent.Connect(ctx, p.Control)
		if err == nil {
			defer n.Close()
			return call.Call[node.JoinOut](ctx, n, "node/peers/join", in)
		}
		if fault.Of(err).Exit != fault.Unreachable {
			return out, err
		}
	}
	w, err := a.wayByVault(ctx)
	if err != nil {
		return out, err
	}
	defer w.close()
	book, err := node.OpenBook(p)
	if err != nil {
		return out, err
	}
	defer book.Close()
	me := pair.Joining{Name: in.Name, Labels: in.Labels, OnCode: func(code string) { a.say("waiting until somebody approves the code %s", code) }}
	return node.Join(ctx, w.endpoint, book, in, me)
}

func (a *app) requestsCommand() *cobra.Command {
	approve := &cobra.Command{Use: "approve CODE", Short: "Let in who shows this code", Args: count(1, 1)}
	approve.RunE = func(c *cobra.Command, args []string) error {
		n, err := a.connect(c.Context())
		if err != nil {
			return err
		}
		defer n.Close()
		if a.dryRun {
			return a.dry("let in who shows " + quoted(args[0]))
		}
		_, err = call.Call[string](c.Context(), n, "node/peers/approve", map[string]string{"code": args[0]})
		if ce, ok := errors.AsType[*call.Error](err); ok && ce.Code == "FAILED" {
			return fault.New(fault.Unknown, ce.Message, "alknet requests")
		}
		if err != nil {
			return err
		}
		return a.result(approvedOut{args[0]}, func(io.Writer) {})
	}
	c := &cobra.Command{Use: "requests", Short: "List who waits to be let in", Args: a.noCommand}
	c.AddCommand(approve)
	c.RunE = func(c *cobra.Command, _ []string) error {
		n, err := a.connect(c.Context())
		if err != nil {
			return err
		}
		defer n.Close()
		all, err := call.Call[[]node.RequestOut](c.Context(), n, "node/peers/requests", struct{}{})
		if err != nil {
			return err
		}
		return a.result(all, func(w io.Writer) {
			for _, r := range all {
				fmt.Fprintf(w, "%s  %s  %s\n", r.Code, quoted(r.Name), r.Key)
			}
		})
	}
	return c
}

// graphCommand draws who is connected.
func (a *app) graphCommand() *cobra.Command {
	var dot bool
	c := &cobra.Command{Use: "graph", Short: "Draw the peers that are attached", Args: count(0, 0)}
	c.Flags().BoolVar(&dot, "dot", false, "as DOT, for graphviz")
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := a.status(c.Context(), "")
		if err != nil {
			return err
		}
		return a.result(s.Peers, func(w io.Writer) {
			if dot {
				writeDOT(w, s)
				return
			}
			a.writeGraph(w, s)
		})
	}
	return c
}

func (a *app) writeGraph(w io.Writer, s node.Status) {
	tee, end, line := "|-", "`-", "--"
	if a.unicode() {
		tee, end, line = "├─", "└─", "──"
	}
	name := s.Node.Name
	if name == "" {
		name = s.Node.ID[:8]
	}
	fmt.Fprintf(w, "%s  %s\n", plain(name), s.Node.State)
	for i, p := range s.Peers {
		branch := tee
		if i == len(s.Peers)-1 {
			branch = end
		}
		by := ""
		if len(p.Links) > 0 {
			by = strings.ToLower(p.Links[0].Transport) + line
		}
		fmt.Fprintf(w, "%s%s%s  %s, %d operations, %d calls\n", branch, by, plain(p.ID), p.State, len(p.Operations), p.Running)
	}
}

func writeDOT(w io.Writer, s node.Status) {
	fmt.Fprintf(w, "graph alknet {\n  %q [shape=box];\n", s.Node.ID[:8])
	for _, p := range s.Peers {
		by := "none"
		if len(p.Links) > 0 {
			by = p.Links[0].Transport
		}
		fmt.Fprintf(w, "  %q -- %q [label=%q];\n", s.Node.ID[:8], plain(p.ID), p.State+" "+by)
	}
	fmt.Fprintln(w, "}")
}
