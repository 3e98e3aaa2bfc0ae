package vault

import (
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"filippo.io/age"
)

// purposeLabel separates purpose keys from all others.
const purposeLabel = "alknet/purpose/1"

// Identity gives the node's Ed25519 key of a rotation index. It signs until the
// next lock, then it returns [ErrLocked]; its public key can be read always.
func (v *Vault) Identity(i uint32) (crypto.Signer, error) { return v.signer(identityPath, i) }

// SSHHostKey gives the Ed25519 key of the node's SSH server, like Identity.
func (v *Vault) SSHHostKey(i uint32) (crypto.Signer, error) { return v.signer(hostKeyPath, i) }

// SSHUserKey gives the Ed25519 key of the node's SSH client, like Identity.
func (v *Vault) SSHUserKey(i uint32) (crypto.Signer, error) { return v.signer(userKeyPath, i) }

func (v *Vault) signer(b branch, i uint32) (crypto.Signer, error) {
	at := place{b, i}
	var k *signer
	err := v.use(func(s *session) (err error) {
		k, err = s.signerAt(at)
		return err
	})
	v.tell(eventKey, at.String(), err)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// IdentityIndex is the rotation index of the current identity.
func (v *Vault) IdentityIndex() uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.contents.state.Index
}

// RotateIdentity makes the next identity the current one and returns both, so
// that a statement can be made with the two of them. After an error or a crash
// the index is the old one or the new one, and both keys can be had by Identity.
func (v *Vault) RotateIdentity() (old, new crypto.Signer, err error) {
	defer func() { v.tell(eventRotate, "identity", err) }()
	var from, to *signer
	err = v.change(func(s *session, next *contents) (err error) {
		if from, err = s.signerAt(place{identityPath, next.state.Index}); err != nil {
			return err
		}
		next.state.Index++
		if to, err = s.signerAt(place{identityPath, next.state.Index}); err != nil {
			return err
		}
		return v.saveState(s, next)
	})
	if err != nil {
		return nil, nil, err
	}
	return from, to, nil
}

// AgeIdentity gives a post-quantum age key: what is sealed to its recipient opens
// with the phrase alone. It is not revoked by a lock.
func (v *Vault) AgeIdentity(i uint32) (*age.HybridIdentity, error) {
	at := place{agePath, i}
	var id *age.HybridIdentity
	err := v.use(func(s *session) error {
		return s.derived(at, formKey, func(key []byte) (err error) {
			id, err = age.ParseHybridIdentity(strings.ToUpper(bech32("age-secret-key-pq-", key)))
			return err
		})
	})
	v.tell(eventKey, at.String(), err)
	if err != nil {
		return nil, err
	}
	return id, nil
}

// PurposeKey gives 32 bytes for a purpose of [a-z0-9/-], 1 to 64 bytes: "msg/store".
// Keys of other purposes or numbers say nothing about each other. Purposes that
// begin with "vault/" are the vault's own. The Secret ends with the next lock.
func (v *Vault) PurposeKey(purpose string, n uint32) (Secret, error) {
	var key Secret
	err := checkPurpose(purpose)
	if err == nil {
		err = v.use(func(s *session) error {
			data := make([]byte, 32)
			err := s.purposeKey(purpose, n, func(key []byte) error {
				copy(data, key)
				return nil
			})
			key = s.hand(data)
			return err
		})
	}
	v.tell(eventKey, place{purposePath, 0}.String(), err)
	if err != nil {
		return Secret{}, err
	}
	return key, nil
}

// checkPurpose checks the purpose of a key.
func checkPurpose(purpose string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789/-"
	if purpose == "" || len(purpose) > maxPurposeBytes || strings.Trim(purpose, allowed) != "" {
		return fmt.Errorf("%w: the purpose of a key has 1 to %d bytes of [a-z0-9/-]", ErrMalformed, maxPurposeBytes)
	}
	for _, r := range purpose {
		if !strings.ContainsRune(allowed, r) {
			return fmt.Errorf("%w: the purpose of a key has only bytes of [a-z0-9/-]", ErrMalformed)
		}
	}
	if strings.HasPrefix(purpose, ownPurposes) {
		return fmt.Errorf("%w: purposes that begin with %q are the vault's own", ErrMalformed, ownPurposes)
	}
	return nil
}

// purposeKey calls use with a purpose key, which is wiped after use. The caller
// is within the gate.
func (s *session) purposeKey(purpose string, n uint32, use func(key []byte) error) error {
	return s.derived(place{purposePath, 0}, formKey, func(root []byte) error {
		info := append([]byte(purposeLabel), 0)
		info = append(append(info, purpose...), 0)
		info = binary.BigEndian.AppendUint32(info, n)
		key, err := hkdf.Key(sha256.New, root, nil, string(info), 32)
		if err != nil {
			return fmt.Errorf("vault: %w", err) // a policy of the program's crypto
		}
		defer clear(key)
		return use(key)
	})
}

// ExportSeed gives the 64 bytes that everything comes from, for a process that
// takes over ([FromSeed], [Vault.UnlockSeed]) and for wallets. Whoever has them
// has all keys. The Secret ends with the next lock.
func (v *Vault) ExportSeed() (Secret, error) {
	var seed Secret
	err := v.use(func(s *session) error {
		data := make([]byte, seedBytes)
		copy(data, s.page.seed())
		seed = s.hand(data)
		return nil
	})
	v.tell(eventKey, "seed", err)
	return seed, err
}
