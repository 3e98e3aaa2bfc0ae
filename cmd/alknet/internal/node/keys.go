package node

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/vault"
	"github.com/alkdev/alknet/vault/keyring"
)

// keyringService is under what name keys are in the system's store.
const keyringService = "alknet"

// openKeys has the node's keys, from the vault unless a signer was given.
func (n *Node) openKeys(ctx context.Context) error {
	if n.opts.Signer != nil {
		n.signer, n.hostKey = n.opts.Signer, n.opts.Signer
		return nil
	}
	ref := config.SecretRef{Kind: "prompt"}
	o := &vault.Options{}
	if f := n.opts.File.Vault; f != nil {
		o.AutoLock = f.AutoLock
		if f.Unlock != "" {
			var err error
			if ref, err = config.ParseSecretRef(f.Unlock); err != nil {
				return fault.New(fault.Config, "vault.unlock: "+err.Error(), "")
			}
		}
	}
	v, err := Unlock(ctx, n.places.Vault, o, Secrets{Ref: ref, Prompt: n.opts.Prompt, Credentials: n.opts.Credentials})
	if err != nil {
		return err
	}
	n.vault = v
	debug.FreeOSMemory() // scrypt took 128 MiB for half a second
	index := v.IdentityIndex()
	if n.signer, err = newVaultSigner(func() (crypto.Signer, error) { return v.Identity(index) }); err != nil {
		return err
	}
	n.hostKey, err = newVaultSigner(func() (crypto.Signer, error) { return v.SSHHostKey(0) })
	return err
}

// A vaultSigner signs with a key of the vault for as long as that is unlocked: it
// fails when the vault is locked, and works again when it is unlocked.
type vaultSigner struct {
	derive func() (crypto.Signer, error)
	public crypto.PublicKey

	mu  sync.Mutex
	key crypto.Signer // guarded by mu; of the last time that the vault was unlocked
}

func newVaultSigner(derive func() (crypto.Signer, error)) (*vaultSigner, error) {
	key, err := derive()
	if err != nil {
		return nil, err
	}
	return &vaultSigner{derive: derive, public: key.Public(), key: key}, nil
}

// Public works when the vault is locked too.
func (s *vaultSigner) Public() crypto.PublicKey { return s.public }

// Sign fails with vault.ErrLocked while the vault is locked.
func (s *vaultSigner) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	sig, err := key.Sign(rand, message, opts)
	if !errors.Is(err, vault.ErrLocked) {
		return sig, err
	}
	if key, err = s.derive(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.key = key
	s.mu.Unlock()
	return key.Sign(rand, message, opts)
}

// Secrets are the ways to what opens a vault.
type Secrets struct {
	Ref         config.SecretRef             // where the secret is
	Prompt      func() (vault.Secret, error) // nil: nobody is there
	Credentials string                       // folder of the service manager
}

// Unlock opens the vault in a folder and unlocks it. The caller closes it.
func Unlock(ctx context.Context, dir string, o *vault.Options, s Secrets) (*vault.Vault, error) {
	v, err := vault.Open(dir, o)
	switch {
	case errors.Is(err, vault.ErrNotFound):
		return nil, fault.New(fault.Unknown, "there is no vault in "+dir, "alknet init")
	case errors.Is(err, vault.ErrInUse):
		return nil, &fault.Error{Exit: fault.Busy, Code: "busy", Message: "another process has the vault " + dir, Hint: "alknet status", Err: err}
	case err != nil:
		return nil, err
	}
	if err := s.open(ctx, v); err != nil {
		_ = v.Close() // never unlocked
		return nil, err
	}
	return v, nil
}

func (s Secrets) open(ctx context.Context, v *vault.Vault) error {
	switch s.Ref.Kind {
	case "keyring":
		return keyring.Unlock(ctx, v, keyringService)
	case "prompt", "":
		if s.Prompt == nil {
			return fault.New(fault.Busy, "the vault is locked and nobody can be asked for the passphrase", "alknet config explain vault.unlock")
		}
		pass, err := s.Prompt()
		if err != nil {
			return err
		}
		defer pass.Destroy()
		return wrongPassphrase(v.Unlock(ctx, vault.Passphrase(pass)))
	}
	text, err := s.Ref.Read(s.Credentials)
	if err != nil {
		return fault.New(fault.Denied, fmt.Sprintf("vault.unlock (%s): %v", s.Ref.Kind, err), "")
	}
	return openWith(ctx, v, text)
}

// openWith opens a vault with what a file or descriptor holds, and wipes it.
func openWith(ctx context.Context, v *vault.Vault, text []byte) error {
	ids, err := vault.ParseIdentities(bytes.NewReader(text))
	clear(text)
	if err != nil {
		return err
	}
	return wrongPassphrase(v.Unlock(ctx, ids...))
}

func wrongPassphrase(err error) error {
	if errors.Is(err, vault.ErrNoSlot) {
		return &fault.Error{Exit: fault.Passphrase, Code: "passphrase", Message: "the vault stays locked: wrong passphrase or key", Err: err}
	}
	return err
}
