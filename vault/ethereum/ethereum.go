// Package ethereum gives the Ethereum accounts of a vault: BIP-32 on secp256k1
// at m/44'/60'/0'/0/i (BIP-44), as wallets derive them from the same phrase.
//
//	account, err := ethereum.Key(v, 0)
//	signature, err := account.Sign(nil, digest, nil) // 65 bytes: R, S, V
//	fmt.Println(account.Address())
package ethereum

import (
	"crypto"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"golang.org/x/crypto/sha3"

	"github.com/alkdev/alknet/vault"
)

const hardened = 1 << 31

// accountPath is m/44'/60'/0'/0; the account's number follows.
var accountPath = [...]uint32{44 + hardened, 60 + hardened, hardened, 0}

// digestBytes is the length of what is signed.
const digestBytes = 32

// errDerive is a number whose key does not exist (BIP-32), one in 2^127.
var errDerive = errors.New("ethereum: no key of this number: take the next one")

// An Account signs with the key of a number. It holds no key: each signature
// derives it from the vault's seed, and fails with [vault.ErrLocked] after a lock.
type Account struct {
	seed   vault.Secret
	number uint32
	public *secp256k1.PublicKey
}

var _ crypto.Signer = (*Account)(nil)

// Key gives the account of a number below 2^31.
func Key(v *vault.Vault, i uint32) (*Account, error) {
	if i >= hardened {
		return nil, fmt.Errorf("%w: account number %d is not below 2^31", vault.ErrMalformed, i)
	}
	seed, err := v.ExportSeed()
	if err != nil {
		return nil, err
	}
	a := &Account{seed: seed, number: i}
	err = a.with(func(key *secp256k1.PrivateKey) error {
		a.public = key.PubKey()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// with calls use with the private key, which is wiped after it.
func (a *Account) with(use func(key *secp256k1.PrivateKey) error) error {
	return a.seed.Use(func(seed []byte) error {
		key, err := derive(seed, append(accountPath[:], a.number))
		if err != nil {
			return err
		}
		defer key.Zero()
		return use(key)
	})
}

// Public returns an *ecdsa.PublicKey. It works after a lock too.
func (a *Account) Public() crypto.PublicKey { return a.public.ToECDSA() }

// Sign signs a digest of 32 bytes, deterministically (RFC 6979) and with the
// lower S (EIP-2). The signature has 65 bytes: R, S, and V, which is 0 or 1.
// rand and opts are not used.
func (a *Account) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	if len(digest) != digestBytes {
		return nil, fmt.Errorf("%w: ethereum: a digest of %d bytes, not %d", vault.ErrMalformed, len(digest), digestBytes)
	}
	var signature []byte
	err := a.with(func(key *secp256k1.PrivateKey) error {
		const first = 27 // of the library's first byte, which is V
		compact := ecdsa.SignCompact(key, digest, false)
		signature = append(compact[1:], compact[0]-first)
		return nil
	})
	return signature, err
}

// Address is the account's address with the capitals of EIP-55.
func (a *Account) Address() string {
	sum := keccak(a.public.SerializeUncompressed()[1:])
	text := []byte(hex.EncodeToString(sum[12:]))
	check := hex.EncodeToString(keccak(text))
	for i, c := range text {
		if c >= 'a' && check[i] >= '8' {
			text[i] = c - 'a' + 'A'
		}
	}
	return "0x" + string(text)
}

// keccak is the hash of Ethereum, which is older than SHA-3.
func keccak(data []byte) []byte {
	h := sha3.NewLegacyKeccak256()
	h.Write(data)
	return h.Sum(nil)
}

// derive gives the private key at a path (BIP-32, "Private parent key → private
// child key").
func derive(seed []byte, path []uint32) (*secp256k1.PrivateKey, error) {
	var node [64]byte // key, chain code
	defer clear(node[:])
	sum := func(key []byte, parts ...[]byte) {
		mac := hmac.New(sha512.New, key)
		for _, p := range parts {
			mac.Write(p)
		}
		mac.Sum(node[:0])
	}
	sum([]byte("Bitcoin seed"), seed)
	var key secp256k1.ModNScalar
	if overflow := key.SetByteSlice(node[:32]); overflow || key.IsZero() {
		return nil, errDerive
	}
	for _, n := range path {
		var number [4]byte
		binary.BigEndian.PutUint32(number[:], n)
		parent := secp256k1.NewPrivateKey(&key)
		if n >= hardened {
			plain := parent.Serialize()
			sum(node[32:], []byte{0}, plain, number[:])
			clear(plain)
		} else {
			sum(node[32:], parent.PubKey().SerializeCompressed(), number[:])
		}
		parent.Zero()
		var step secp256k1.ModNScalar
		overflow := step.SetByteSlice(node[:32])
		if key.Add(&step); overflow || key.IsZero() {
			return nil, errDerive
		}
		step.Zero()
	}
	made := secp256k1.NewPrivateKey(&key)
	key.Zero()
	return made, nil
}
