package vault

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// nodeHex is key and chain code at a path of a seed.
func nodeHex(t testing.TB, seed []byte, path string) (key, chain string) {
	t.Helper()
	numbers, err := parsePath(path)
	require.NoError(t, err)
	var node [64]byte
	derive(seed, numbers, &node)
	return hex.EncodeToString(node[:32]), hex.EncodeToString(node[32:])
}

// aboutSeed is the seed of the phrase about.
func aboutSeed(t testing.TB, passphrase string) []byte {
	t.Helper()
	seed, err := hex.DecodeString(seedHex(t, phrase(t, about), passphrase))
	require.NoError(t, err)
	return seed
}

func TestDeriveSLIP0010Vectors(t *testing.T) {
	type node struct {
		Path, Private, Public string
		Chain                 string `json:"chain_code"`
	}
	n := 0
	for _, v := range readVectors[[]struct {
		Title, Seed string
		Nodes       []node
	}](t, "slip0010") {
		if !strings.HasSuffix(v.Title, "ed25519") || strings.Contains(v.Title, "curve25519") {
			continue
		}
		seed, err := hex.DecodeString(v.Seed)
		require.NoError(t, err)
		for _, want := range v.Nodes {
			key, chain := nodeHex(t, seed, want.Path)
			require.Equal(t, want.Private, key, "%s %s", v.Title, want.Path)
			require.Equal(t, want.Chain, chain)
			priv, err := hex.DecodeString(key)
			require.NoError(t, err)
			public := ed25519.NewKeyFromSeed(priv).Public().(ed25519.PublicKey)
			require.Equal(t, want.Public, "00"+hex.EncodeToString(public))
			n++
		}
	}
	require.Equal(t, 12, n)
}

func TestDerivePublishedKeys(t *testing.T) {
	seed := aboutSeed(t, "")
	for path, want := range map[string]string{
		"m/74'/0'/0'/0'": "603aa5c626317fda4afd87b902e5c9de76c33f40834005245e1c5a675e92d700",
		"m/74'/1'/0'/0'": "53bca84df2d1b041ce2d84fa2c434a13953cece1445169603c4c6ea4dd36c80b",
		"m/74'/2'/0'/0'": "fbed5fa9110df4214baa259a4cd6bd3902373231472d317b8f3686b1d63df17a",
		"m/74'/2'/0'/1'": "3ddaf7a4485d755c959c883347420fdc9fa2a64fb1edae8a5f312e82c210f0f0",
	} {
		key, _ := nodeHex(t, seed, path)
		require.Equal(t, want, key, path)
	}
	key, chain := nodeHex(t, seed, "m/74h/3h/0h")
	require.Equal(t, "eb251e54b2d9475deb6fc012cea42e71cda94e8913b461d2ead90c552c44856b", key)
	require.Equal(t, "ad6cbee61d79dc2461296bc079b49dc274506e8d771a36728fe8532437f6d85f", chain)
	key, _ = nodeHex(t, aboutSeed(t, "TREZOR"), "m/74'/0'/0'/0'")
	require.Equal(t, "ea060192febfe86e881bb4bbcb85512611ea9e74338c5ec6b3e2bc1d54e17b5a", key)
}

// TestPhraseAloneIsTheNode: an empty machine and the words give the published
// keys of every kind.
func TestPhraseAloneIsTheNode(t *testing.T) {
	v := inMemoryVault(t, nil)
	for _, tt := range []struct {
		want string
		get  func() (string, error)
	}{
		{"e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc", func() (string, error) { return hexOf(v.Identity(0)) }},
		{"733961f7573657324f22e91f06ea4f0b359e2efa0ccffc954616dadee7444daa", func() (string, error) { return hexOf(v.Identity(1)) }},
		{"6a9dd5c41915fba6cc22b8760263aba45b068cae7bead1d069c7b8eeb0118134", func() (string, error) { return hexOf(v.SSHHostKey(0)) }},
		{"52e34b40ff9cf7a2bcaafb22792f387c1693a96adddf589e9798bea3dbc06581", func() (string, error) { return hexOf(v.SSHUserKey(0)) }},
		{"AGE-SECRET-KEY-PQ-1QM3TXKUEWFPNWW92CQQEZ7XJVSUJCL0GVF8NXYMZWUCQ5HTN8CSS3PH6JR", func() (string, error) {
			id, err := v.AgeIdentity(0)
			return id.String(), err
		}},
		{"135dfd68cf70d5a3add3435c9319f8a9c7a71a76ed8eb3e8269a343c59a4025d", func() (string, error) {
			k, err := v.PurposeKey("msg/store", 1)
			return revealHex(t, k), err
		}},
		{"J4s3h36zqf5FDQ9jkKT%", func() (string, error) {
			p, err := v.SitePassword("example.com", "alice", 1, PasswordPolicy{})
			return reveal(t, p), err
		}},
		{"#g9M!m634=jfVyB_tZBN", func() (string, error) {
			p, err := v.SitePassword("example.com", "alice", 2, PasswordPolicy{})
			return reveal(t, p), err
		}},
	} {
		got, err := tt.get()
		require.NoError(t, err)
		require.True(t, tt.want == got, "a published value differs") // require.Equal would print it
	}
	require.Equal(t, "ed25519:e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc", v.Status().Check)
}

func TestPathRefusesWhatIsNotHardened(t *testing.T) {
	for _, s := range []string{
		"", "/", "m/", "m//", "M", "m/0", "m/0/0'", "m/0'/", "m/1''", "m/1'h", "mx/1'", "m/-1'", "m/+1'", "m/ 1'", "m/01'", "m/00'", "m/1_0'",
		"m/2147483648'", "m/4294967296'", "m/18446744073709551616'", "m/0x1'", "m/'", "m/h", "m/1'2'", "n/1'", "m/1' ", " m/1'", "m/１'", "m/1H",
		"m" + strings.Repeat("/0'", maxLevels+1),
	} {
		_, err := parsePath(s)
		require.ErrorIs(t, err, ErrMalformed, "%q", s)
	}
	for s, want := range map[string][]uint32{
		"m": nil, "m/0'": {0}, "m/2147483647h": {1<<31 - 1}, "m/74'/0h/10'": {74, 0, 10},
	} {
		got, err := parsePath(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got)
	}
	v := inMemoryVault(t, nil)
	for _, i := range []uint32{1 << 31, 1<<32 - 1} {
		for _, get := range []func(uint32) (string, error){
			func(i uint32) (string, error) { return hexOf(v.Identity(i)) },
			func(i uint32) (string, error) { return hexOf(v.SSHHostKey(i)) },
			func(i uint32) (string, error) { return hexOf(v.SSHUserKey(i)) },
			func(i uint32) (string, error) { _, err := v.AgeIdentity(i); return "", err },
			func(i uint32) (string, error) { _, err := v.Child(i, nil); return "", err },
		} {
			_, err := get(i)
			require.ErrorIs(t, err, ErrMalformed, "a number is never wrapped")
		}
	}
}

// TestSignerPublicKeyIsThatOfItsPrivateKey on 1,000 random seeds: what one signs
// the other verifies, and no key is a piece of the seed.
func TestSignerPublicKeyIsThatOfItsPrivateKey(t *testing.T) {
	r := random(t)
	for range 1000 {
		raw := randomBytes(r, seedBytes)
		seed := bytes.Clone(raw)
		v, err := FromSeed(NewSecret(raw), nil)
		require.NoError(t, err)
		i := r.Uint32() >> 1
		k, err := v.Identity(i)
		require.NoError(t, err)
		message := randomBytes(r, 40)
		sig, err := k.Sign(nil, message, nil)
		require.NoError(t, err)
		require.True(t, ed25519.Verify(k.Public().(ed25519.PublicKey), message, sig))
		key, chain := nodeHex(t, seed, place{identityPath, i}.String())
		require.Equal(t, hex.EncodeToString(ed25519.NewKeyFromSeed(must(hex.DecodeString(key))).Public().(ed25519.PublicKey)), public(k))
		text := hex.EncodeToString(seed)
		require.NotContains(t, text, key)
		require.NotContains(t, text, chain)
		require.NoError(t, v.Close())
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"m", "m/74'/0'/0'/0'", "m/0h/1'", "m/2147483647'", "m//", "m/1''", "mx/1'", "m/4294967296'", "m/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		numbers, err := parsePath(s)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.LessOrEqual(t, len(numbers), maxLevels)
		again := "m"
		for _, n := range numbers {
			require.Less(t, n, uint32(hardened))
			again += fmt.Sprint("/", n, "'")
		}
		require.Equal(t, strings.ReplaceAll(s, "h", "'"), again)
	})
}
