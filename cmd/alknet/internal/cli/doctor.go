package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/doctor"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Look for what is wrong, and say what mends it", Args: count(0, 0)}
	c.RunE = func(c *cobra.Command, _ []string) error { return a.doctor(c.Context()) }
	return c
}

func (a *app) doctor(ctx context.Context) error {
	f, p, problems, err := a.load()
	if err != nil {
		return err
	}
	patient := doctor.Patient{Places: p, File: f, Problems: problems, Now: time.Now()}
	if n, err := agent.Connect(ctx, p.Control); err == nil {
		defer n.Close()
		s, err := call.Call[node.Status](ctx, n, "node/status", struct{}{})
		if err != nil {
			return err
		}
		patient.Status = &s
		patient.Ping = func(ctx context.Context, peer string) error {
			_, err := call.Call[node.PingOut](ctx, n, "node/peers/ping", node.PeerIn{Peer: peer})
			return err
		}
	}
	found := doctor.Examine(ctx, patient)
	if err := a.result(found, func(w io.Writer) {
		for _, x := range found {
			fmt.Fprintf(w, "%s %s: %s\n", x.Severity, x.Code, x.Text)
			if x.Fix != "" {
				fmt.Fprintf(w, "  fix: %s\n", x.Fix)
			}
		}
		if len(found) == 0 {
			fmt.Fprintln(w, "nothing is wrong")
		}
	}); err != nil {
		return err
	}
	if len(found) > 0 {
		return fault.New(fault.Partly, fmt.Sprintf("%d findings", len(found)), "")
	}
	return nil
}
