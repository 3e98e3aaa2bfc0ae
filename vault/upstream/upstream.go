// Package upstream reads secrets that the Rust project of the same name
// encrypted. From the same phrase that project derives other keys than
// SLIP-0010 gives, with the scheme of Cardano's wallets (BIP32-Ed25519, version
// 2) on the seed's SLIP-0010 master. It is for one import, and writes nothing.
package upstream

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"github.com/alkdev/alknet/vault"
)

const (
	hardened = 1 << 31

	seedBytes = 64
	ivBytes   = 12
	tagBytes  = 16

	// maxDataBytes is the most that is decrypted.
	maxDataBytes = 1 << 20

	firstKeyVersion = 2
	lastKeyVersion  = 1<<31 + 1
)

// An extended key is kL, kR and the chain code, 32 bytes each.
type extended [96]byte

// Decrypt decrypts a record of envelope 0 with the BIP39 seed of the phrase it
// was encrypted with, as [vault.Vault.ExportSeed] gives it. A record that is not
// in form is [vault.ErrMalformed]; one of another seed, or of our own derivation,
// is [vault.ErrDecrypt].
func Decrypt(seed vault.Secret, e vault.EncryptedData) (vault.Secret, error) {
	if e.Envelope != 0 || e.KeyVersion < firstKeyVersion || e.KeyVersion > lastKeyVersion {
		return vault.Secret{}, fmt.Errorf("%w: upstream: envelope %d, key version %d", vault.ErrMalformed, e.Envelope, e.KeyVersion)
	}
	if len(e.IV) != ivBytes || len(e.Data) < tagBytes || len(e.Data) > maxDataBytes {
		return vault.Secret{}, fmt.Errorf("%w: upstream: iv or data", vault.ErrMalformed)
	}
	var plain []byte
	err := seed.Use(func(b []byte) error {
		if len(b) != seedBytes {
			return fmt.Errorf("%w: upstream: a seed of %d bytes, not %d", vault.ErrMalformed, len(b), seedBytes)
		}
		k := master(b)
		defer clear(k[:])
		for _, n := range []uint32{74, 2, 0, e.KeyVersion - firstKeyVersion} {
			k.child(n + hardened)
		}
		block, err := aes.NewCipher(k[:32])
		if err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
		if plain, err = gcm.Open(nil, e.IV, e.Data, nil); err != nil {
			return vault.ErrDecrypt
		}
		return nil
	})
	if err != nil {
		return vault.Secret{}, err
	}
	return vault.NewSecret(plain), nil
}

// master is the root: the SLIP-0010 master key, hashed and clamped as an Ed25519
// key is, with the third highest bit cleared too.
func master(seed []byte) *extended {
	mac := hmac.New(sha512.New, []byte("ed25519 seed"))
	mac.Write(seed)
	node := mac.Sum(nil)
	defer clear(node)
	wide := sha512.Sum512(node[:32])
	defer clear(wide[:])
	k := new(extended)
	copy(k[:], wide[:])
	copy(k[64:], node[32:])
	k[0] &= 0b1111_1000
	k[31] = k[31]&0b0001_1111 | 0b0100_0000
	return k
}

// child makes k its hardened child of a number of at least 2^31: kL + 8·Z[:28],
// kR + Z[32:], both modulo 2^256, little-endian.
func (k *extended) child(n uint32) {
	var number [4]byte
	binary.LittleEndian.PutUint32(number[:], n)
	sum := func(tag byte) []byte {
		mac := hmac.New(sha512.New, k[64:])
		mac.Write([]byte{tag})
		mac.Write(k[:64])
		mac.Write(number[:])
		return mac.Sum(nil)
	}
	z, chain := sum(0), sum(1)
	defer clear(z)
	defer clear(chain)
	carry := uint(0)
	for i := range 32 {
		if i < 28 {
			carry += uint(z[i]) << 3
		}
		carry += uint(k[i])
		k[i] = byte(carry & 0xff)
		carry >>= 8
	}
	carry = 0
	for i := range 32 {
		carry += uint(k[32+i]) + uint(z[32+i])
		k[32+i] = byte(carry & 0xff)
		carry >>= 8
	}
	copy(k[64:], chain[32:])
}
