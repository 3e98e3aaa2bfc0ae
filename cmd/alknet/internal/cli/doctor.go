package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/doctor"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor [PEER]",
		Short: "Look for what is wrong, and say what mends it",
		Long: "Look for what is wrong here, and say what mends it. With PEER, look at the ways to it: every address by QUIC\n" +
			"and by TCP, what it says to each service, and what its node warns of, if we have node:read there.",
		Args: count(0, 1),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 {
			return a.doctorPeer(c.Context(), args[0])
		}
		return a.doctor(c.Context())
	}
	return c
}

// doctorPeer looks at the ways to one peer.
func (a *app) doctorPeer(ctx context.Context, peer string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	w, err := a.way(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	r, err := w.resolve(ctx, peer)
	if err != nil {
		return err
	}
	out := doctor.Probe(ctx, w.endpoint, peer, r)
	if err := a.result(out, func(w io.Writer) { writeReach(w, out) }); err != nil {
		return err
	}
	if n := len(out.Findings) + len(out.Theirs); n > 0 {
		return fault.New(fault.Partly, fmt.Sprintf("%d findings", n), "")
	}
	return nil
}

func writeReach(w io.Writer, r doctor.Reach) {
	rows := [][]string{{"PATH", "BY", "ANSWER", "MS", ""}}
	for _, p := range r.Paths {
		rows = append(rows, []string{plain(p.Address), p.Transport, p.Answer, fmt.Sprintf("%.1f", p.Millis), shorten(p.Why)})
	}
	table(w, rows)
	rows = [][]string{{"SERVICE", "ANSWER", ""}}
	for _, s := range r.Services {
		rows = append(rows, []string{s.ALPN, s.Answer, shorten(s.Why)})
	}
	table(w, rows)
	writeFindings(w, "", r.Findings)
	switch {
	case r.Told:
		var quoted []doctor.Finding // it is the peer's text
		for _, f := range r.Theirs {
			quoted = append(quoted, doctor.Finding{Code: plain(f.Code), Severity: f.Severity, Text: plain(f.Text), Fix: plain(f.Fix)})
		}
		writeFindings(w, "there: ", quoted)
	case len(r.Services) > 0:
		fmt.Fprintln(w, "its node does not tell us about itself: we lack node:read there")
	}
	if len(r.Findings)+len(r.Theirs) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
}

// shorten keeps a cause on its line.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 90 {
		return string(r[:90]) + "..."
	}
	return s
}

func writeFindings(w io.Writer, where string, found []doctor.Finding) {
	for _, x := range found {
		fmt.Fprintf(w, "%s%s %s: %s\n", where, x.Severity, x.Code, x.Text)
		if x.Fix != "" {
			fmt.Fprintf(w, "  fix: %s\n", x.Fix)
		}
	}
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
		writeFindings(w, "", found)
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
