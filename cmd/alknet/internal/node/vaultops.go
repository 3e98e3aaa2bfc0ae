package node

import (
	"bytes"
	"context"
	"errors"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/vault"
)

// SecretIn names a stored secret, and for node/vault/put holds it.
type SecretIn struct {
	Name    string `json:"name"`           // what people call it
	Purpose string `json:"purpose"`        // as given when it was stored
	Value   []byte `json:"value,omitzero"` // raw bytes
}

// SecretOut is a stored secret.
type SecretOut struct {
	Value []byte `json:"value"` // raw bytes
}

// SecretInfo says what is stored.
type SecretInfo struct {
	Name       string `json:"name"`        // what people call it
	Purpose    string `json:"purpose"`     // as given when it was stored
	KeyVersion uint32 `json:"key_version"` // of the key it is encrypted under
}

// vaultOperations reach the secrets of the node's vault, which the node alone can
// open while it runs. They are on the control socket only.
func (n *Node) vaultOperations() []call.Operation {
	get := func(_ context.Context, in SecretIn) (out SecretOut, err error) {
		if n.vault == nil {
			return out, noVault()
		}
		s, err := n.vault.Get(in.Name, in.Purpose)
		if err != nil {
			return out, secretError(err)
		}
		return out, s.Use(func(b []byte) error { out.Value = bytes.Clone(b); return nil })
	}
	put := func(_ context.Context, in SecretIn) (string, error) {
		if n.vault == nil {
			return "", noVault()
		}
		s := vault.NewSecret(in.Value)
		defer s.Destroy()
		return "stored", secretError(n.vault.Put(in.Name, in.Purpose, s))
	}
	rm := func(_ context.Context, in SecretIn) (string, error) {
		if n.vault == nil {
			return "", noVault()
		}
		return "removed", secretError(n.vault.Delete(in.Name))
	}
	list := func(context.Context, struct{}) ([]SecretInfo, error) {
		if n.vault == nil {
			return nil, noVault()
		}
		return Stored(n.vault), nil
	}
	lock := func(context.Context, struct{}) (string, error) {
		if n.vault == nil {
			return "", noVault()
		}
		n.vault.Lock()
		n.event("vault.locked", "", "")
		n.log.Warn("the vault is locked: nobody can connect until it is unlocked", "event", "vault.locked")
		return "locked", nil
	}
	return []call.Operation{
		{Name: "node/vault/lock", Description: "forgets the keys until the vault is unlocked", Func: call.MutationFunc(lock), Errors: nodeErrors},
		{Name: "node/vault/unlock", Description: "unlocks the vault", Func: call.MutationFunc(n.unlockVault), Errors: nodeErrors},
		{Name: "node/vault/get", Description: "a stored secret", Func: call.QueryFunc(get), Errors: nodeErrors},
		{Name: "node/vault/put", Description: "stores a secret", Func: call.MutationFunc(put), Errors: nodeErrors},
		{Name: "node/vault/rm", Description: "removes a stored secret", Func: call.MutationFunc(rm), Errors: nodeErrors},
		{Name: "node/vault/list", Description: "what is stored", Func: call.QueryFunc(list), Errors: nodeErrors},
	}
}

// UnlockIn is the input of node/vault/unlock.
type UnlockIn struct {
	Kind string `json:"kind"`          // "prompt": Text is a passphrase; "keyring": the system has it; else Text is a file of age keys or a passphrase
	Text []byte `json:"text,omitzero"` // raw bytes
}

func (n *Node) unlockVault(ctx context.Context, in UnlockIn) (string, error) {
	if n.vault == nil {
		return "", noVault()
	}
	var err error
	switch in.Kind {
	case "prompt":
		pass := func() (vault.Secret, error) { return vault.NewSecret(in.Text), nil }
		err = Secrets{Ref: config.SecretRef{Kind: "prompt"}, Prompt: pass}.open(ctx, n.vault)
	case "keyring":
		err = Secrets{Ref: config.SecretRef{Kind: "keyring"}}.open(ctx, n.vault)
	default:
		err = openWith(ctx, n.vault, in.Text)
	}
	if errors.Is(err, vault.ErrUnlocked) {
		return "unlocked", nil
	}
	if err != nil {
		n.log.Warn("the vault stays locked", "event", "vault.refused")
		return "", remote(err)
	}
	n.event("vault.unlocked", "", "")
	n.log.Info("the vault is unlocked", "event", "vault.unlocked")
	return "unlocked", nil
}

// Stored lists what is stored in a vault.
func Stored(v *vault.Vault) []SecretInfo {
	all := []SecretInfo{}
	for _, i := range v.List() {
		all = append(all, SecretInfo{i.Name, i.Purpose, i.KeyVersion})
	}
	return all
}

func noVault() error { return remote(fault.New(fault.Unknown, "this node has no vault", "")) }

func secretError(err error) error {
	if errors.Is(err, vault.ErrNotFound) {
		return &call.Error{Code: "UNKNOWN_PEER", Message: "there is no such secret"}
	}
	return remote(err)
}
