package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

func (a *app) policyCommand() *cobra.Command {
	explain := &cobra.Command{
		Use:   "explain PEER ALPN|OP|dial:HOST:PORT|listen:HOST:PORT|publish:NAME|name:NAME|shell",
		Short: "Say what the node would decide, which rule decides, and what is missing",
		Args:  count(2, 2),
	}
	explain.RunE = func(c *cobra.Command, args []string) error {
		n, err := a.connect(c.Context())
		if err != nil {
			return err
		}
		defer n.Close()
		v, err := a.verdict(c.Context(), n, args[0], args[1])
		if err != nil {
			return err
		}
		return a.result(v, func(w io.Writer) { writeVerdict(w, v) })
	}
	check := &cobra.Command{
		Use:   "check FILE",
		Short: "Compare a table of expected verdicts with what the node would decide",
		Long: "Compare a table of expected verdicts with what the node would decide.\n" +
			"Each line of FILE is: allow|deny PEER TARGET. # begins a comment. - is standard input.",
		Args: count(1, 1),
	}
	check.RunE = func(c *cobra.Command, args []string) error { return a.policyCheck(c.Context(), args[0]) }
	return a.group("policy", "Explain and test who may do what", explain, check)
}

func (a *app) verdict(ctx context.Context, n *agent.Client, peer, target string) (node.Verdict, error) {
	v, err := call.Call[node.Verdict](ctx, n, "node/policy", node.PolicyIn{Peer: peer, Target: target})
	if err != nil {
		_, err = resolved(node.Resolved{}, err)
	}
	return v, err
}

func writeVerdict(w io.Writer, v node.Verdict) {
	last := v.Steps[len(v.Steps)-1]
	if v.Allowed {
		fmt.Fprintf(w, "allowed: %s\n", plain(last.Why))
	} else {
		fmt.Fprintf(w, "denied: %s", plain(last.Why))
		if v.Hint != "" {
			fmt.Fprintf(w, "; allow it with: %s", v.Hint)
		}
		fmt.Fprintln(w)
	}
	for _, s := range v.Steps {
		mark := "ok"
		if !s.OK {
			mark = "no"
		}
		fmt.Fprintf(w, "  %s  %-12s %s\n", mark, s.Step, plain(s.Why))
	}
}

func (a *app) policyCheck(ctx context.Context, path string) error {
	var text []byte
	var err error
	if path == "-" {
		text, err = readBounded(a.Stdin)
	} else {
		text, err = readFile(path)
	}
	if err != nil {
		return fault.New(fault.Usage, err.Error(), "")
	}
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	wrong := []wrongOut{}
	lines := 0
	for i, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 || fields[0] != "allow" && fields[0] != "deny" {
			return fault.New(fault.Usage, fmt.Sprintf("%s:%d: want allow|deny PEER TARGET", path, i+1), "")
		}
		v, err := a.verdict(ctx, n, fields[1], fields[2])
		if err != nil {
			return err
		}
		lines++
		if v.Allowed != (fields[0] == "allow") {
			wrong = append(wrong, wrongOut{i + 1, fields[0], v})
		}
	}
	if err := a.result(policyCheckOut{lines, wrong}, func(w io.Writer) {
		for _, x := range wrong {
			v := x.Verdict
			fmt.Fprintf(w, "%s:%d: expected %s %s %s: %s\n", path, x.Line, x.Expected, plain(v.Peer), plain(v.Target), plain(v.Steps[len(v.Steps)-1].Why))
		}
		fmt.Fprintf(w, "%d verdicts, %d not as expected\n", lines, len(wrong))
	}); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fault.New(fault.Partly, fmt.Sprintf("%d of %d verdicts are not as expected", len(wrong), lines), "")
	}
	return nil
}
