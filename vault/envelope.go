package vault

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
)

// The forms of EncryptedData.
const (
	envelopePlain = 0 // of other programs: nothing but the ciphertext is authenticated
	envelopeBound = 2 // bound to key version, generation, name and purpose
)

// envelopeLabel separates the keys and the additional data of envelope 2 from all others.
const envelopeLabel = "alknet/vault/envelope/2"

const (
	firstKeyVersion = 2
	lastKeyVersion  = 1<<31 + 1

	ivBytes      = 12
	tagBytes     = 16
	saltBytes    = 32 // of envelope 2
	maxSaltBytes = 64 // of envelope 0

	// maxDataBytes is the most that EncryptedData.Data holds.
	maxDataBytes = 1 << 20

	maxNameBytes    = 200
	maxPurposeBytes = 64

	// maxHeadBytes is the most that the additional data of envelope 2 has.
	maxHeadBytes = len(envelopeLabel) + 17 + maxNameBytes + maxPurposeBytes

	// maxEnvelopeJSON is the longest text of an EncryptedData.
	maxEnvelopeJSON = 2 << 20
)

// EncryptedData is a secret as it is stored and exported, in JSON with standard
// base64. Its zero Envelope is the form that other programs read and write:
// AES-256-GCM under the key of the version, without additional data; whoever can
// write such records can exchange one for another, and as all of a version share
// a key under random nonces, no version should have more than 2^32 of them.
// Envelope 2 is ours: a key of its own for each record, by HKDF-SHA256 from the
// version's key and Salt, and key version, generation, name and purpose
// authenticated.
type EncryptedData struct {
	Envelope   int    `json:"envelope,omitzero"`   // 0 or 2
	KeyVersion uint32 `json:"key_version"`         // 2 to 2^31+1
	Name       string `json:"name,omitzero"`       // envelope 2: 1 to 200 printable ASCII bytes
	Purpose    string `json:"purpose,omitzero"`    // envelope 2: 1 to 64 printable ASCII bytes
	Generation uint64 `json:"generation,omitzero"` // envelope 2: greater with each change
	Salt       []byte `json:"salt"`                // envelope 2: 32 bytes; envelope 0: at most 64, unused
	IV         []byte `json:"iv"`                  // 12 bytes
	Data       []byte `json:"data"`                // ciphertext and tag, at most 1 MiB
}

// UnmarshalJSON refuses what is not a whole record in the one right form: two
// members of a name, bad base64, values out of range, and in envelope 2 unknown
// members. Each is [ErrMalformed].
func (e *EncryptedData) UnmarshalJSON(text []byte) error {
	type form struct {
		Envelope   int       `json:"envelope"`
		KeyVersion uint32    `json:"key_version"`
		Name       string    `json:"name"`
		Purpose    string    `json:"purpose"`
		Generation uint64    `json:"generation"`
		Salt       *strict64 `json:"salt"`
		IV         *strict64 `json:"iv"`
		Data       *strict64 `json:"data"`
	}
	var in form
	if len(text) > maxEnvelopeJSON {
		return fmt.Errorf("%w: a record of %d bytes", ErrMalformed, len(text))
	}
	err := json.Unmarshal(text, &in, json.RejectUnknownMembers(true))
	if errors.Is(err, json.ErrUnknownName) {
		in = form{}
		if err = json.Unmarshal(text, &in); err == nil && in.Envelope == envelopeBound {
			return fmt.Errorf("%w: a record with unknown members", ErrMalformed)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: not the JSON of a record", ErrMalformed) // the cause may show a value
	}
	if in.Salt == nil || in.IV == nil || in.Data == nil {
		return fmt.Errorf("%w: a record has salt, iv and data", ErrMalformed)
	}
	got := EncryptedData{in.Envelope, in.KeyVersion, in.Name, in.Purpose, in.Generation, *in.Salt, *in.IV, *in.Data}
	if err := got.validate(); err != nil {
		return err
	}
	*e = got
	return nil
}

// A strict64 is bytes whose base64 has one form only.
type strict64 []byte

// UnmarshalText decodes text.
func (b *strict64) UnmarshalText(text []byte) error {
	got, err := base64.StdEncoding.AppendDecode([]byte{}, text) // not nil, which encodes as null
	if err != nil || !bytes.Equal(base64.StdEncoding.AppendEncode(nil, got), text) {
		return ErrMalformed
	}
	*b = got
	return nil
}

// validate checks all that can be checked without a key.
func (e *EncryptedData) validate() error {
	if err := e.validateHead(); err != nil {
		return err
	}
	if len(e.IV) != ivBytes {
		return fmt.Errorf("%w: an iv of %d bytes, not %d", ErrMalformed, len(e.IV), ivBytes)
	}
	if e.Envelope == envelopeBound && len(e.Salt) != saltBytes || len(e.Salt) > maxSaltBytes {
		return fmt.Errorf("%w: a salt of %d bytes", ErrMalformed, len(e.Salt))
	}
	if len(e.Data) < tagBytes || len(e.Data) > maxDataBytes {
		return fmt.Errorf("%w: data of %d bytes", ErrMalformed, len(e.Data))
	}
	return nil
}

// validateHead checks what a caller of Encrypt gives.
func (e *EncryptedData) validateHead() error {
	if e.KeyVersion == 1 {
		return fmt.Errorf("%w: key version 1 is that of an older program, by PBKDF2, and cannot be derived", ErrMalformed)
	}
	if e.KeyVersion < firstKeyVersion || e.KeyVersion > lastKeyVersion {
		return fmt.Errorf("%w: key version %d", ErrMalformed, e.KeyVersion)
	}
	switch e.Envelope {
	case envelopePlain:
		if e.Name != "" || e.Purpose != "" || e.Generation != 0 {
			return fmt.Errorf("%w: envelope 0 does not authenticate name, purpose and generation", ErrMalformed)
		}
		return nil
	case envelopeBound:
		return checkNames(e.Name, e.Purpose)
	}
	return fmt.Errorf("%w: envelope %d", ErrMalformed, e.Envelope)
}

// checkNames checks the name and the purpose of a secret.
func checkNames(name, purpose string) error {
	if !printable(name, maxNameBytes) {
		return fmt.Errorf("%w: the name of a secret has 1 to %d printable ASCII bytes", ErrMalformed, maxNameBytes)
	}
	if !printable(purpose, maxPurposeBytes) {
		return fmt.Errorf("%w: the purpose of a secret has 1 to %d printable ASCII bytes", ErrMalformed, maxPurposeBytes)
	}
	return nil
}

func printable(s string, most int) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// Encrypt encrypts plain. Of e it takes Envelope, KeyVersion (0: the current
// one), Name, Purpose and Generation; Salt, IV and Data are always new. plain has
// at most 1 MiB less 16 bytes. Nothing is stored: that is [Vault.Put].
func (v *Vault) Encrypt(e EncryptedData, plain Secret) (EncryptedData, error) {
	s := v.current()
	if s == nil || !s.enter() {
		return EncryptedData{}, ErrLocked
	}
	defer s.leave()
	if e.KeyVersion == 0 {
		v.mu.Lock()
		e.KeyVersion = v.contents.state.KeyVersion
		v.mu.Unlock()
	}
	return s.encrypt(e, plain)
}

// encrypt is Encrypt within the gate.
func (s *session) encrypt(e EncryptedData, plain Secret) (EncryptedData, error) {
	if err := e.validateHead(); err != nil {
		return EncryptedData{}, err
	}
	e.Salt, e.IV = make([]byte, saltBytes), make([]byte, ivBytes)
	_, _ = rand.Read(e.Salt) // never fails
	_, _ = rand.Read(e.IV)
	err := plain.Use(func(b []byte) error {
		if len(b) > maxDataBytes-tagBytes {
			return fmt.Errorf("%w: a secret of %d bytes, at most %d", ErrMalformed, len(b), maxDataBytes-tagBytes)
		}
		w, key, err := s.begin(secretKey(e.KeyVersion), formKey)
		if err != nil {
			return err
		}
		defer s.finish(w)
		e.Data = make([]byte, 0, len(b)+tagBytes)
		guarded(func() { err = e.seal(w, key, b) })
		return err
	})
	if err != nil {
		return EncryptedData{}, err
	}
	return e, nil
}

// Decrypt gives what was encrypted. What is not in form is [ErrMalformed], and
// whatever was not encrypted with these keys, name, purpose and generation is
// [ErrDecrypt]. The Secret ends with the next lock.
func (v *Vault) Decrypt(e EncryptedData) (Secret, error) {
	s := v.current()
	if s == nil || !s.enter() {
		return Secret{}, ErrLocked
	}
	defer s.leave()
	return s.decrypt(&e)
}

// decrypt is Decrypt within the gate.
func (s *session) decrypt(e *EncryptedData) (Secret, error) {
	if err := e.validate(); err != nil {
		return Secret{}, err
	}
	w, key, err := s.begin(secretKey(e.KeyVersion), formKey)
	if err != nil {
		return Secret{}, err
	}
	defer s.finish(w)
	b := s.reserve(len(e.Data) - tagBytes)
	guarded(func() { err = e.open(w, key, &b.data) })
	if err != nil {
		b.destroy()
		return Secret{}, err
	}
	return newBuffer(b), nil
}

// secretKey is the place of a key version, which is in range.
func secretKey(version uint32) place { return place{secretPath, version - firstKeyVersion} }

// seal appends to Data, which the caller made, so that it is nothing that guarded erases.
func (e *EncryptedData) seal(w *work, key, plain []byte) error {
	gcm, data, err := e.cipher(w, key)
	if err == nil {
		e.Data = gcm.Seal(e.Data, e.IV, plain, data)
	}
	return err
}

// open appends the plaintext to plain, which has room for it.
func (e *EncryptedData) open(w *work, key []byte, plain *[]byte) error {
	gcm, data, err := e.cipher(w, key)
	if err != nil {
		return err
	}
	got, err := gcm.Open(*plain, e.IV, e.Data, data)
	if err != nil {
		return ErrDecrypt
	}
	*plain = got
	return nil
}

// cipher gives the cipher and the additional data of a record, which is in w. key
// is that of its version.
func (e *EncryptedData) cipher(w *work, key []byte) (gcm cipher.AEAD, data []byte, err error) {
	if e.Envelope == envelopeBound {
		if key, err = hkdf.Key(sha256.New, key, e.Salt, envelopeLabel, len(key)); err != nil {
			return nil, nil, fmt.Errorf("vault: %w", err) // a policy of the program's crypto
		}
		defer clear(key)
		data = e.head(w.head[:0])
	}
	block, err := aes.NewCipher(key)
	if err == nil {
		gcm, err = cipher.NewGCM(block)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("vault: %w", err)
	}
	return gcm, data, nil
}

// head appends the additional data of envelope 2.
func (e *EncryptedData) head(b []byte) []byte {
	b = append(append(b, envelopeLabel...), 0)
	b = binary.BigEndian.AppendUint32(b, e.KeyVersion)
	b = binary.BigEndian.AppendUint64(b, e.Generation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Name))) // at most maxNameBytes
	b = append(b, e.Name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Purpose))) // at most maxPurposeBytes
	return append(b, e.Purpose...)
}
