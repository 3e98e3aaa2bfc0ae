package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/vault"
)

// result prints the result of a command: v as JSON with --json, else what text
// writes.
func (a *app) result(v any, text func(w io.Writer)) error {
	if a.json {
		enc := json.NewEncoder(a.Stdout)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := bufio.NewWriter(a.Stdout)
	text(w)
	return w.Flush()
}

// dry is the result of --dry-run.
func (a *app) dry(would string) error {
	return a.result(dryRunOut{true, would}, func(w io.Writer) { fmt.Fprintln(w, "would "+would) })
}

// say prints talk to standard error.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Stderr, "alknet: "+format+"\n", args...)
	}
}

// detail prints talk that only -v asks for.
func (a *app) detail(format string, args ...any) {
	if a.verbose {
		a.say(format, args...)
	}
}

// failed prints an error and returns the exit status.
func (a *app) failed(ctx context.Context, err error) int {
	e := fault.Of(err)
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) && e.Exit != fault.Config {
		e = fault.New(fault.Interrupted, "interrupted", "")
	}
	if ps, ok := errors.AsType[*problems](err); ok && !a.json {
		for _, p := range ps.list {
			fmt.Fprintln(a.Stderr, p)
		}
		return e.Exit
	}
	if a.json {
		document := errorOut{Error: e}
		if ps, ok := errors.AsType[*problems](err); ok {
			document.Problems = ps.list
		}
		enc := json.NewEncoder(a.Stderr)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(document) // standard error is gone: nobody can be told
		return e.Exit
	}
	fmt.Fprintln(a.Stderr, "alknet: "+e.Error())
	return e.Exit
}

// problems are what is wrong with a configuration, as an error.
type problems struct{ list []config.Problem }

// Error counts them.
func (p *problems) Error() string {
	return fmt.Sprintf("the configuration has %d problems", len(p.list))
}

// asError is nil if the problems are warnings only.
func asError(list []config.Problem) error {
	if !config.Fatal(list) {
		return nil
	}
	ps := &problems{list}
	return &fault.Error{Exit: fault.Config, Code: "config", Message: ps.Error(), Hint: "alknet config check", Err: ps}
}

// table prints rows in columns.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	_ = tw.Flush() // w is a buffer
}

// quoted is text that may come from anywhere, fit for a terminal.
func quoted(s string) string { return printable.Quote(s) }

// plain is a peer's text without quotes if nothing in it needs them.
func plain(s string) string {
	q := printable.Quote(s)
	if strings.HasSuffix(q, `"`) && q == `"`+s+`"` {
		return s
	}
	return q
}

// orNone is what an empty column shows.
func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// waiting runs a read of standard input until it is done or the command is
// interrupted: a signal does not end the read by itself.
func (a *app) waiting(read func()) error {
	if a.ctx == nil {
		read()
		return nil
	}
	var state *term.State
	f, ok := a.Stdin.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) {
		state, _ = term.GetState(int(f.Fd())) // nil: nothing to restore
	}
	donec := make(chan struct{})
	var wg sync.WaitGroup // not waited for: the process ends
	safe.Go(&wg, func(error) {}, func() { defer close(donec); read() })
	select {
	case <-donec:
		return nil
	case <-a.ctx.Done():
	}
	if state != nil {
		_ = term.Restore(int(f.Fd()), state) // it was there a moment ago
	}
	fmt.Fprintln(a.Stderr)
	return context.Cause(a.ctx)
}

// line reads one line of standard input.
func (a *app) line() (text string, err error) {
	if werr := a.waiting(func() { text, err = a.readLine() }); werr != nil {
		return "", werr
	}
	return text, err
}

func (a *app) readLine() (string, error) {
	var b []byte
	one := make([]byte, 1)
	for len(b) < 64<<10 {
		n, err := a.Stdin.Read(one) // a byte at a time: what follows is for others
		if n == 1 && one[0] == '\n' {
			return strings.TrimRight(string(b), "\r"), nil
		}
		b = append(b, one[:n]...)
		if err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				return string(b), nil
			}
			return "", fault.New(fault.Usage, "standard input ended before the answer", "")
		}
	}
	return "", fault.New(fault.Usage, "the answer is too long", "")
}

// ask prints a question to standard error and reads a line.
func (a *app) ask(question string) (string, error) {
	fmt.Fprint(a.Stderr, question)
	return a.line()
}

// askSecret reads a line that the terminal does not show.
func (a *app) askSecret(question string) (vault.Secret, error) {
	fmt.Fprint(a.Stderr, question)
	f, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		s, err := a.line()
		fmt.Fprintln(a.Stderr)
		return vault.NewSecret([]byte(s)), err
	}
	var b []byte
	var err error
	if werr := a.waiting(func() { b, err = term.ReadPassword(int(f.Fd())) }); werr != nil {
		return vault.Secret{}, werr
	}
	fmt.Fprintln(a.Stderr)
	return vault.NewSecret(b), err
}

// confirm asks before something that cannot be taken back.
func (a *app) confirm(question string) error {
	if a.yes || a.dryRun {
		return nil
	}
	answer, err := a.ask(question + " [y/N] ")
	if err != nil {
		return err
	}
	if answer != "y" && answer != "yes" {
		return fault.New(fault.Failed, "not confirmed: nothing was done", "")
	}
	return nil
}

// terminal reports whether standard output is one.
func (a *app) terminal() bool {
	f, ok := a.Stdout.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// unicode reports whether drawings may use more than ASCII.
func (a *app) unicode() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := a.Getenv(name); v != "" {
			return strings.Contains(strings.ToUpper(strings.ReplaceAll(v, "-", "")), "UTF8")
		}
	}
	return false
}

// colour reports whether output may have colours.
func (a *app) colour() bool {
	switch {
	case a.Getenv("NO_COLOR") != "" || a.Getenv("TERM") == "dumb":
		return false
	case a.Getenv("CLICOLOR_FORCE") != "" && a.Getenv("CLICOLOR_FORCE") != "0":
		return true
	}
	return a.terminal()
}
