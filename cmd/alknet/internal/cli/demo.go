package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/cmd/alknet/internal/demo"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

func (a *app) demoCommand() *cobra.Command {
	var o demo.Options
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show every protocol with real traffic, on loopback, in a folder that is removed",
		Long: "Start a head, two workers, a node of your own and a stranger on loopback, and show every protocol with\n" +
			"real traffic. One worker is killed in mid-stream. The status is 0 only if every step passed.\n" +
			"Stock tools (ssh, curl) are used where they are installed, with a home of the demo's own.",
		Args: count(0, 0),
	}
	c.Flags().BoolVar(&o.Own, "own", false, "our own clients only, no stock tools")
	c.Flags().BoolVar(&o.Keep, "keep", false, "do not remove the folder")
	c.Flags().BoolVar(&o.Serve, "serve", false, "keep everything up and print commands to paste")
	c.Flags().StringVar(&o.Only, "only", "", "the steps of this part, or whose `name` begins so")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.demo(c.Context(), o) }
	return c
}

func (a *app) demo(ctx context.Context, o demo.Options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Self, o.Version, o.Look = self, buildVersion(), exec.LookPath
	o.Step = func(r *demo.Result) { a.step(r) }
	o.Serving = func(dir string, commands []string) {
		a.say("everything is up in %s until Ctrl-C; in another terminal:", dir)
		for _, line := range commands {
			fmt.Fprintf(a.Stderr, "  %s %s\n", self, line)
		}
	}
	o.End = func(s demo.Summary, draw func(io.Writer, bool)) {
		if a.json {
			_ = json.NewEncoder(a.Stdout).Encode(s) // the status says if standard output is gone
			return
		}
		draw(a.Stdout, a.unicode())
	}
	s, err := demo.Run(ctx, o)
	if err != nil && (!o.Serve || !errors.Is(err, context.Canceled)) {
		return err
	}
	if s.Steps == 0 {
		return fault.New(fault.Usage, "no step is called "+quoted(o.Only), "alknet demo")
	}
	if s.Passed < s.Steps {
		return fault.New(fault.Failed, fmt.Sprintf("%d of %d steps failed", s.Steps-s.Passed, s.Steps), "")
	}
	return nil
}

// step prints a step as it ends.
func (a *app) step(r *demo.Result) {
	if a.json {
		_ = json.NewEncoder(a.Stdout).Encode(r) // the summary says if standard output is gone
		return
	}
	r.Line(a.Stdout, a.colour())
}

// demoChildCommand is what the demo starts: hidden, since nobody else uses it.
func (a *app) demoChildCommand() *cobra.Command {
	c := &cobra.Command{Use: demo.Verb, Hidden: true, Args: count(0, 0)}
	c.RunE = func(c *cobra.Command, _ []string) error { return demo.Child(c.Context(), a.Stdin, a.Stdout) }
	return c
}
