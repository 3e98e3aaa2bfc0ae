package vault

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// passwordLabel separates site passwords from all others.
const passwordLabel = "alknet/site-password/1"

const (
	defaultLength = 20
	minLength     = 8
	maxLength     = 64
	maxLoginBytes = 1024

	// streamBytes is what a password is made from: 132 choices at most, of which
	// less than one in eight takes a second byte.
	streamBytes = 1024
)

// defaultClasses are all of them, in the order in which a password takes one of each.
const defaultClasses = "aA1!"

// classChars are the characters of a class, without those that look alike.
var classChars = map[byte]string{
	'a': "abcdefghijkmnopqrstuvwxyz",
	'A': "ABCDEFGHJKLMNPQRSTUVWXYZ",
	'1': "23456789",
	'!': "!#%+-./:=?@_",
}

// A PasswordPolicy is what a site demands of passwords.
type PasswordPolicy struct {
	// Length is 8 to 64; 0: 20.
	Length int

	// Classes are the kinds of characters, each at least once: a for lower case,
	// A for upper case, 1 for digits, ! for symbols; "": all, "aA1!". The same
	// classes in another order make another password.
	Classes string
}

// SitePassword gives the password of a login at a site, the same on every
// machine with the phrase. site is a lower-case ASCII host name (punycode);
// login has at most 1024 bytes. A new password is a new counter, which the
// caller keeps. The Secret ends with the next lock.
func (v *Vault) SitePassword(site, login string, counter uint32, p PasswordPolicy) (Secret, error) {
	var password Secret
	err := p.fill()
	if err == nil {
		err = checkSite(site, login)
	}
	if err == nil {
		err = v.use(func(s *session) error {
			info := append([]byte(passwordLabel), 0)
			for _, text := range []string{site, login} {
				info = binary.BigEndian.AppendUint16(info, uint16(len(text))) // at most maxLoginBytes
				info = append(info, text...)
			}
			info = binary.BigEndian.AppendUint32(info, counter)
			made := make([]byte, 0, p.Length)
			err := s.derived(place{sitePath, 0}, formKey, func(root []byte) error {
				bytes, err := hkdf.Key(sha256.New, root, nil, string(info), streamBytes)
				if err != nil {
					return fmt.Errorf("vault: %w", err) // a policy of the program's crypto
				}
				defer clear(bytes)
				made, err = p.compose(made, &stream{bytes: bytes})
				return err
			})
			password = s.hand(made)
			return err
		})
	}
	v.tell(eventKey, place{sitePath, 0}.String(), err)
	if err != nil {
		return Secret{}, err
	}
	return password, nil
}

// fill puts defaults in place and checks the rest.
func (p *PasswordPolicy) fill() error {
	if p.Length == 0 {
		p.Length = defaultLength
	}
	if p.Classes == "" {
		p.Classes = defaultClasses
	}
	if p.Length < minLength || p.Length > maxLength {
		return fmt.Errorf("%w: PasswordPolicy.Length is %d, not 0 or %d to %d", ErrMalformed, p.Length, minLength, maxLength)
	}
	for i := range len(p.Classes) {
		if classChars[p.Classes[i]] == "" || strings.IndexByte(p.Classes, p.Classes[i]) != i {
			return fmt.Errorf("%w: PasswordPolicy.Classes has each of %q at most once and nothing else", ErrMalformed, defaultClasses)
		}
	}
	return nil
}

// checkSite refuses what two programs could write in two ways.
func checkSite(site, login string) error {
	if len(login) > maxLoginBytes || !utf8.ValidString(login) {
		return fmt.Errorf("%w: a login is valid UTF-8 of at most %d bytes", ErrMalformed, maxLoginBytes)
	}
	ok := len(site) <= 253
	for label := range strings.SplitSeq(site, ".") {
		ok = ok && label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for i := range len(label) {
			c := label[i]
			ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
		}
	}
	if !ok {
		return fmt.Errorf("%w: a site is a lower-case ASCII host name", ErrMalformed)
	}
	return nil
}

// compose appends a password: one character of each class, then of all, then shuffled.
func (p *PasswordPolicy) compose(out []byte, s *stream) ([]byte, error) {
	all := ""
	for i := range len(p.Classes) {
		chars := classChars[p.Classes[i]]
		all += chars
		out = append(out, chars[s.pick(len(chars))])
	}
	for len(out) < p.Length {
		out = append(out, all[s.pick(len(all))])
	}
	for i := len(out) - 1; i > 0; i-- {
		j := s.pick(i + 1)
		out[i], out[j] = out[j], out[i]
	}
	if s.over {
		clear(out)
		return nil, errors.New("vault: no password of this counter: take the next one") // never seen
	}
	return out, nil
}

// A stream is bytes from which choices are made.
type stream struct {
	bytes []byte
	over  bool // it was too short
}

// pick chooses one of k evenly.
func (s *stream) pick(k int) int {
	for len(s.bytes) > 0 {
		b := int(s.bytes[0])
		s.bytes = s.bytes[1:]
		if b < 256-256%k {
			return b % k
		}
	}
	s.over = true
	return 0
}
