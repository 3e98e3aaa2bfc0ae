package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/internal/safe"
)

// readyOut is the line that says that the node serves.
type readyOut struct {
	Event     string          `json:"event"`
	ID        string          `json:"id"`
	Listeners []node.Listener `json:"listeners"`
	Control   string          `json:"control"`
	Test      bool            `json:"test_namespace,omitzero"`
}

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the node in the foreground",
		Long: "Run the node in the foreground. When it serves, it prints one line that begins with \"alknet: ready\".\n" +
			"SIGTERM and SIGINT drain, a second one cuts; SIGHUP reloads; SIGUSR1 writes the status to the log.",
		Args: count(0, 0),
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return a.serve(context.WithoutCancel(c.Context())) }
	return c
}

func (a *app) serve(ctx context.Context) error {
	f, p, list, err := a.load()
	if err != nil {
		return err
	}
	if err := asError(list); err != nil {
		return err
	}
	for _, warning := range list {
		fmt.Fprintln(a.Stderr, warning)
	}
	if _, err := a.secrets(f); err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, append([]os.Signal{os.Interrupt, syscall.SIGTERM}, otherSignals...)...)
	defer signal.Stop(signals)
	n, err := a.start(ctx, f, p)
	if err != nil {
		return err
	}
	if err := a.ready(n); err != nil {
		return err
	}
	n.NotifyReady()
	return a.attend(n, signals)
}

// start starts the node with what the program sees of the world.
func (a *app) start(ctx context.Context, f *config.File, p config.Places) (*node.Node, error) {
	var level slog.LevelVar
	format, burst := "", 0
	if f.Log != nil {
		level.Set(node.Level(f.Log.Level))
		format, burst = f.Log.Format, f.Log.Burst
	}
	if a.verbose {
		level.Set(slog.LevelDebug)
	}
	if a.unlock != "" {
		if f.Vault == nil {
			f.Vault = &config.Vault{}
		}
		f.Vault.Unlock = a.unlock
	}
	sockets := make(map[string][]*os.File)
	for _, file := range activation.Files(true) {
		sockets[file.Name()] = append(sockets[file.Name()], file)
	}
	return node.Start(ctx, node.Options{
		File:        f,
		Places:      p,
		Prompt:      a.prompt(),
		Credentials: a.Getenv("CREDENTIALS_DIRECTORY"),
		Activated:   sockets,
		Load: func() (*config.File, []config.Problem) {
			f, _, list, err := a.load()
			if err != nil {
				list = append(list, config.Problem{File: a.shown(p.Config), Line: 1, Column: 1, Message: err.Error()})
			}
			return f, list
		},
		Version: buildVersion(),
		Log:     node.NewLog(a.Stderr, format, &level, burst),
		Level:   &level,
	})
}

// ready prints the line for whoever waits for it.
func (a *app) ready(n *node.Node) error {
	f := n.File()
	out := readyOut{Event: "ready", ID: n.ID().String(), Listeners: n.Listeners(), Control: n.Control(), Test: f.Node != nil && f.Node.TestNamespace}
	return a.result(out, func(w io.Writer) {
		parts := []string{"alknet: ready", "id=" + out.ID}
		for _, l := range out.Listeners {
			if l.UDP != "" {
				parts = append(parts, "udp="+l.UDP)
			}
			if l.TCP != "" {
				parts = append(parts, "tcp="+l.TCP)
			}
		}
		parts = append(parts, "control="+out.Control)
		if out.Test {
			parts = append(parts, "test_namespace=true")
		}
		fmt.Fprintln(w, strings.Join(parts, " "))
	})
}

// attend obeys signals and requests to stop until the node has ended.
func (a *app) attend(n *node.Node, signals <-chan os.Signal) error {
	var wg sync.WaitGroup
	stop := func(now bool) {
		safe.Go(&wg, func(err error) { a.say("stop: %v", err) }, func() { n.Stop(now) })
	}
	defer wg.Wait()
	asked := 0
	for {
		select {
		case <-n.Done():
			return nil
		case now := <-n.StopRequests():
			stop(now)
		case s := <-signals:
			switch s {
			case os.Interrupt, syscall.SIGTERM:
				asked++
				stop(asked > 1)
			default:
				a.otherSignal(n, s)
			}
		}
	}
}

// reportReload writes what came of a reload that a signal asked for to the log.
func (a *app) reportReload(out node.ReloadOut) {
	for _, p := range out.Problems {
		fmt.Fprintln(a.Stderr, p)
	}
}

// reloadFault is how a reload that changed nothing, or not everything, failed.
func reloadFault(out node.ReloadOut) error {
	if err := asError(out.Problems); err != nil {
		return err
	}
	if len(out.Restart) > 0 {
		return fault.New(fault.Partly, "only a restart applies: "+strings.Join(out.Restart, ", "), "alknet stop, then alknet serve")
	}
	return nil
}
