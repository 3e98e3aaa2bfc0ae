// Package vault_test measures the vault beside the primitives that it is made of.
//
//	go test -bench . ./vault
//
// Each benchmark takes turns between the vault and the bare primitive and
// reports the ratio of their medians, so that a machine that slows down or
// speeds up favours neither.
package vault_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/alkdev/alknet/vault"
)

const phrase = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

// sizes are those of an API token and of a small file.
var sizes = []int{40, 4096}

func must[T any](got T, err error) T {
	if err != nil {
		panic(err)
	}
	return got
}

func newVault() *vault.Vault {
	return must(vault.New(must(vault.ParsePhrase(phrase)), vault.Secret{}, nil))
}

// beside runs ours and bare in turns of a few hundred microseconds.
func beside(b *testing.B, ours, bare func()) { besideFor(b, 50, ours, bare) }

// besideFor is beside in turns of so many calls.
func besideFor(b *testing.B, turn int, ours, bare func()) {
	b.Helper()
	ours() // what is cached is cached
	bare()
	var mine, theirs []time.Duration
	measure := func(f func()) time.Duration {
		begin := time.Now()
		for range turn {
			f()
		}
		return time.Since(begin) / time.Duration(turn)
	}
	for b.Loop() {
		mine, theirs = append(mine, measure(ours)), append(theirs, measure(bare))
	}
	slices.Sort(mine)
	slices.Sort(theirs)
	m, t := mine[len(mine)/2], theirs[len(theirs)/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(m.Nanoseconds()), "vault-ns")
	b.ReportMetric(float64(t.Nanoseconds()), "bare-ns")
	b.ReportMetric(float64(m)/float64(t), "ratio")
}

// The bare primitives of envelope 2: the record's key from the version's, its
// cipher, and for seal fresh salt and iv, for open memory for the plaintext, as the
// vault makes them. The additional data is the same, but made beforehand; nothing
// is checked, counted, copied out of a locked page, revoked or wiped.
func bareCipher(key, salt []byte) cipher.AEAD {
	k := must(hkdf.Key(sha256.New, key, salt, "alknet/vault/envelope/2", 32))
	return must(cipher.NewGCM(must(aes.NewCipher(k))))
}

// head is the additional data of version 2, generation 1, "github", "http-token".
var head = []byte("alknet/vault/envelope/2\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x06github\x00\x0ahttp-token")

func BenchmarkSeal(b *testing.B) {
	v := newVault()
	defer v.Close()
	key := make([]byte, 32)
	for _, size := range sizes {
		plain := make([]byte, size)
		secret := vault.NewSecret(make([]byte, size))
		e := vault.EncryptedData{Envelope: 2, Name: "github", Purpose: "http-token", Generation: 1}
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			beside(b, func() { must(v.Encrypt(e, secret)) }, func() {
				salt, iv := make([]byte, 32), make([]byte, 12)
				rand.Read(salt)
				rand.Read(iv)
				bareCipher(key, salt).Seal(nil, iv, plain, head)
			})
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	v := newVault()
	defer v.Close()
	key, salt, iv := make([]byte, 32), make([]byte, 32), make([]byte, 12)
	for _, size := range sizes {
		sealed := bareCipher(key, salt).Seal(nil, iv, make([]byte, size), head)
		e := vault.EncryptedData{Envelope: 2, Name: "github", Purpose: "http-token", Generation: 1}
		e = must(v.Encrypt(e, vault.NewSecret(make([]byte, size))))
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			beside(b, func() { s := must(v.Decrypt(e)); s.Destroy() }, func() { must(bareCipher(key, salt).Open(nil, iv, sealed, head)) })
		})
	}
}

// BenchmarkSign is beside a key that the standard library keeps expanded.
func BenchmarkSign(b *testing.B) {
	v := newVault()
	defer v.Close()
	k := must(v.Identity(0))
	_, bare, _ := ed25519.GenerateKey(nil)
	message := make([]byte, 130) // TLS's CertificateVerify
	beside(b, func() { must(k.Sign(nil, message, crypto.Hash(0))) }, func() { ed25519.Sign(bare, message) })
}

func BenchmarkUnlockPhrase(b *testing.B) {
	v := newVault()
	defer v.Close()
	p := must(vault.ParsePhrase(phrase))
	ours := func() {
		v.Lock()
		if err := v.UnlockPhrase(p, vault.Secret{}); err != nil {
			b.Fatal(err)
		}
	}
	beside(b, ours, func() { must(pbkdf2.Key(sha512.New, phrase, []byte("mnemonic"), 2048, 64)) })
}

// BenchmarkUnlockSlot is beside age opening the same file with the same passphrase.
func BenchmarkUnlockSlot(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "v")
	v := must(vault.Create(dir, must(vault.ParsePhrase(phrase)), vault.Secret{}, nil))
	defer v.Close()
	passphrase := vault.NewSecret([]byte("correct horse"))
	if err := v.Seal("prompt", vault.PassphraseRecipient(passphrase, &vault.Options{ScryptLog: 15})); err != nil {
		b.Fatal(err)
	}
	file := must(os.ReadFile(filepath.Join(dir, "slots", "prompt.age")))
	ours := func() {
		v.Lock()
		if err := v.Unlock(b.Context(), vault.Passphrase(passphrase)); err != nil {
			b.Fatal(err)
		}
	}
	besideFor(b, 1, ours, func() {
		must(io.ReadAll(must(age.Decrypt(bytes.NewReader(file), must(age.NewScryptIdentity("correct horse"))))))
	})
}

// BenchmarkHandshake is TLS 1.3 in memory, the server's key from a vault, beside
// one with a bare key.
func BenchmarkHandshake(b *testing.B) {
	v := newVault()
	defer v.Close()
	_, bare, _ := ed25519.GenerateKey(nil)
	besideFor(b, 5, handshake(must(v.Identity(0))), handshake(bare))
}

func handshake(key crypto.Signer) func() {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"node"}, NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(der)))
	serverConfig := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
	}
	clientConfig := &tls.Config{RootCAs: pool, ServerName: "node", MinVersion: tls.VersionTLS13}
	return func() {
		a, b := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(a, serverConfig).Handshake() }()
		err := tls.Client(b, clientConfig).Handshake()
		must(0, errors.Join(err, <-done, a.Close(), b.Close()))
	}
}

// BenchmarkGet is beside Decrypt of the same record.
func BenchmarkGet(b *testing.B) {
	v := newVault()
	defer v.Close()
	for i := range 1000 {
		if err := v.Put(fmt.Sprint("secret", i), "p", vault.NewSecret(make([]byte, 40))); err != nil {
			b.Fatal(err)
		}
	}
	e := must(v.Encrypt(vault.EncryptedData{Envelope: 2, Name: "n", Purpose: "p"}, vault.NewSecret(make([]byte, 40))))
	beside(b, func() { s := must(v.Get("secret500", "p")); s.Destroy() }, func() { s := must(v.Decrypt(e)); s.Destroy() })
}

// folder makes a vault of n secrets in a folder, by way of one in memory: each
// Put to a folder waits for the disk.
func folder(b *testing.B, p vault.Phrase, n int) *vault.Vault {
	v := must(vault.New(p, vault.Secret{}, nil))
	defer v.Close()
	for i := range n {
		if err := v.Put(fmt.Sprint("secret", i), "p", vault.NewSecret(make([]byte, 40))); err != nil {
			b.Fatal(err)
		}
	}
	dir := filepath.Join(b.TempDir(), "v")
	if err := v.Save(dir, must(age.GenerateX25519Identity()).Recipient()); err != nil {
		b.Fatal(err)
	}
	return must(vault.Open(dir, nil))
}

// BenchmarkUnlockFolder is what 1,000 secrets cost at unlock.
func BenchmarkUnlockFolder(b *testing.B) {
	p := must(vault.ParsePhrase(phrase))
	full, empty := folder(b, p, 1000), folder(b, p, 0)
	defer full.Close()
	defer empty.Close()
	unlock := func(v *vault.Vault) func() {
		return func() {
			v.Lock()
			if err := v.UnlockPhrase(p, vault.Secret{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	beside(b, unlock(full), unlock(empty))
}

func BenchmarkRotate1000(b *testing.B) {
	p := must(vault.ParsePhrase(phrase))
	v := folder(b, p, 1000)
	defer v.Close()
	if err := v.UnlockPhrase(p, vault.Secret{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		must(v.Rotate())
	}
}
