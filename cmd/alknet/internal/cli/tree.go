package cli

import "github.com/spf13/cobra"

// commands are the program's, in the order of a first day with it.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.demoCommand(), a.demoChildCommand(),
		a.initCommand(), a.serveCommand(), a.statusCommand(), a.reloadCommand(), a.drainCommand(), a.stopCommand(),
		a.configCommand(), a.idCommand(), a.vaultCommand(), a.callCommand(), a.opsCommand(),
		a.pipeCommand(), a.connectCommand(), a.forwardCommand(), a.socksCommand(), a.exposeCommand(),
		a.sshCommand(), a.scpCommand(), a.rsyncCommand(), a.sshConfigCommand(),
		a.peerCommand(), a.grantCommand(), a.revokeCommand(), a.inviteCommand(), a.joinCommand(), a.requestsCommand(), a.graphCommand(), a.policyCommand(), a.doctorCommand(),
		a.versionCommand(),
	}
}
