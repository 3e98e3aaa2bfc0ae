package vault

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A SecretInfo says what is stored, not what it is.
type SecretInfo struct {
	Name, Purpose string    // as given to Put
	KeyVersion    uint32    // of the key it is encrypted under
	Generation    uint64    // greater with each change of the vault's secrets: an older copy has a smaller one
	Updated       time.Time // when this process wrote it; zero: an earlier one did
}

// Put stores a secret under a name, in place of one that is there. What is in
// the folder is on the disk when Put returns. After an error of the
// disk Get and List say which of the two is there, the old one or s. name has 1
// to 200 and purpose 1 to 64 printable ASCII bytes, s at most 1 MiB less 16
// bytes. Name and purpose are stored in the clear.
func (v *Vault) Put(name, purpose string, s Secret) error {
	err := checkNames(name, purpose)
	if err == nil {
		err = v.changeStore(func(k *session, next *contents) error {
			if _, there := next.records[name]; !there && len(next.records) >= maxSecrets {
				return fmt.Errorf("%w: a vault has at most %d secrets", ErrMalformed, maxSecrets)
			}
			return next.encrypt(k, name, purpose, s)
		})
	}
	v.tell(eventWrite, name, err)
	return err
}

// Get gives a stored secret. One stored under another purpose is [ErrDecrypt].
// The Secret ends with the next lock.
func (v *Vault) Get(name, purpose string) (Secret, error) {
	var got Secret
	err := v.use(func(s *session) (err error) {
		v.mu.Lock()
		e, found := v.contents.records[name]
		v.mu.Unlock()
		if !found {
			return fmt.Errorf("%w: secret %.200q", ErrNotFound, name)
		}
		e.Purpose = purpose
		got, err = s.decrypt(&e)
		return err
	})
	v.tell(eventRead, name, err)
	return got, err
}

// Delete removes a stored secret. Copies that others took are not affected.
func (v *Vault) Delete(name string) error {
	err := v.changeStore(func(_ *session, next *contents) error {
		if _, found := next.records[name]; !found {
			return fmt.Errorf("%w: secret %.200q", ErrNotFound, name)
		}
		delete(next.records, name)
		return nil
	})
	v.tell(eventDelete, name, err)
	return err
}

// List gives what is stored, by name. While the vault is locked it is what the
// folder says, which nobody has authenticated yet.
func (v *Vault) List() []SecretInfo {
	v.mu.Lock()
	records := v.contents.records
	v.mu.Unlock()
	list := make([]SecretInfo, 0, len(records))
	for _, name := range slices.Sorted(maps.Keys(records)) {
		e := records[name]
		list = append(list, SecretInfo{Name: name, Purpose: e.Purpose, KeyVersion: e.KeyVersion, Generation: e.Generation})
	}
	return list
}

// Rotate makes a new key version and encrypts all secrets again under it; n is
// how many. Old versions stay derivable. If it is interrupted, secrets of both
// versions are readable, and the next Put or Rotate finishes it.
func (v *Vault) Rotate() (n int, err error) {
	defer func() { v.tell(eventRotate, "secrets", err) }()
	err = v.change(func(s *session, next *contents) error {
		if next.state.KeyVersion >= lastKeyVersion {
			return fmt.Errorf("%w: there is no key version after %d", ErrMalformed, next.state.KeyVersion)
		}
		next.state.KeyVersion++
		return v.saveState(s, next)
	})
	if err != nil {
		return 0, err
	}
	err = v.changeStore(func(_ *session, next *contents) error {
		n = len(next.records)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// encrypt makes a record of next.
func (c *contents) encrypt(s *session, name, purpose string, plain Secret) error {
	e, err := s.encrypt(EncryptedData{
		Envelope: envelopeBound, KeyVersion: c.state.KeyVersion, Name: name, Purpose: purpose, Generation: c.change,
	}, plain)
	if err == nil {
		c.records[name] = e
	}
	return err
}

// catchUpVersion encrypts again what a rotation has not come to.
func (c *contents) catchUpVersion(s *session) error {
	for name, e := range c.records {
		if e.KeyVersion == c.state.KeyVersion {
			continue
		}
		plain, err := s.decrypt(&e)
		if err != nil {
			return fmt.Errorf("%w: secret %.200q", err, name)
		}
		err = c.encrypt(s, name, e.Purpose, plain)
		plain.Destroy()
		if err != nil {
			return err
		}
	}
	return nil
}

// changeStore makes a change of the stored secrets: all of f, or nothing.
func (v *Vault) changeStore(f func(s *session, next *contents) error) error {
	return v.change(func(s *session, next *contents) error {
		next.change++
		err := f(s, next)
		if err == nil {
			err = next.catchUpVersion(s)
		}
		if err != nil {
			return err
		}
		return v.save(s, next)
	})
}

// change makes a change: f saves what it makes of next, which is in force then.
// After an error what the folder holds is in force.
func (v *Vault) change(f func(s *session, next *contents) error) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	return v.use(func(s *session) error {
		v.mu.Lock()
		next := v.contents.clone()
		v.mu.Unlock()
		v.touched = false
		err := f(s, &next)
		if err != nil && v.touched {
			var bad error
			if next, _, bad = s.load(v.root, next.state, false); bad != nil {
				return err
			}
		}
		if err == nil || v.touched {
			v.replace(next)
		}
		return err
	})
}

// replace puts contents in force.
func (v *Vault) replace(c contents) {
	v.mu.Lock()
	v.contents = c
	v.mu.Unlock()
}

// save writes both files. All that takes room on the disk is there before either
// changes, so that a full one leaves both as they are; then the secrets change
// first: vault.json never knows of a change that is not there. The caller has
// writing.
func (v *Vault) save(s *session, c *contents) error {
	c.state.Change = c.change
	if v.root == nil {
		return nil
	}
	v.touched = true
	secrets, err := c.store().prepare(v.root, s)
	if err != nil {
		return err
	}
	state, err := c.state.prepare(v.root, s)
	if err != nil {
		return errors.Join(err, secrets.drop())
	}
	if err := secrets.commit(); err != nil {
		return errors.Join(err, state.drop())
	}
	return state.commit()
}

// saveState writes vault.json alone.
func (v *Vault) saveState(s *session, c *contents) error {
	if v.root == nil {
		return nil
	}
	v.touched = true
	return c.state.write(v.root, s)
}
