// Package cli is the command tree of the program. It is the only package of it
// that prints.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// Env is the world that a run of the program sees.
type Env struct {
	Args           []string            // with the program's name
	Stdin          io.Reader           // read by commands that say so
	Stdout, Stderr io.Writer           // results
	Getenv         func(string) string // of the environment
}

// An app is one run of the program.
type app struct {
	*Env
	root *cobra.Command

	file    string
	dir     string
	sets    []string
	unlock  string
	json    bool
	quiet   bool
	verbose bool
	direct  bool
	dryRun  bool
	yes     bool
	timeout time.Duration

	ctx  context.Context // of the command; nil before it runs
	over func()          // ends ctx
}

// Run runs the program and returns its exit status.
func Run(ctx context.Context, env *Env) int {
	_ = node.NoCoreDumps() // best effort: a limit of the system may be lower already
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := &app{Env: env}
	root := a.command()
	root.SetArgs(env.Args[1:])
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if a.over != nil {
		a.over()
	}
	if err == nil {
		return fault.OK
	}
	if status, ok := errors.AsType[*toolStatus](err); ok {
		return status.code
	}
	return a.failed(ctx, usage(err))
}

// usage recognises what the parser of the command line says of flags that stand
// before a command.
func usage(err error) error {
	text := err.Error()
	for _, prefix := range []string{"unknown flag", "unknown shorthand flag", "flag needs an argument", "invalid argument"} {
		if _, ours := errors.AsType[*fault.Error](err); !ours && strings.HasPrefix(text, prefix) {
			return fault.New(fault.Usage, text, "alknet --help")
		}
	}
	return err
}

// Command is the tree of commands, for documents.
func Command() *cobra.Command {
	a := &app{Env: &Env{Args: []string{"alknet"}, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }}}
	return a.command()
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:               "alknet",
		Short:             "A node in which a service is an ALPN: one port, one key, many protocols",
		Long:              "alknet is a node and the client for it: one port, one key, many protocols.\nPEER is an id from the book, a peer id, or ID@HOST:PORT. OP is ns/verb, or ns/verb@PEER, @any, @all.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		TraverseChildren:  true,
		Args:              a.noCommand,
		PersistentPreRun:  a.begin,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
		DisableAutoGenTag: true,
	}
	a.root = root
	f := root.PersistentFlags()
	f.StringVar(&a.file, "config", "", "the configuration `file`")
	f.StringVar(&a.dir, "dir", "", "configuration, state and socket below one `folder`")
	f.StringArrayVar(&a.sets, "set", nil, "`key=value` that wins over the file; may be repeated")
	f.StringVar(&a.unlock, "unlock", "", "where the passphrase is, without a node: prompt, file:PATH, fd:N, keyring (`REF`)")
	f.BoolVar(&a.json, "json", false, "one JSON document, or one value a line")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "results only")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say which way was taken")
	f.BoolVar(&a.direct, "direct", false, "do not use the running node: unlock the vault here")
	f.BoolVar(&a.dryRun, "dry-run", false, "say what would change, and change nothing")
	f.BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	f.DurationVar(&a.timeout, "timeout", 0, "how long the command may take")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fault.New(fault.Usage, err.Error(), c.CommandPath()+" --help")
	})
	root.AddCommand(a.commands()...)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	return root
}

// begin applies --timeout to whatever the command does.
func (a *app) begin(c *cobra.Command, _ []string) {
	a.ctx, a.over = a.bounded(c.Context())
	c.SetContext(a.ctx)
}

// noCommand refuses what is no command, with the one that was meant.
func (a *app) noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	hint := c.CommandPath() + " --help"
	if near := config.Nearest(args[0], names); near != "" {
		hint = c.CommandPath() + " " + near
	}
	return fault.New(fault.Usage, "there is no command "+quoted(args[0]), hint)
}

// group is a command that only holds others.
func (a *app) group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: a.noCommand, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(subs...)
	return c
}

// count admits from least to most arguments; most below 0 means any number.
func count(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return fault.New(fault.Usage, "usage: "+c.UseLine(), c.CommandPath()+" --help")
		}
		return nil
	}
}

// bounded applies --timeout.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout > 0 {
		return context.WithTimeout(ctx, a.timeout)
	}
	return context.WithCancel(ctx)
}
