package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/peer"
)

// rights are what a peer gets, as flags of several commands.
type rights struct {
	can     []string
	labels  map[string]string
	imports []string
	export  bool
}

func (r *rights) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&r.can, "can", nil, "a `scope`, or type=value of a resource; may be repeated")
	c.Flags().StringToStringVar(&r.labels, "label", nil, "`k=v` for choosing among peers")
	c.Flags().StringSliceVar(&r.imports, "import", nil, "a `glob` of operations that we take from it")
	c.Flags().BoolVar(&r.export, "export", false, "our callers may use what we took")
}

func (a *app) peerCommand() *cobra.Command {
	var r rights
	var name, note string
	add := &cobra.Command{Use: "add NAME ID[@HOST:PORT]", Short: "Write a peer into the book", Args: count(2, 2)}
	r.flags(add)
	add.Flags().StringVar(&name, "name", "", "what people call it")
	add.Flags().StringVar(&note, "note", "", "for people")
	add.RunE = func(c *cobra.Command, args []string) error {
		return a.peerAdd(c.Context(), args[0], args[1], r, peer.Peer{Name: name, Note: note})
	}
	one := func(use, short string, change func(*peer.Peer)) *cobra.Command {
		c := &cobra.Command{Use: use + " PEER", Short: short, Args: count(1, 1)}
		c.RunE = func(c *cobra.Command, args []string) error { return a.peerChange(c.Context(), args[0], change) }
		return c
	}
	list := &cobra.Command{Use: "list", Short: "List who is known", Args: count(0, 0)}
	list.RunE = func(*cobra.Command, []string) error { return a.peerList() }
	show := &cobra.Command{Use: "show PEER", Short: "Show one peer", Args: count(1, 1)}
	show.RunE = func(_ *cobra.Command, args []string) error { return a.peerShow(args[0]) }
	rm := &cobra.Command{Use: "rm PEER", Short: "Remove a peer from the book; its connections end", Args: count(1, 1)}
	rm.RunE = func(c *cobra.Command, args []string) error { return a.peerRemove(c.Context(), args[0]) }
	drain := &cobra.Command{Use: "drain PEER", Short: "Give a peer no new calls, and wait until none runs there", Args: count(1, 1)}
	drain.RunE = func(c *cobra.Command, args []string) error { return a.peerDrain(c.Context(), args[0]) }
	ping := &cobra.Command{Use: "ping PEER", Short: "Ask a peer whether it lives", Args: count(1, 1)}
	ping.RunE = func(c *cobra.Command, args []string) error { return a.peerPing(c.Context(), args[0]) }
	return a.group("peer", "Know other nodes", add, list, show, rm,
		one("enable", "Let a peer in again", func(p *peer.Peer) { p.Disabled = false }),
		one("disable", "Refuse a peer; its connections end", func(p *peer.Peer) { p.Disabled = true }),
		drain, ping)
}

func (a *app) grantCommand() *cobra.Command {
	c := &cobra.Command{Use: "grant PEER SCOPE|TYPE=VALUE...", Short: "Allow a peer more", Args: count(2, -1)}
	c.RunE = func(c *cobra.Command, args []string) error {
		scopes, resources, err := parseRights(args[1:])
		if err != nil {
			return err
		}
		return a.peerChange(c.Context(), args[0], func(p *peer.Peer) { grant(p, scopes, resources) })
	}
	return c
}

func (a *app) revokeCommand() *cobra.Command {
	c := &cobra.Command{Use: "revoke PEER SCOPE|TYPE=VALUE...", Short: "Allow a peer less; what it is doing with it ends", Args: count(2, -1)}
	c.RunE = func(c *cobra.Command, args []string) error {
		scopes, resources, err := parseRights(args[1:])
		if err != nil {
			return err
		}
		return a.peerChange(c.Context(), args[0], func(p *peer.Peer) {
			p.Scopes = slices.DeleteFunc(p.Scopes, func(s string) bool { return slices.Contains(scopes, s) })
			for t, values := range resources {
				left := slices.DeleteFunc(p.Resources[t], func(v string) bool { return slices.Contains(values, v) })
				if p.Resources[t] = left; len(left) == 0 {
					delete(p.Resources, t)
				}
			}
		})
	}
	return c
}

// parseRights tells scopes ("ssh:shell") from resources ("git=site").
func parseRights(args []string) (scopes []string, resources map[string][]string, err error) {
	resources = make(map[string][]string)
	for _, arg := range args {
		t, value, isResource := strings.Cut(arg, "=")
		switch {
		case isResource && t != "" && value != "":
			resources[t] = append(resources[t], value)
		case !isResource && strings.Contains(arg, ":") && !strings.ContainsAny(arg, " *\t\n"):
			scopes = append(scopes, arg)
		default:
			return nil, nil, fault.New(fault.Usage, quoted(arg)+" is neither a scope such as ssh:shell nor a resource such as git=site", "")
		}
	}
	return scopes, resources, nil
}

func grant(p *peer.Peer, scopes []string, resources map[string][]string) {
	for _, s := range scopes {
		if !slices.Contains(p.Scopes, s) {
			p.Scopes = append(p.Scopes, s)
		}
	}
	for t, values := range resources {
		if p.Resources == nil {
			p.Resources = make(map[string][]string)
		}
		for _, v := range values {
			if !slices.Contains(p.Resources[t], v) {
				p.Resources[t] = append(p.Resources[t], v)
			}
		}
	}
}

// updateBook changes the book on disk and has the running node read it. The
// change is durable before this returns, and in force if a node runs.
func (a *app) updateBook(ctx context.Context, change func(map[string]peer.Peer) error) error {
	f, p, err := a.configured()
	if err != nil {
		return err
	}
	for _, c := range f.Peer {
		change = refuseConfigured(c.ID, p.Config, change)
	}
	book, err := node.OpenBook(p)
	if err != nil {
		return err
	}
	defer book.Close()
	if a.dryRun {
		copied := make(map[string]peer.Peer)
		for _, e := range book.Peers() {
			copied[e.ID] = e
		}
		return change(copied)
	}
	if err := book.Update(change); err != nil {
		return err
	}
	n, err := agent.Connect(ctx, p.Control)
	if agent.NotRunning(err) {
		return nil // the next node reads the book
	}
	if err == nil {
		defer n.Close()
		_, err = call.Call[string](ctx, n, "node/peers/sync", struct{}{})
	}
	if err != nil { // who was to lose a right still has it
		return &fault.Error{Exit: fault.Partly, Code: "not_applied", Message: "the book is changed, but the running node has not read it: " + fault.Of(err).Message, Hint: "alknet reload", Err: err}
	}
	return nil
}

// refuseConfigured refuses to write a peer that the configuration has: commands
// never rewrite that file.
func refuseConfigured(id, file string, change func(map[string]peer.Peer) error) func(map[string]peer.Peer) error {
	return func(peers map[string]peer.Peer) error {
		if err := change(peers); err != nil {
			return err
		}
		if _, ok := peers[id]; ok {
			return fault.New(fault.Config, id+" is in "+file+": change it there", "alknet reload")
		}
		return nil
	}
}

func (a *app) peerAdd(ctx context.Context, id, address string, r rights, p peer.Peer) error {
	if !config.ValidPeerID(id) {
		return fault.New(fault.Usage, quoted(id)+" is no id of a peer: [a-z0-9][a-z0-9._-]{0,62}, and not local, any, all or self", "")
	}
	p.ID, p.Labels, p.Import, p.Export = id, r.labels, r.imports, r.export
	key := address
	if strings.Contains(address, "@") {
		addr, err := alknet.ParseAddr(address)
		if err != nil {
			return fault.New(fault.Usage, err.Error(), "")
		}
		p.Addrs = []alknet.Addr{{HostPort: addr.HostPort}}
		key = addr.Peer.String()
	}
	kid, err := alknet.ParsePeerID(key)
	if err != nil {
		return fault.New(fault.Usage, err.Error(), "alknet id")
	}
	p.Keys = []peer.Key{{ID: kid}}
	scopes, resources, err := parseRights(r.can)
	if err != nil {
		return err
	}
	grant(&p, scopes, resources)
	if err := a.updateBook(ctx, func(peers map[string]peer.Peer) error {
		if _, taken := peers[id]; taken {
			return &fault.Error{Exit: fault.Failed, Code: "exists", Message: "there is a peer " + id + " already", Peer: id, Hint: "alknet grant " + id + " SCOPE"}
		}
		peers[id] = p
		return nil
	}); err != nil {
		return err
	}
	if a.dryRun {
		return a.dry("add " + id + " " + kid.String())
	}
	return a.result(addedOut{id, kid.String()}, func(w io.Writer) { fmt.Fprintf(w, "added %s %s\n", id, kid) })
}

func (a *app) peerChange(ctx context.Context, id string, change func(*peer.Peer)) error {
	var after peer.Peer
	if err := a.updateBook(ctx, func(peers map[string]peer.Peer) error {
		p, ok := peers[id]
		if !ok {
			return a.noPeer(id)
		}
		change(&p)
		peers[id], after = p, p
		return nil
	}); err != nil {
		return err
	}
	if a.dryRun {
		return a.dry("have " + id + ": " + describeRights(after.Scopes, after.Resources, after.Disabled))
	}
	out := rightsOut{id, append([]string{}, after.Scopes...), after.Resources, after.Disabled}
	if out.Resources == nil {
		out.Resources = map[string][]string{}
	}
	return a.result(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s\n", id, describeRights(after.Scopes, after.Resources, after.Disabled))
	})
}

func describeRights(scopes []string, resources map[string][]string, disabled bool) string {
	if disabled {
		return "disabled"
	}
	parts := slices.Clone(scopes)
	for _, t := range sortedKeys(resources) {
		for _, v := range resources[t] {
			parts = append(parts, t+"="+v)
		}
	}
	if len(parts) == 0 {
		return "may nothing"
	}
	return "may " + strings.Join(parts, " ")
}

func (a *app) peerRemove(ctx context.Context, id string) error {
	if err := a.confirm("remove " + quoted(id) + " from the book?"); err != nil {
		return err
	}
	if err := a.updateBook(ctx, func(peers map[string]peer.Peer) error {
		if _, ok := peers[id]; !ok {
			return a.noPeer(id)
		}
		delete(peers, id)
		return nil
	}); err != nil {
		return err
	}
	if a.dryRun {
		return a.dry("remove " + id)
	}
	return a.result(removedOut{id}, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", id) })
}

func (a *app) noPeer(id string) error {
	f, p, err := a.configured()
	if err != nil {
		return err
	}
	d, err := node.OpenDirectory(p, f)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Resolve(id); err != nil {
		return err
	}
	return fault.New(fault.Config, id+" is in "+p.Config+": change it there", "alknet reload")
}

// peerEntries are who is known, with their state if a node runs.
func (a *app) peerEntries() ([]node.PeerEntry, error) {
	f, p, err := a.configured()
	if err != nil {
		return nil, err
	}
	ctx := a.ctx
	if n, err := agent.Connect(ctx, p.Control); err == nil {
		defer n.Close()
		return call.Call[[]node.PeerEntry](ctx, n, "node/peers/list", struct{}{})
	}
	d, err := node.OpenDirectory(p, f)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Entries(), nil
}

func (a *app) peerList() error {
	all, err := a.peerEntries()
	if err != nil {
		return err
	}
	return a.result(all, func(w io.Writer) {
		rows := [][]string{{"PEER", "STATE", "MAY", "AT", "KEY"}}
		for _, e := range all {
			key := "-"
			if len(e.Keys) > 0 {
				key = e.Keys[0]
			}
			rows = append(rows, []string{plain(e.ID), orNone(e.State), orNone(strings.Join(e.Scopes, ",")), orNone(strings.Join(e.Addrs, ",")), key})
		}
		table(w, rows)
	})
}

func (a *app) peerShow(id string) error {
	all, err := a.peerEntries()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(e node.PeerEntry) bool { return e.ID == id || slices.Contains(e.Keys, id) })
	if i < 0 {
		return a.noPeer(id)
	}
	e := all[i]
	return a.result(e, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s (%s) %s\n%s\n", e.ID, plain(e.Name), e.Source, e.State, describeRights(e.Scopes, e.Resources, e.Disabled))
		for _, k := range e.Keys {
			fmt.Fprintf(w, "key %s\n", k)
		}
		for _, at := range e.Addrs {
			fmt.Fprintf(w, "at %s\n", plain(at))
		}
		if len(e.Import) > 0 {
			fmt.Fprintf(w, "we take %s\n", strings.Join(e.Import, " "))
		}
	})
}

func (a *app) peerDrain(ctx context.Context, id string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	if a.dryRun {
		return a.dry("drain " + plain(id))
	}
	if _, err := call.Call[string](ctx, n, "node/peers/drain", node.PeerIn{Peer: id}); err != nil {
		return err
	}
	return a.result(drainedOut{id}, func(w io.Writer) { fmt.Fprintf(w, "drained %s\n", plain(id)) })
}

func (a *app) peerPing(ctx context.Context, id string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	out, err := call.Call[node.PingOut](ctx, n, "node/peers/ping", node.PeerIn{Peer: id})
	if err != nil {
		_, err = resolved(node.Resolved{}, err)
		return err
	}
	return a.result(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s answers over %s from %s in %.1f ms, load %.2f\n", plain(id), out.Transport, out.Remote, out.RTTMillis, out.Load)
	})
}
