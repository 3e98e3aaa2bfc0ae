package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/ssh"
)

// A toolStatus is the exit status of a tool that we ran: it is ours too.
type toolStatus struct{ code int }

// Error says what the status was.
func (s *toolStatus) Error() string { return fmt.Sprintf("exit status %d", s.code) }

func (a *app) sshCommand() *cobra.Command {
	known := &cobra.Command{Use: "known-hosts HOST", Short: "Print the line of known_hosts for a peer, for OpenSSH's KnownHostsCommand", Args: count(1, 1)}
	known.RunE = func(c *cobra.Command, args []string) error { return a.knownHosts(c.Context(), args[0]) }
	c := a.wrapper("ssh", "ssh [OPTION]... PEER [COMMAND]...", "Run the stock ssh with a peer: no port 22, no question about the host key")
	c.AddCommand(known)
	return c
}

func (a *app) scpCommand() *cobra.Command {
	return a.wrapper("scp", "scp [OPTION]... SOURCE... TARGET", "Run the stock scp with a peer, named PEER:PATH")
}

func (a *app) rsyncCommand() *cobra.Command {
	return a.wrapper("rsync", "rsync [OPTION]... SOURCE... TARGET", "Run the stock rsync with a peer, named PEER:PATH")
}

// wrapper is a command that runs a stock tool with the right options.
func (a *app) wrapper(tool, use, short string) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, DisableFlagParsing: true}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 || len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
			return c.Help()
		}
		return a.wrap(c.Context(), tool, args)
	}
	return c
}

// packages say where Debian has a tool.
var packages = map[string]string{"ssh": "openssh-client", "scp": "openssh-client", "rsync": "rsync"}

// wrap runs a tool in a folder's worth of options: a private ssh_config whose
// ProxyCommand is this program.
func (a *app) wrap(ctx context.Context, tool string, args []string) error {
	path, err := lookTool(tool)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "alknet-ssh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cfg := filepath.Join(dir, "config")
	if err := a.writeSSHConfig(ctx, cfg, tool, args); err != nil {
		return err
	}
	options := []string{"-F", cfg}
	if tool == "scp" {
		options = append(options, "-O") // nodes have no sftp subsystem: the protocol of before
	}
	if tool == "rsync" {
		sshPath, err := lookTool("ssh")
		if err != nil {
			return err
		}
		options = []string{"-e", sshPath + " -F " + cfg}
	}
	return a.run(ctx, path, append(options, args...))
}

// lookTool finds a tool on PATH, never in the working directory.
func lookTool(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	if err == nil && !filepath.IsAbs(path) {
		err = exec.ErrDot
	}
	if err != nil {
		return "", &fault.Error{Exit: fault.Usage, Code: "missing_tool", Message: tool + " is not installed", Hint: "apt install " + packages[tool], Err: err}
	}
	return path, nil
}

// run runs a program as if it were us: its input, output and status are ours.
func (a *app) run(ctx context.Context, path string, args []string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.Stdin, a.Stdout, a.Stderr
	cmd.Env = append(os.Environ(), a.places()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		return &toolStatus{exit.ExitCode()}
	}
	return err
}

// places tells a program of ours that a tool starts where our files are.
func (a *app) places() []string {
	_, p, _, err := a.load()
	if err != nil {
		return nil
	}
	abs, err := filepath.Abs(p.Config)
	if err != nil {
		return nil
	}
	return []string{"ALKNET_CONFIG=" + abs, "ALKNET_CONTROL=" + p.Control}
}

// writeSSHConfig writes an ssh_config(5) for the peers among the arguments.
func (a *app) writeSSHConfig(ctx context.Context, path, tool string, args []string) error {
	w, err := a.way(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	peers := make(map[string]alknet.PeerID)
	for _, name := range hostNames(tool, args) {
		if !validHost(name) {
			return fault.New(fault.Usage, quoted(name)+" is no name of a peer", "alknet peer list")
		}
		r, err := w.resolve(ctx, name)
		if err != nil {
			return err
		}
		if len(r.Keys) == 0 {
			return fault.New(fault.Unknown, plain(name)+" has no key", "alknet peer show "+name)
		}
		if peers[name], err = alknet.ParsePeerID(r.Keys[0]); err != nil {
			return err
		}
	}
	if len(peers) == 0 {
		return fault.New(fault.Usage, "no peer is named", "alknet peer list")
	}
	return writeConfigFile(path, peers)
}

func writeConfigFile(path string, peers map[string]alknet.PeerID) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(ssh.WriteConfig(f, self, peers), f.Close())
}

// sshValued are the options of ssh(1) that take a value.
const sshValued = "BbcDEeFIiJLlmOoPpQRSWw"

// hostNames are the peers that the arguments of ssh, scp or rsync name: ssh's
// destination, and of the others what stands before a colon.
func hostNames(tool string, args []string) (names []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case tool != "ssh":
			host, _, remote := strings.Cut(arg, ":")
			if remote && !strings.HasPrefix(arg, "-") && !strings.Contains(host, "/") {
				names = append(names, hostOf(host))
			}
		case arg == "--":
		case strings.HasPrefix(arg, "-"):
			if len(arg) == 2 && strings.Contains(sshValued, arg[1:]) {
				i++ // its value
			}
		default:
			return []string{hostOf(arg)}
		}
	}
	return names
}

// hostOf is the peer of "user@peer" and "peer.alk".
func hostOf(host string) string {
	host = strings.TrimPrefix(host, "ssh://")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	return strings.TrimSuffix(host, ".alk")
}

// validHost is the rule for what may reach a command line.
func validHost(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || i > 0 && strings.ContainsRune("._-", r)
		if !ok {
			return false
		}
	}
	return true
}

func (a *app) knownHosts(ctx context.Context, host string) error {
	name := strings.TrimSuffix(strings.Trim(host, "[]"), ".alk")
	id, err := alknet.ParsePeerID(name)
	if err != nil {
		w, err := a.way(ctx)
		if err != nil {
			return err
		}
		defer w.close()
		r, err := w.resolve(ctx, name)
		if err != nil {
			return err
		}
		if len(r.Keys) == 0 {
			return fault.New(fault.Unknown, plain(name)+" has no key", "")
		}
		if id, err = alknet.ParsePeerID(r.Keys[0]); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(a.Stdout, ssh.KnownHosts(id, host))
	return err
}
