package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// commands are the program's, in the order of a first day with it.
func (a *app) commands() []*cobra.Command {
	all := []*cobra.Command{
		a.demoCommand(), a.demoChildCommand(),
		a.initCommand(), a.serveCommand(), a.statusCommand(), a.reloadCommand(), a.drainCommand(), a.stopCommand(),
		a.configCommand(), a.idCommand(), a.vaultCommand(), a.callCommand(), a.opsCommand(),
		a.pipeCommand(), a.connectCommand(), a.forwardCommand(), a.socksCommand(), a.exposeCommand(),
		a.sshCommand(), a.scpCommand(), a.rsyncCommand(), a.sshConfigCommand(),
		a.peerCommand(), a.grantCommand(), a.revokeCommand(), a.inviteCommand(), a.joinCommand(), a.requestsCommand(), a.graphCommand(), a.policyCommand(), a.doctorCommand(),
		a.versionCommand(),
	}
	for _, c := range all {
		a.completeFirst(c)
	}
	return all
}

// completeFirst has the commands that begin with a peer offer the known ones.
func (a *app) completeFirst(c *cobra.Command) {
	for _, sub := range c.Commands() {
		a.completeFirst(sub)
	}
	if c.ValidArgsFunction != nil {
		return
	}
	switch words := strings.Fields(c.Use); {
	case len(words) < 2:
	case c.Name() == "explain" && words[1] == "PEER":
		a.completes(c, false, somePeers, someTargets)
	case c.Name() == "pipe":
		a.completes(c, false, somePeers, someALPNs)
	case words[1] == "PEER" || words[1] == "[PEER]" || words[1] == "[PEER":
		a.completes(c, false, somePeers)
	case c.Name() == "ssh":
		a.completes(c, false, somePeers)
	}
	if f := c.Flags().Lookup("on"); f != nil {
		_ = c.RegisterFlagCompletionFunc("on", func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return a.offer(c.Context(), somePeers, typed), cobra.ShellCompDirectiveNoFileComp
		}) // the flag is there
	}
}
