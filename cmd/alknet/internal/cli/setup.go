package cli

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/vault"
)

// find says where the files are, without reading any.
func (a *app) find() (config.Places, error) {
	return config.Find(config.Environment{Getenv: a.Getenv, Dir: a.dir, File: a.file, Root: os.Geteuid() == 0})
}

// load reads the configuration. A missing file is an empty one, unless it was
// asked for by name.
func (a *app) load() (*config.File, config.Places, []config.Problem, error) {
	p, err := a.find()
	if err != nil {
		return nil, p, nil, fault.New(fault.Usage, err.Error(), "")
	}
	src, err := readConfig(p.Config)
	if errors.Is(err, iofs.ErrNotExist) && a.file == "" {
		src, err = nil, nil
	}
	if err != nil {
		return nil, p, nil, &fault.Error{Exit: fault.Config, Code: "config", Message: err.Error(), Hint: "alknet init", Err: err}
	}
	f, list := config.Load(a.shown(p.Config), src, a.sets)
	if p, err = p.With(f); err != nil {
		return f, p, list, fault.New(fault.Config, err.Error(), "")
	}
	return f, p, list, nil
}

// maxConfig bounds the configuration, in bytes.
const maxConfig = 1 << 20

// readConfig reads the configuration. One that everybody may write is nobody's.
func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && !config.NotForAll(info) {
		return nil, fmt.Errorf("everybody may write %s (mode %04o): chmod o-w %s", path, info.Mode().Perm(), path)
	}
	b, err := readAtMost(f, maxConfig)
	if errors.Is(err, errTooLong) {
		err = fmt.Errorf("%s has more than %d bytes", path, maxConfig)
	}
	return b, err
}

// errTooLong is what readAtMost says of more than it was to read.
var errTooLong = errors.New("too long")

// readAtMost reads all of r, or fails if that is more than n bytes: nothing is cut
// off in silence.
func readAtMost(r io.Reader, n int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, n+1))
	if err == nil && int64(len(b)) > n {
		clear(b)
		return nil, errTooLong
	}
	return b, err
}

// shown is a path as problems name it: short where it is the usual one.
func (a *app) shown(path string) string {
	if a.file != "" {
		return path
	}
	return filepath.Base(path)
}

// configured is load that refuses a configuration with problems.
func (a *app) configured() (*config.File, config.Places, error) {
	f, p, list, err := a.load()
	if err == nil {
		err = asError(list)
	}
	return f, p, err
}

// prompt asks a person for the passphrase; nil where nobody is there.
func (a *app) prompt() func() (vault.Secret, error) {
	f, ok := a.Stdin.(*os.File)
	if ok && !term.IsTerminal(int(f.Fd())) && !a.pipeIsPerson() {
		return nil
	}
	return func() (vault.Secret, error) { return a.askSecret("passphrase: ") }
}

// pipeIsPerson: --unlock prompt says that standard input holds the passphrase.
func (a *app) pipeIsPerson() bool { return a.unlock == "prompt" }

// secrets are the ways to what opens the vault.
func (a *app) secrets(f *config.File) (node.Secrets, error) {
	text := a.unlock
	if text == "" && f != nil && f.Vault != nil {
		text = f.Vault.Unlock
	}
	if text == "" {
		text = "prompt"
	}
	ref, err := config.ParseSecretRef(text)
	if err != nil {
		return node.Secrets{}, fault.New(fault.Usage, "--unlock: "+err.Error(), "")
	}
	return node.Secrets{Ref: ref, Prompt: a.prompt(), Credentials: a.Getenv("CREDENTIALS_DIRECTORY")}, nil
}

// openVault unlocks the vault here. The caller closes it.
func (a *app) openVault(ctx context.Context) (*vault.Vault, error) {
	f, p, err := a.configured()
	if err != nil {
		return nil, err
	}
	s, err := a.secrets(f)
	if err != nil {
		return nil, err
	}
	return node.Unlock(ctx, p.Vault, nil, s)
}

// connect connects to the running node.
func (a *app) connect(ctx context.Context) (*agent.Client, error) {
	_, p, _, err := a.load()
	if err != nil {
		return nil, err
	}
	if a.direct {
		return nil, fault.New(fault.Usage, "this command needs the running node: leave --direct out", "")
	}
	return agent.Connect(ctx, p.Control)
}

// signerOf is the node's key of an unlocked vault.
func signerOf(v *vault.Vault) (crypto.Signer, error) { return v.Identity(v.IdentityIndex()) }
