package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{Use: "check", Short: "List every problem of the configuration, with its place", Args: count(0, 0)}
	check.RunE = func(*cobra.Command, []string) error { return a.configCheck() }
	explain := &cobra.Command{Use: "explain [KEY]", Short: "Show value, origin and reloadability of every key", Args: count(0, 1)}
	explain.RunE = func(_ *cobra.Command, args []string) error { return a.configExplain(args) }
	schema := &cobra.Command{Use: "schema", Short: "Print the JSON Schema of the configuration", Args: count(0, 0)}
	schema.RunE = func(*cobra.Command, []string) error {
		b, err := json.MarshalIndent(config.Schema(), "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Stdout, "%s\n", b)
		return err
	}
	example := &cobra.Command{Use: "example", Short: "Print a commented configuration", Args: count(0, 0)}
	example.RunE = func(*cobra.Command, []string) error {
		return a.result(exampleOut{string(config.Example)}, func(w io.Writer) { _, _ = w.Write(config.Example) })
	}
	return a.group("config", "Check, explain and describe the configuration", check, explain, schema, example)
}

func (a *app) configCheck() error {
	f, p, list, err := a.load()
	if err != nil {
		return err
	}
	if err := asError(list); err != nil {
		return err
	}
	if list == nil {
		list = []config.Problem{}
	}
	return a.result(configCheckOut{p.Config, list}, func(w io.Writer) {
		for _, warning := range list {
			fmt.Fprintln(w, warning)
		}
		fmt.Fprintf(w, "%s: ok\n", f.Name())
	})
}

func (a *app) configExplain(args []string) error {
	f, _, err := a.configured()
	if err != nil {
		return err
	}
	settings := []config.Setting{}
	for _, s := range f.Explain() {
		if len(args) == 0 || s.Key == args[0] || strings.HasPrefix(s.Key, args[0]+".") || strings.HasPrefix(s.Key, args[0]+"[") {
			settings = append(settings, s)
		}
	}
	if len(settings) == 0 {
		return fault.New(fault.Unknown, "there is no key "+quoted(args[0])+" in the sections of this configuration", "alknet config schema")
	}
	return a.result(settings, func(w io.Writer) {
		rows := [][]string{{"KEY", "VALUE", "ORIGIN", "RELOAD", ""}}
		for _, s := range settings {
			reload := "yes"
			if !s.Reloadable {
				reload = "restart"
			}
			rows = append(rows, []string{s.Key, s.Value, s.Origin, reload, s.Doc})
		}
		table(w, rows)
	})
}
