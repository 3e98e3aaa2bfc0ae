// Package keyring unlocks a vault with the key store of the operating system:
// the Secret Service on Linux and BSD (D-Bus), the Keychain on macOS, the
// Credential Manager on Windows. The store holds an age key for one slot of the
// vault, "keyring", and never sees seed, phrase or passphrase.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"filippo.io/age"
	zkeyring "github.com/zalando/go-keyring"

	"github.com/alkdev/alknet/vault"
)

// slotName is the slot that the store's key opens.
const slotName = "keyring"

// A store is the system's.
type store struct {
	get    func(service, account string) (string, error)
	set    func(service, account, key string) error
	delete func(service, account string) error
}

var system = store{zkeyring.Get, zkeyring.Set, zkeyring.Delete}

// Remember makes a slot "keyring" that opens with a new key, which is kept in the
// system's store under a service name, "alknet", and the vault's check value. The
// vault is unlocked and in a folder. If there was such a slot with its key, an
// error or a crash leaves one that the stored key opens.
func Remember(v *vault.Vault, service string) error { return remember(v, service, system) }

func remember(v *vault.Vault, service string, system store) error {
	account, err := accountOf(v)
	if err != nil {
		return err
	}
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	before, err := system.get(service, account)
	if err != nil && !errors.Is(err, zkeyring.ErrNotFound) {
		return noStore(err)
	}
	if old, err := age.ParseHybridIdentity(before); err == nil {
		// The slot opens with both keys while the store changes from one to the other.
		if err := v.Seal(slotName, id.Recipient(), old.Recipient()); err != nil {
			return err
		}
	}
	if err := system.set(service, account, id.String()); err != nil {
		return noStore(err)
	}
	if err := v.Seal(slotName, id.Recipient()); err != nil {
		if before == "" {
			return errors.Join(err, system.delete(service, account))
		}
		return err
	}
	return nil
}

// Unlock unlocks with the key that Remember left in the system's store. It
// returns when ctx ends, even if the store waits for somebody to unlock it.
func Unlock(ctx context.Context, v *vault.Vault, service string) error {
	account, err := accountOf(v)
	if err != nil {
		return err
	}
	stored := sync.OnceValues(func() (*age.HybridIdentity, error) {
		text, err := zkeyring.Get(service, account)
		if err != nil {
			return nil, noStore(err)
		}
		id, err := age.ParseHybridIdentity(text)
		if err != nil { // whose text may show a piece of the key
			return nil, fmt.Errorf("keyring: %w: what the store holds is no key of ours: call Remember", vault.ErrMalformed)
		}
		return id, nil
	})
	return v.Unlock(ctx, identity(stored))
}

// Forget removes slot and key. It tries both and does nothing about what is not
// there. [vault.ErrLastSlot]: keyring is the only way in; both stay then.
func Forget(v *vault.Vault, service string) error {
	account, err := accountOf(v)
	if err != nil {
		return err
	}
	if err := v.RemoveSlot(slotName); err != nil && !errors.Is(err, vault.ErrNotFound) {
		return err
	}
	if err := zkeyring.Delete(service, account); err != nil && !errors.Is(err, zkeyring.ErrNotFound) {
		return noStore(err)
	}
	return nil
}

// accountOf is the name of a vault in the store.
func accountOf(v *vault.Vault) (string, error) {
	if check := v.Status().Check; check != "" {
		return check, nil
	}
	return "", fmt.Errorf("keyring: %w: the vault's check value is lost", vault.ErrNotFound)
}

// noStore says what else there is.
func noStore(err error) error {
	return fmt.Errorf("keyring: the system's key store: %w: unlock by a credential file or the prompt instead", err)
}

// An identity asks the store when a slot is there to be opened.
type identity func() (*age.HybridIdentity, error)

// Unwrap opens a slot with the stored key.
func (get identity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	id, err := get()
	if err != nil {
		return nil, err
	}
	return id.Unwrap(stanzas)
}
