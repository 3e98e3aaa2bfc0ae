package vault

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
)

// A part of the folder is authenticated by a MAC under a purpose key of its own.
type part struct {
	name    string            // of its file
	purpose string            // of the key
	content func(w io.Writer) // writes all that counts, in one form, behind a label
	mac     *[]byte
}

// sign sets the MAC.
func (p part) sign(s *session) error {
	return s.purposeKey(p.purpose, 1, func(key []byte) error {
		*p.mac = p.sum(key)
		return nil
	})
}

// verify reports whether the vault of a session signed p.
func (p part) verify(s *session) error {
	return s.purposeKey(p.purpose, 1, func(key []byte) error {
		if !hmac.Equal(p.sum(key), *p.mac) {
			return fmt.Errorf("%w: %s is not what this vault wrote", ErrDecrypt, p.name)
		}
		return nil
	})
}

func (p part) sum(key []byte) []byte {
	h := hmac.New(sha256.New, key)
	p.content(h)
	return h.Sum(nil)
}
