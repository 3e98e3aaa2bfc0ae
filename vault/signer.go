package vault

import (
	"crypto"
	"crypto/ed25519"
	"io"
	"slices"
)

// A signer signs with a key that stays in its session.
type signer struct {
	redacted
	session *session
	at      place
	path    string // of at
	public  ed25519.PublicKey
}

var _ crypto.Signer = (*signer)(nil)

// signerAt makes the signer of a place. The caller is within the gate of s.
func (s *session) signerAt(at place) (*signer, error) {
	k := &signer{session: s, at: at, path: at.String(), public: make(ed25519.PublicKey, ed25519.PublicKeySize)}
	err := s.derived(at, formEd25519, func(key []byte) error {
		copy(k.public, key[ed25519.SeedSize:])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Public returns an ed25519.PublicKey. It works after a lock too.
func (k *signer) Public() crypto.PublicKey { return slices.Clone(k.public) }

// Sign signs as [ed25519.PrivateKey.Sign] does; opts may be nil. After a lock it
// returns ErrLocked.
func (k *signer) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		opts = crypto.Hash(0)
	}
	signature := make([]byte, 0, ed25519.SignatureSize)
	err := k.session.with(k.at, formEd25519, func(key []byte) error {
		made, err := ed25519.PrivateKey(key).Sign(nil, message, opts)
		signature = append(signature, made...) // what is made in here may be erased
		return err
	})
	k.session.tell(eventKey, k.path, err)
	if err != nil {
		return nil, err
	}
	return signature, nil
}
