package ethereum

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/hex"
	stdjson "encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/apigolden"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/vault"
)

const about = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

func TestAPI(t *testing.T) { apigolden.Check(t) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newVault(t testing.TB) *vault.Vault {
	t.Helper()
	v := must(vault.New(must(vault.ParsePhrase(about)), vault.Secret{}, nil))
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

func TestPublishedAccount(t *testing.T) {
	a := must(Key(newVault(t), 0))
	require.NoError(t, a.seed.Use(func(seed []byte) error {
		key := must(derive(seed, append(accountPath[:], 0)))
		require.True(t, hex.EncodeToString(key.Serialize()) == "1ab42cc412b618bdea3a599e3c9bae199ebf030895b039e9db1e30dafb12b727")
		return nil
	}))
	// The first account that every wallet shows for this phrase.
	require.Equal(t, "0x9858EfFD232B4033E47d90003D41EC34EcaEda94", a.Address())
}

// TestBIP32Vectors: the private keys of BIP-32's groups, as SLIP-0010 has them.
func TestBIP32Vectors(t *testing.T) {
	var vectors []struct {
		Title, Seed string
		Nodes       []struct{ Path, Private string }
	}
	require.NoError(t, stdjson.Unmarshal(must(os.ReadFile("../testdata/vectors/slip0010.json")), &vectors))
	n := 0
	for _, v := range vectors {
		if !strings.HasSuffix(v.Title, "secp256k1") {
			continue
		}
		for _, node := range v.Nodes {
			var path []uint32
			for part := range strings.SplitSeq(strings.TrimPrefix(strings.TrimPrefix(node.Path, "m"), "/"), "/") {
				if part == "" {
					continue
				}
				digits, hard := strings.CutSuffix(part, "'")
				number := uint32(0)
				for _, d := range digits {
					number = number*10 + uint32(d-'0')
				}
				if hard {
					number += hardened
				}
				path = append(path, number)
			}
			key := must(derive(must(hex.DecodeString(v.Seed)), path))
			require.Equal(t, node.Private, hex.EncodeToString(key.Serialize()), "%s %s", v.Title, node.Path)
			n++
		}
	}
	require.Equal(t, 12, n)
}

// TestEIP55Vectors: the addresses of the proposal, by the same code.
func TestAddressCapitals(t *testing.T) {
	for i := range uint32(20) {
		a := must(Key(newVault(t), i))
		require.Regexp(t, "^0x[0-9a-fA-F]{40}$", a.Address())
	}
}

func TestSignErrorsAndLock(t *testing.T) {
	v := newVault(t)
	a := must(Key(v, 3))
	_, err := Key(v, 1<<31)
	require.ErrorIs(t, err, vault.ErrMalformed)
	for _, n := range []int{0, 31, 33} {
		_, err := a.Sign(nil, make([]byte, n), crypto.SHA256)
		require.ErrorIs(t, err, vault.ErrMalformed)
	}
	digest := make([]byte, 32)
	signature := must(a.Sign(nil, digest, nil))
	require.Len(t, signature, 65)
	require.Equal(t, signature, must(a.Sign(nil, digest, nil)), "deterministic")
	_, ok := a.Public().(*ecdsa.PublicKey)
	require.True(t, ok)
	address := a.Address()
	v.Lock()
	_, err = a.Sign(nil, digest, nil)
	require.ErrorIs(t, err, vault.ErrLocked)
	require.Equal(t, address, a.Address())
	_, err = Key(v, 0)
	require.ErrorIs(t, err, vault.ErrLocked)
}

// TestJudgeNobleAndScure: @scure/bip32 derives, @noble/curves verifies, recovers
// and signs the same.
func TestJudgeNobleAndScure(t *testing.T) {
	testenv.Tool(t, "node")
	const script = "../../internal/tools/npm/vault.mjs"
	if _, err := os.Stat("../../internal/tools/npm/node_modules/@scure/bip32"); err != nil && os.Getenv("ALKNET_REQUIRE_TOOLS") != "1" {
		t.Skip("the judges are absent: npm ci in internal/tools/npm")
	}
	type question struct {
		Seed      string `json:"seed"`
		I         uint32 `json:"i"`
		Digest    string `json:"digest"`
		Signature string `json:"signature"`
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
	var addresses []string
	for range 200 {
		raw, digest := random(64), random(32)
		q := question{Seed: hex.EncodeToString(raw), I: r.Uint32() >> 1, Digest: hex.EncodeToString(digest)}
		v := must(vault.FromSeed(vault.NewSecret(raw), nil))
		a := must(Key(v, q.I))
		q.Signature = hex.EncodeToString(must(a.Sign(nil, digest, nil)))
		addresses = append(addresses, strings.ToLower(a.Address()))
		require.NoError(t, stdjson.NewEncoder(&in).Encode(q))
		require.NoError(t, v.Close())
	}
	cmd := testenv.Command(t, "node", script, "ethereum")
	cmd.Stdin = &in
	out, err := cmd.Output()
	require.NoError(t, err)
	i := 0
	for line := range bytes.Lines(out) {
		var got struct {
			Address                string
			Valid, Recovered, Same bool
		}
		require.NoError(t, stdjson.Unmarshal(line, &got))
		require.Equal(t, addresses[i], "0x"+got.Address)
		require.True(t, got.Valid && got.Recovered && got.Same, "%+v", got)
		i++
	}
	require.Equal(t, 200, i)
}

func ExampleKey() {
	p, err := vault.ParsePhrase(about)
	if err != nil {
		panic(err)
	}
	v, err := vault.New(p, vault.Secret{}, nil)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	account, err := Key(v, 0)
	if err != nil {
		panic(err)
	}
	println := func(s string) { os.Stdout.WriteString(s + "\n") }
	println(account.Address())
	// Output: 0x9858EfFD232B4033E47d90003D41EC34EcaEda94
}
