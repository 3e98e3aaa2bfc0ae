// Package doctor looks for what is wrong with a node's machine and files. Each
// finding says what to do.
package doctor

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/vault"
)

// A Finding is something that is not as it should be.
type Finding struct {
	Code     string `json:"code"`         // a word that is never changed
	Severity string `json:"severity"`     // error or warning
	Text     string `json:"text"`         // for people
	Fix      string `json:"fix,omitzero"` // a command, or what to change
}

// Findings are the severities.
const (
	Error   = "error"   // something does not work
	Warning = "warning" // something works badly, or will not work for long
)

// A Patient is what is looked at.
type Patient struct {
	Places   config.Places    // where its files are
	File     *config.File     // which one
	Problems []config.Problem // what is wrong
	Status   *node.Status     // nil: no node runs
	// Ping asks a peer whether it lives; nil: no node runs.
	Ping func(ctx context.Context, peer string) error
	Now  time.Time // cut what runs
}

// Examine looks at everything, for at most ten seconds.
func Examine(ctx context.Context, p Patient) []Finding {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all := []Finding{}
	add := func(fs ...Finding) { all = append(all, fs...) }
	add(configuration(p)...)
	add(folders(p)...)
	add(vaultFiles(p)...)
	add(clock(p)...)
	add(machine(p)...)
	add(tools(p)...)
	add(running(p)...)
	add(peers(ctx, p)...)
	return all
}

func configuration(p Patient) (fs []Finding) {
	for _, problem := range p.Problems {
		f := Finding{Code: "config", Severity: Error, Text: problem.String(), Fix: "alknet config check"}
		if problem.Warning {
			f.Severity = Warning
		}
		fs = append(fs, f)
	}
	if _, err := os.Stat(p.Places.Config); errors.Is(err, iofs.ErrNotExist) {
		fs = append(fs, Finding{"no_config", Warning, "there is no configuration: the node would answer nothing", "alknet init"})
	}
	return fs
}

func folders(p Patient) (fs []Finding) {
	info, err := os.Stat(p.Places.State)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return []Finding{{"no_state", Error, "there is no state folder " + p.Places.State, "alknet init"}}
	case err != nil:
		return []Finding{{"state", Error, err.Error(), ""}}
	case info.Mode().Perm()&0o077 != 0:
		fs = append(fs, Finding{"state_mode", Error, fmt.Sprintf("others may look into %s (mode %04o)", p.Places.State, info.Mode().Perm()), "chmod 700 " + p.Places.State})
	}
	for _, name := range []string{"peers.json", "invites.json", "dev.passphrase"} {
		path := filepath.Join(p.Places.State, name)
		if info, err := os.Stat(path); err == nil {
			if err := config.Private(path, info); err != nil {
				fs = append(fs, Finding{"file_mode", Error, err.Error(), "chmod 600 " + path})
			}
		}
	}
	if free, ok := freeBytes(p.Places.State); ok && free < 64<<20 {
		fs = append(fs, Finding{"disk", Error, fmt.Sprintf("%d MiB are free where %s is", free>>20, p.Places.State), "free some space"})
	}
	if p.Status == nil {
		if _, err := os.Stat(p.Places.Control); err == nil {
			fs = append(fs, Finding{"stale_socket", Warning, p.Places.Control + " is there, but no node answers", "alknet serve"})
		}
	}
	return fs
}

func vaultFiles(p Patient) (fs []Finding) {
	s, err := vault.Inspect(p.Places.Vault)
	switch {
	case errors.Is(err, vault.ErrNotFound):
		return []Finding{{"no_vault", Error, "there is no vault in " + p.Places.Vault, "alknet init"}}
	case err != nil:
		return []Finding{{"vault", Error, err.Error(), "restore " + p.Places.Vault + " from a copy, or alknet init --recover"}}
	case s.Check == "":
		fs = append(fs, Finding{"vault_check", Error, "the vault has lost its check value", "alknet init --recover"})
	case len(s.Slots) == 0:
		fs = append(fs, Finding{"no_slot", Error, "only the phrase opens the vault", "alknet vault seal passphrase"})
	}
	if f := p.File; f != nil && f.Vault != nil {
		ref, err := config.ParseSecretRef(f.Vault.Unlock)
		if err == nil && ref.Kind == "file" {
			if _, err := ref.Read(""); err != nil {
				fs = append(fs, Finding{"unlock", Error, err.Error(), "alknet config explain vault.unlock"})
			}
		}
	}
	return fs
}

// earliest is before any clock that is right.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func clock(p Patient) []Finding {
	if p.Now.Before(earliest) {
		return []Finding{{"clock", Error, "the clock says " + p.Now.Format(time.DateTime) + ": invites and delegations will not work", "timedatectl set-ntp true"}}
	}
	return nil
}

// minBuffer is what QUIC wants as the largest UDP buffer, in bytes.
const minBuffer = 7 << 20

func machine(Patient) (fs []Finding) {
	for _, name := range []string{"rmem_max", "wmem_max"} {
		b, err := os.ReadFile("/proc/sys/net/core/" + name)
		if err != nil {
			continue // not Linux
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && n < minBuffer {
			fs = append(fs, Finding{"udp_buffer", Warning, fmt.Sprintf("net.core.%s is %d: fast QUIC loses packets", name, n), fmt.Sprintf("sysctl -w net.core.%s=%d", name, minBuffer)})
		}
	}
	if limit, ok := fileLimit(); ok && limit < 4096 {
		fs = append(fs, Finding{"fds", Warning, fmt.Sprintf("only %d files may be open", limit), "ulimit -n 65536"})
	}
	return fs
}

func tools(p Patient) (fs []Finding) {
	if p.File == nil || p.File.SSH == nil {
		return nil
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		fs = append(fs, Finding{"no_ssh", Warning, "ssh is not installed: alknet ssh and scp need it", "apt install openssh-client"})
	}
	return fs
}

func running(p Patient) (fs []Finding) {
	if p.Status == nil {
		return []Finding{{"not_running", Warning, "no node runs here", "alknet serve"}}
	}
	for _, w := range p.Status.Warnings {
		fs = append(fs, Finding{w.Code, Warning, w.Text, w.Fix})
	}
	if p.Status.Node.State != "ready" {
		fs = append(fs, Finding{"not_ready", Warning, "the node is " + p.Status.Node.State, "alknet status --wait ready"})
	}
	return fs
}

// maxPinged bounds how many peers are asked.
const maxPinged = 32

func peers(ctx context.Context, p Patient) (fs []Finding) {
	if p.Status == nil || p.Ping == nil {
		return nil
	}
	asked := 0
	for _, s := range p.Status.Peers {
		if s.State == "up" || s.State == "disabled" || asked == maxPinged {
			continue
		}
		asked++
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := p.Ping(ctx, s.ID)
		cancel()
		if err != nil {
			fs = append(fs, Finding{"peer_unreachable", Warning, s.ID + " does not answer: " + err.Error(), "alknet peer show " + s.ID})
		}
	}
	return fs
}
