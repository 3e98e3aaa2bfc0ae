package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/tty"
)

// tool finds a stock tool, unless only our own client is wanted.
func (w *world) tool(name string) (path string, found bool) {
	if w.o.Own || w.o.Look == nil {
		return "", false
	}
	path, err := w.o.Look(name)
	return path, err == nil
}

// stockEnv is the environment of a stock tool: a home of the demo's, and where the
// user's node is.
func (w *world) stockEnv() []string {
	p := w.you.Places()
	return []string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH"), "ALKNET_CONFIG=" + p.Config, "ALKNET_CONTROL=" + p.Control}
}

// sshCommand is a stock ssh to the head that knows nothing but what we wrote.
func (w *world) sshCommand(ctx context.Context, path string, args ...string) (*exec.Cmd, error) {
	cfg := filepath.Join(w.dir, "ssh_config")
	if _, err := os.Stat(cfg); err != nil {
		f, err := os.OpenFile(cfg, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(ssh.WriteConfig(f, w.o.Self, map[string]alknet.PeerID{"head": w.id("head")}), f.Close()); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"-F", cfg}, args...)...)
	cmd.Env, cmd.Dir = w.stockEnv(), w.dir
	return cmd, nil
}

// sshVersion is "OpenSSH_9.2p1".
func sshVersion(ctx context.Context, path string) string {
	out, _ := exec.CommandContext(ctx, path, "-V").CombinedOutput() // a name is enough without it
	version, _, _ := strings.Cut(strings.Fields(string(out) + " ssh")[0], ",")
	return version
}

const execLine = "echo $((6 * 7)); exit 7"

func (w *world) stepExec(ctx context.Context) (outcome, error) {
	path, stock := w.tool("ssh")
	if !stock {
		return w.ownExec(ctx)
	}
	cmd, err := w.sshCommand(ctx, path, "head", execLine)
	if err != nil {
		return outcome{}, err
	}
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, err := cmd.Output()
	status := -1
	if cmd.ProcessState != nil {
		status = cmd.ProcessState.ExitCode()
	}
	o := outcome{sshVersion(ctx, path), "exit status 7 kept, host key proven"}
	if err := want(status == 7, "exit status 7", "%d: %v %s", status, err, errText.String()); err != nil {
		return o, err
	}
	return o, want(string(out) == "42\n", "42", "%q", out)
}

// ownSSH is our own client at the head.
func (w *world) ownSSH(ctx context.Context) (*ssh.Client, error) {
	return ssh.Dial(ctx, w.you.Dialer(), w.headAddr(), nil)
}

func (w *world) ownExec(ctx context.Context) (outcome, error) {
	o := outcome{"our own ssh", "exit status 7 kept, host key proven"}
	c, err := w.ownSSH(ctx)
	if err != nil {
		return o, err
	}
	defer c.Close()
	var out bytes.Buffer
	err = c.Run(ctx, &ssh.Cmd{Line: execLine, Stdout: &out})
	exit, ok := errors.AsType[*ssh.ExitError](err)
	if err := want(ok && exit.Status == 7, "exit status 7", "%v", err); err != nil {
		return o, err
	}
	return o, want(out.String() == "42\n", "42", "%q", out.String())
}

const terminalLine = "test -t 0 && test -t 1 && echo a terminal"

func (w *world) stepTerminal(ctx context.Context) (outcome, error) {
	var out bytes.Buffer
	o := outcome{"our own ssh", "standard input and output are one"}
	if path, stock := w.tool("ssh"); stock {
		o.with = sshVersion(ctx, path)
		cmd, err := w.sshCommand(ctx, path, "-tt", "head", terminalLine)
		if err != nil {
			return o, err
		}
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.Stdin = strings.NewReader("")
		if err := cmd.Run(); err != nil {
			return o, fmt.Errorf("%w: %s", err, out.String())
		}
	} else {
		c, err := w.ownSSH(ctx)
		if err != nil {
			return o, err
		}
		defer c.Close()
		pty := &ssh.PTY{Term: "xterm", Size: tty.Size{Cols: 80, Rows: 24}}
		if err := c.Run(ctx, &ssh.Cmd{Line: terminalLine, PTY: pty, Stdout: &out}); err != nil {
			return o, err
		}
	}
	return o, want(strings.Contains(out.String(), "a terminal"), "a terminal", "%q", out.String())
}

// freePort is a loopback address on which nobody listens.
func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
