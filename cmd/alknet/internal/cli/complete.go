package cli

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// completeTime bounds what a shell waits for: without an answer nothing is offered.
const completeTime = time.Second

// maxCompletions bounds what is offered.
const maxCompletions = 1000

// completable is what may reach a command line from a book or a peer.
var completable = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/@:-]{0,200}$`)

// A completion offers values for one position.
type completion func(a *app, ctx context.Context, typed string) []string

// completes sets what a command offers for its arguments, in order; the last one is
// for all that follow if rest is set.
func (a *app) completes(c *cobra.Command, rest bool, positions ...completion) *cobra.Command {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		i := len(args)
		if rest {
			i = min(i, len(positions)-1)
		}
		if i >= len(positions) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.offer(c.Context(), positions[i], typed), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// offer asks for values and keeps those that begin as typed and are safe in a shell.
func (a *app) offer(ctx context.Context, f completion, typed string) []string {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	var all []string
	for _, v := range f(a, ctx, typed) {
		if strings.HasPrefix(v, typed) && completable.MatchString(v) && len(all) < maxCompletions {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// somePeers are the ids of who is known: by the running node, else by the book.
func somePeers(a *app, ctx context.Context, _ string) (ids []string) {
	f, p, err := a.configured()
	if err != nil {
		return nil
	}
	var entries []node.PeerEntry
	if n, err := agent.Connect(ctx, p.Control); err == nil {
		defer n.Close()
		if entries, err = call.Call[[]node.PeerEntry](ctx, n, "node/peers/list", struct{}{}); err != nil {
			return nil
		}
	} else if d, err := node.OpenDirectory(p, f); err == nil {
		defer d.Close()
		entries = d.Entries()
	}
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// someOperations are the operations of the running node; behind an @ those who may
// be asked.
func someOperations(a *app, ctx context.Context, typed string) (names []string) {
	if op, _, at := strings.Cut(typed, "@"); at {
		for _, id := range append(somePeers(a, ctx, ""), "any", "all") {
			names = append(names, op+"@"+id)
		}
		return names
	}
	_, p, err := a.configured()
	if err != nil {
		return nil
	}
	n, err := agent.Connect(ctx, p.Control)
	if err != nil {
		return nil
	}
	defer n.Close()
	all, err := operations(ctx, n)
	if err != nil {
		return nil
	}
	for _, op := range all {
		names = append(names, op.Name)
	}
	return names
}

// someTargets are what policy explain takes.
func someTargets(a *app, ctx context.Context, typed string) []string {
	s, err := a.statusOnce(ctx)
	names := append(someOperations(a, ctx, typed), "shell", "dial:", "listen:", "publish:", "name:")
	if err != nil {
		return names
	}
	for _, svc := range s.Services {
		names = append(names, svc.ALPN)
	}
	return names
}

// someALPNs are the services of this node: a peer has most of them too.
func someALPNs(a *app, ctx context.Context, _ string) (names []string) {
	s, err := a.statusOnce(ctx)
	if err != nil {
		return nil
	}
	for _, svc := range s.Services {
		names = append(names, svc.ALPN)
	}
	return names
}
