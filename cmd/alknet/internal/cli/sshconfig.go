package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/ssh"
)

func (a *app) sshConfigCommand() *cobra.Command {
	var install bool
	c := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print blocks of ssh_config(5) for every peer, or install them",
		Long: "Print blocks of ssh_config(5) for every peer. With --install they are written to ~/.ssh/alknet.conf,\n" +
			"and ~/.ssh/config includes that file: then the plain ssh, scp, rsync and git reach peers by name.",
		Args: count(0, 0),
	}
	c.Flags().BoolVar(&install, "install", false, "write ~/.ssh/alknet.conf and include it")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.sshConfig(c.Context(), install) }
	return c
}

func (a *app) sshConfig(_ context.Context, install bool) error {
	entries, err := a.peerEntries()
	if err != nil {
		return err
	}
	peers := make(map[string]alknet.PeerID)
	for _, e := range entries {
		if len(e.Keys) == 0 || len(e.Addrs) == 0 || e.Disabled {
			continue
		}
		if peers[e.ID], err = alknet.ParsePeerID(e.Keys[0]); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString("# Written by alknet ssh-config.\n")
	if err := ssh.WriteConfig(&b, self, peers); err != nil {
		return err
	}
	if !install {
		return a.result(sshConfigOut{Peers: len(peers), Text: b.String()}, func(w io.Writer) { _, _ = w.Write(b.Bytes()) })
	}
	return a.installSSHConfig(b.Bytes(), len(peers))
}

func (a *app) installSSHConfig(text []byte, peers int) error {
	home := a.Getenv("HOME")
	if home == "" {
		return fault.New(fault.Usage, "HOME is not set", "")
	}
	folder := filepath.Join(home, ".ssh")
	if a.dryRun {
		return a.dry(fmt.Sprintf("write %s/alknet.conf with %d peers", folder, peers))
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	dir, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := durable.WriteFile(dir, "alknet.conf", text, 0o600); err != nil {
		return err
	}
	old, err := dir.ReadFile("config")
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	const include = "Include alknet.conf\n"
	if !strings.Contains(string(old), strings.TrimSpace(include)) { // before any Host block, else it belongs to that
		if err := durable.WriteFile(dir, "config", append([]byte(include+"\n"), old...), 0o600); err != nil {
			return err
		}
	}
	return a.result(sshConfigOut{File: filepath.Join(folder, "alknet.conf"), Peers: peers}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d peers\n", filepath.Join(folder, "alknet.conf"), peers)
	})
}
