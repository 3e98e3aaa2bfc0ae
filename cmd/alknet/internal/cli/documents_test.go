package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	callschema "github.com/alkdev/alknet/call/schema"
)

// TestEveryVerbHasADocument: no command is without a shape for --json, and no shape
// without a command.
func TestEveryVerbHasADocument(t *testing.T) {
	have := make(map[string]bool)
	for _, d := range Documents() {
		require.NotEmpty(t, d.Schema, d.Name)
		_, err := callschema.Check(d.Schema)
		require.NoError(t, err, d.Name)
		for _, v := range d.Verbs {
			have[v] = true
		}
	}
	for v := range rawVerbs {
		have[v] = true
	}
	seen := make(map[string]bool)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		name := strings.TrimPrefix(c.CommandPath(), "alknet ")
		seen[name] = true
		group := c.HasSubCommands() && strings.Contains(c.Use, "") && !have[name]
		if c.Hidden || group || name == "alknet" {
			return
		}
		require.True(t, have[name], "alknet %s has no document in Documents and no reason in rawVerbs", name)
	}
	root := Command()
	root.InitDefaultHelpCmd()
	walk(root)
	for v := range have {
		require.True(t, seen[v], "there is no command %q", v)
	}
}
