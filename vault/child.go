package vault

import (
	"errors"
	"fmt"

	"filippo.io/age"
)

// deviceSlot is the slot that Save makes.
const deviceSlot = "device"

// Child gives a vault in memory whose seed is derived: one for a device or a
// worker. This vault can make it again at any time; the child learns nothing of
// this vault or of other children. It lives on when this one is locked; Close it.
func (v *Vault) Child(n uint32, o *Options) (*Vault, error) {
	at := place{childPath, n}
	var made *Vault
	err := v.use(func(s *session) error {
		var seed [seedBytes]byte
		defer clear(seed[:])
		err := s.derived(at, formNode, func(node []byte) error {
			copy(seed[:], node)
			return nil
		})
		if err == nil {
			made, err = inMemory(&seed, o)
		}
		return err
	})
	v.tell(eventKey, at.String(), err)
	return made, err
}

// Save writes a vault that is in memory into a folder, as [Create] would, with
// its secrets and one slot, "device", that the recipients can open. The vault
// stays in memory: Open the folder to use it there. [ErrExists] if it holds a
// vault, or if this vault has a folder already. What a crash leaves has no
// vault.json: remove it and Save again.
func (v *Vault) Save(dir string, to ...age.Recipient) error {
	if v.root != nil {
		return fmt.Errorf("%w: this vault is in %s", ErrExists, v.root.Name())
	}
	return v.use(func(s *session) error {
		slot, err := v.sealed(s, to)
		if err != nil {
			return err
		}
		folder, err := newVault(&Options{Now: v.opts.Now})
		if err != nil {
			return err
		}
		if err := folder.claim(dir, makeFolder); err != nil {
			return err
		}
		return errors.Join(v.saveTo(folder, s, slot), folder.Close())
	})
}

// saveTo fills the folder of a vault, vault.json last.
func (v *Vault) saveTo(folder *Vault, s *session, slot []byte) error {
	held, err := holdsVault(folder.root)
	if err == nil && held {
		err = fmt.Errorf("%w: %s", ErrExists, folder.root.Name())
	}
	if err != nil {
		return err
	}
	v.mu.Lock()
	c := v.contents
	v.mu.Unlock()
	if err = writeFile(folder.root, slotFile(deviceSlot), slot); err != nil {
		return err
	}
	if len(c.records) == 0 {
		err = folder.saveState(s, &c)
	} else {
		err = folder.save(s, &c)
	}
	if err != nil {
		return errors.Join(err, folder.root.Remove(slotFile(deviceSlot)))
	}
	return nil
}
