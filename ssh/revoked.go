package ssh

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	xssh "golang.org/x/crypto/ssh"
)

// revocations are what is refused.
type revocations struct {
	keys    map[string]bool // in wire format
	serials map[string]bool // "CA-FINGERPRINT:NUMBER"
	ids     map[string]bool // "CA-FINGERPRINT:KEY-ID"
}

// revocations reads what is revoked now.
func (u *Users) revocations() (*revocations, error) {
	if u.Revoked == nil {
		return &revocations{}, nil
	}
	text, err := u.Revoked()
	if err != nil {
		return nil, fmt.Errorf("ssh: revoked keys: %w", err)
	}
	return u.revoked.of(text, parseRevoked)
}

// parseRevoked reads every line, or fails: a line that is not understood may be
// the one that matters.
func parseRevoked(text []byte) (*revocations, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("ssh: revoked keys have more than %d bytes", maxKeyFile)
	}
	r := &revocations{keys: make(map[string]bool), serials: make(map[string]bool), ids: make(map[string]bool)}
	for number, line := range keyLines(text) {
		if err := r.add(string(line)); err != nil {
			return nil, fmt.Errorf("ssh: revoked keys: line %d: %w", number, err)
		}
	}
	return r, nil
}

func (r *revocations) add(line string) error {
	if rest, ok := strings.CutPrefix(line, "serial:"); ok {
		fp, serial, ok := cutFingerprint(rest)
		n, err := strconv.ParseUint(serial, 10, 64)
		if !ok || err != nil {
			return errors.New("want serial:CA-FINGERPRINT:NUMBER")
		}
		r.serials[fp+":"+strconv.FormatUint(n, 10)] = true
		return nil
	}
	if rest, ok := strings.CutPrefix(line, "id:"); ok {
		fp, id, ok := cutFingerprint(rest)
		if !ok || id == "" {
			return errors.New("want id:CA-FINGERPRINT:KEY-ID")
		}
		r.ids[fp+":"+id] = true
		return nil
	}
	key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return errors.New("want a public key")
	}
	if cert, ok := key.(*xssh.Certificate); ok {
		key = cert.Key
	}
	r.keys[string(key.Marshal())] = true
	return nil
}

// cutFingerprint splits "SHA256:BASE64:REST".
func cutFingerprint(s string) (fp, rest string, ok bool) {
	hash, s, ok := strings.Cut(s, ":")
	if !ok || hash != "SHA256" {
		return "", "", false
	}
	sum, rest, ok := strings.Cut(s, ":")
	return hash + ":" + sum, rest, ok && sum != ""
}

// has reports whether a key, a certificate or its authority is revoked.
func (r *revocations) has(key xssh.PublicKey) bool {
	cert, ok := key.(*xssh.Certificate)
	if !ok {
		return r.keys[string(key.Marshal())]
	}
	fp := xssh.FingerprintSHA256(cert.SignatureKey)
	return r.keys[string(cert.Key.Marshal())] || r.keys[string(cert.SignatureKey.Marshal())] ||
		r.serials[fp+":"+strconv.FormatUint(cert.Serial, 10)] || r.ids[fp+":"+cert.KeyId]
}
