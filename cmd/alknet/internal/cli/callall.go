package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// callAll calls an operation on every peer and prints each answer as it comes.
func (a *app) callAll(ctx context.Context, w *way, full string, args []string, fl callFlags) error {
	if w.node == nil {
		return noRouter(full)
	}
	op, _ := splitOp(full)
	spec, err := w.node.Describe(ctx, op+"@any")
	if err != nil {
		return callFault(full, err)
	}
	input, err := a.input(spec.Func.Input, args, fl)
	if err != nil {
		return err
	}
	failed, total := 0, 0
	for r, err := range call.Subscribe[node.AllOut](ctx, w.node, "node/all", node.AllIn{Operation: op, Input: json.RawMessage(input), Labels: fl.labels}) {
		if err != nil {
			return callFault(full, err)
		}
		total++
		if r.Code != "" {
			failed++
		}
		if err := a.result(r, func(w io.Writer) {
			if r.Code != "" {
				fmt.Fprintf(w, "%s\t%s: %s\n", plain(r.Peer), plain(r.Code), plain(r.Error))
				return
			}
			fmt.Fprintf(w, "%s\t%s\n", plain(r.Peer), escapeJSON(r.Output))
		}); err != nil {
			return err
		}
	}
	switch {
	case total == 0:
		return fault.New(fault.NotServed, full+": no peer serves it", "alknet graph")
	case failed == total:
		return fault.New(fault.Remote, full+": it failed everywhere", "")
	case failed > 0:
		return fault.New(fault.Partly, fmt.Sprintf("%s: it failed on %d of %d peers", full, failed, total), "")
	}
	return nil
}
