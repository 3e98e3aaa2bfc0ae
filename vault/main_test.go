package vault

import (
	"crypto"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet/internal/apigolden"
)

// about is the phrase of all published values.
const about = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

// legal is the phrase of another node.
const legal = "legal winner thank year wave sausage worth useful legal winner thank yellow"

// canary is what tests store: no output may show it.
const canary = "CANARY-5vEsM9bXwQz7-do-not-print"

func TestMain(m *testing.M) {
	if job := os.Getenv(helperJob); job != "" {
		os.Exit(helper(job, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

func TestAPI(t *testing.T) { apigolden.Check(t) }

// alone skips what other processes do under the race detector, which sees only
// this one, where time is short.
func alone(t testing.TB) {
	t.Helper()
	if raceDetector && testing.Short() {
		t.Skip("the race detector sees nothing of it")
	}
}

// phrase is a phrase that is right.
func phrase(t testing.TB, words string) Phrase {
	t.Helper()
	p, err := ParsePhrase(words)
	require.NoError(t, err)
	return p
}

// secret is a Secret of a text.
func secret(s string) Secret { return NewSecret([]byte(s)) }

// reveal is the text of a Secret.
func reveal(t testing.TB, s Secret) string {
	t.Helper()
	var text string
	require.NoError(t, s.Use(func(b []byte) error {
		text = string(b)
		return nil
	}))
	return text
}

// revealHex is the hex of a Secret.
func revealHex(t testing.TB, s Secret) string { return hex.EncodeToString([]byte(reveal(t, s))) }

// inMemoryVault is a vault of the phrase about.
func inMemoryVault(t testing.TB, o *Options) *Vault {
	t.Helper()
	v, err := New(phrase(t, about), Secret{}, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

// folderVault is an unlocked vault of the phrase about in a new folder.
func folderVault(t testing.TB, o *Options) (v *Vault, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "vault")
	v, err := Create(dir, phrase(t, about), Secret{}, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v, dir
}

// reopen opens a folder and unlocks it with the phrase about.
func reopen(t testing.TB, dir string, o *Options) *Vault {
	t.Helper()
	v, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
	return v
}

// random is a source whose seed the test prints.
func random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("random seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// randomBytes are n bytes of r.
func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// quickScrypt is the least work that a slot may have.
func quickScrypt() *Options { return &Options{ScryptLog: minScryptLog} }

// sealQuick makes a slot with a passphrase.
func sealQuick(t testing.TB, v *Vault, name, passphrase string) {
	t.Helper()
	require.NoError(t, v.Seal(name, PassphraseRecipient(secret(passphrase), quickScrypt())))
}

// public is a signer's public key in hex.
func public(k crypto.Signer) string { return fmt.Sprintf("%x", k.Public()) }

// hexOf is public of what a method returned.
func hexOf(k crypto.Signer, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return public(k), nil
}

// must is for what cannot fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// age25519 is a fresh classic age key.
func age25519() (*age.X25519Identity, error) { return age.GenerateX25519Identity() }
