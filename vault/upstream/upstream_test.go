package upstream

import (
	"bytes"
	"encoding/hex"
	stdjson "encoding/json"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/apigolden"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/vault"
)

func TestAPI(t *testing.T) { apigolden.Check(t) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestChildPublishedConstants: D1 and its child of number 0', which all
// implementations of BIP32-Ed25519 version 2 test themselves with.
func TestChildPublishedConstants(t *testing.T) {
	const d1 = "f8a29231ee38d6c5bf715d5bac21c750577aa3798b22d79d65bf97d6fadea15adcd1ee1abdf78bd4be64731a12deb94d3671784112eb6f364b871851fd1c9a24" +
		"7384db9ad6003bbd08b3b1ddc0d07a597293ff85e961bf252b331262eddfad0d"
	const d1h0 = "60d399da83ef80d8d4f8d223239efdc2b8fef387e1b5219137ffb4e8fbdea15adc9366b7d003af37c11396de9a83734e30e05e851efa32745c9cd7b42712c890" +
		"608763770eddf77248ab652984b21b849760d1da74a6f5bd633ce41adceef07a"
	var k extended
	copy(k[:], must(hex.DecodeString(d1)))
	k.child(hardened)
	require.Equal(t, d1h0, hex.EncodeToString(k[:]))
}

func TestMasterIsClamped(t *testing.T) {
	for i := range 100 {
		k := master(bytes.Repeat([]byte{byte(i)}, seedBytes))
		require.Zero(t, k[0]&7)
		require.Equal(t, byte(0b010), k[31]>>5)
	}
}

type question struct {
	Seed    string `json:"seed"`
	Version uint32 `json:"version"`
	Plain   string `json:"plain"`
	IV      string `json:"iv"`
}

// TestJudgeBigIntegers: records made by other code, with big integers instead of
// carries.
func TestJudgeBigIntegers(t *testing.T) {
	testenv.Tool(t, "node")
	if _, err := os.Stat("../../internal/tools/npm/node_modules/@noble/ciphers"); err != nil && os.Getenv("ALKNET_REQUIRE_TOOLS") != "1" {
		t.Skip("the judges are absent: npm ci in internal/tools/npm")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("random seed %d", seed)
	r := rand.New(rand.NewPCG(seed, seed))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	var in bytes.Buffer
	var questions []question
	for range 200 {
		q := question{hex.EncodeToString(random(64)), 2 + r.Uint32()>>1, hex.EncodeToString(random(r.IntN(100))), hex.EncodeToString(random(12))}
		questions = append(questions, q)
		require.NoError(t, stdjson.NewEncoder(&in).Encode(q))
	}
	cmd := testenv.Command(t, "node", "../../internal/tools/npm/vault.mjs", "upstream")
	cmd.Stdin = &in
	out, err := cmd.Output()
	require.NoError(t, err)
	i := 0
	for line := range bytes.Lines(out) {
		var e vault.EncryptedData
		require.NoError(t, e.UnmarshalJSON(bytes.TrimSpace(line)))
		key := vault.NewSecret(must(hex.DecodeString(questions[i].Seed)))
		s, err := Decrypt(key, e)
		require.NoError(t, err)
		require.NoError(t, s.Use(func(b []byte) error {
			require.Equal(t, questions[i].Plain, hex.EncodeToString(b))
			return nil
		}))
		e.Data[0] ^= 1
		_, err = Decrypt(key, e)
		require.ErrorIs(t, err, vault.ErrDecrypt)
		i++
	}
	require.Equal(t, 200, i)
}

func TestDecryptErrors(t *testing.T) {
	seed := func() vault.Secret { return vault.NewSecret(make([]byte, 64)) }
	good := vault.EncryptedData{KeyVersion: 2, IV: make([]byte, 12), Data: make([]byte, 16)}
	_, err := Decrypt(seed(), good)
	require.ErrorIs(t, err, vault.ErrDecrypt)
	for name, spoil := range map[string]func(e *vault.EncryptedData){
		"envelope": func(e *vault.EncryptedData) { e.Envelope = 2 }, "version 1": func(e *vault.EncryptedData) { e.KeyVersion = 1 },
		"version": func(e *vault.EncryptedData) { e.KeyVersion = 1<<31 + 2 }, "iv": func(e *vault.EncryptedData) { e.IV = nil },
		"data": func(e *vault.EncryptedData) { e.Data = nil }, "more": func(e *vault.EncryptedData) { e.Data = make([]byte, maxDataBytes+1) },
	} {
		e := good
		spoil(&e)
		_, err := Decrypt(seed(), e)
		require.ErrorIs(t, err, vault.ErrMalformed, name)
	}
	_, err = Decrypt(vault.NewSecret(make([]byte, 32)), good)
	require.ErrorIs(t, err, vault.ErrMalformed)
	s := seed()
	s.Destroy()
	_, err = Decrypt(s, good)
	require.ErrorIs(t, err, vault.ErrLocked)

	// What our own derivation encrypted is not theirs.
	v := must(vault.FromSeed(seed(), nil))
	defer v.Close()
	e := must(v.Encrypt(vault.EncryptedData{}, vault.NewSecret([]byte("x"))))
	_, err = Decrypt(seed(), e)
	require.ErrorIs(t, err, vault.ErrDecrypt)
}
