package vault

import (
	"errors"
	"time"
)

// A Status says what can be known of a vault without a key.
type Status struct {
	Unlocked   bool      // the keys are in memory
	Check      string    // "ed25519:" and the public key of identity 0 in hex; "": vault.json is lost
	Index      uint32    // rotation index of the current identity
	KeyVersion uint32    // of new secrets
	Slots      []Slot    // by name
	Secrets    int       // how many are stored
	Created    time.Time // when the vault was made

	// What protects the keys in the memory of this process.
	Mlock         bool // they are not swapped out
	NoDump        bool // they are not in core dumps
	RuntimeSecret bool // what worked with them leaves nothing behind
}

// Status describes the vault, locked or not.
func (v *Vault) Status() Status {
	v.mu.Lock()
	c, holds, unlocked := v.contents, v.holds, v.current() != nil
	v.mu.Unlock()
	st := c.status()
	st.Unlocked = unlocked
	st.Mlock, st.NoDump = holds.mlock, holds.noDump
	if v.root != nil {
		st.Slots, _ = readSlots(v.root) // none of a folder that cannot be read or is closed
	}
	return st
}

// Inspect describes the vault in a folder. It needs no key, takes no lock and
// changes nothing; nothing that it says is authenticated. With an error it says
// what it could read.
func Inspect(dir string) (Status, error) {
	root, err := openVault(dir)
	if err != nil {
		return Status{}, err
	}
	c, bad, err := readContents(root)
	st := c.status()
	slots, slotErr := readSlots(root)
	st.Slots = slots
	p := newPage()
	st.Mlock, st.NoDump = p.mlock, p.noDump
	p.free()
	return st, errors.Join(err, bad, slotErr, root.Close())
}

func (c *contents) status() Status {
	return Status{
		Check: c.state.Check, Index: c.state.Index, KeyVersion: c.state.KeyVersion, Created: c.state.Created,
		Secrets: len(c.records), RuntimeSecret: runtimeSecret,
	}
}
