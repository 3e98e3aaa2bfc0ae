package vault

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBech32Vectors(t *testing.T) {
	// BIP-173 gives checksums of texts; BIP-350 keeps them. Data in groups of five.
	for _, tt := range []struct{ prefix, text string }{
		{"a", "a12uel5l"},
		{"an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio", "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs"},
		{"?", "?1ezyfcl"},
	} {
		require.Equal(t, tt.text, bech32(tt.prefix, nil))
	}
	all := make([]byte, 0, 20)
	for _, g := range [][]byte{{0x00, 0x44, 0x32, 0x14, 0xc7, 0x42, 0x54, 0xb6, 0x35, 0xcf, 0x84, 0x65, 0x3a, 0x56, 0xd7, 0xc6, 0x75, 0xbe, 0x77, 0xdf}} {
		all = append(all, g...)
	}
	require.Equal(t, "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", bech32("abcdef", all))
	rapid.Check(t, func(t *rapid.T) { // age decodes what we encode
		key := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
		id, err := age.ParseHybridIdentity(strings.ToUpper(bech32("age-secret-key-pq-", key)))
		require.NoError(t, err)
		require.Equal(t, strings.ToUpper(bech32("age-secret-key-pq-", key)), id.String())
	})
}

func TestPurposeKeysAreApart(t *testing.T) {
	v := inMemoryVault(t, nil)
	seen := make(map[string]string)
	for _, purpose := range []string{"a", "b", "a/b", "ab", "a-b", "msg/store", strings.Repeat("z", 64)} {
		for _, n := range []uint32{0, 1, 256, 1<<32 - 1} {
			k := must(v.PurposeKey(purpose, n))
			require.True(t, k.Equal(must(v.PurposeKey(purpose, n))))
			text := revealHex(t, k)
			require.Len(t, text, 64)
			require.NotContains(t, seen, text)
			seen[text] = purpose
		}
	}
	for _, bad := range []string{"", "A", "a b", "é", "a_b", "a\x00", strings.Repeat("z", 65), "vault/state", "vault/", "vault/x", "aXa", "a.a"} {
		_, err := v.PurposeKey(bad, 1)
		require.ErrorIs(t, err, ErrMalformed, "%q", bad)
	}
	_, err := v.PurposeKey("vault", 1)
	require.NoError(t, err)
}

func TestRotateIdentity(t *testing.T) {
	v, dir := folderVault(t, nil)
	zero, one, two := public(must(v.Identity(0))), public(must(v.Identity(1))), public(must(v.Identity(2)))
	old, next, err := v.RotateIdentity()
	require.NoError(t, err)
	require.Equal(t, zero, public(old))
	require.Equal(t, one, public(next))
	require.Equal(t, uint32(1), v.IdentityIndex())
	require.NoError(t, v.Close())
	v = reopen(t, dir, nil)
	require.Equal(t, uint32(1), v.IdentityIndex())
	old, next, err = v.RotateIdentity()
	require.NoError(t, err)
	require.Equal(t, one, public(old))
	require.Equal(t, two, public(next))
	require.Contains(t, v.Status().Check, zero, "which vault it is does not change")
}

// TestChildIsAVaultOfItsOwn: the root makes it again, the device opens it with
// its own key, and its keys are none of the root's or of a sibling.
func TestChildIsAVaultOfItsOwn(t *testing.T) {
	root := inMemoryVault(t, nil)
	require.NoError(t, root.Put("child/3", "device", secret("laptop")))
	device := must(age25519()) // made on the device
	child := must(root.Child(3, nil))
	defer child.Close()
	require.NoError(t, child.Put("github", "http-token", secret(canary)))
	dir := filepath.Join(t.TempDir(), "device")
	require.Error(t, child.Save(dir))
	require.NoError(t, child.Save(dir, device.Recipient()))
	require.ErrorIs(t, child.Save(dir, device.Recipient()), ErrExists)

	other := must(Open(dir, nil))
	defer other.Close()
	require.NoError(t, other.Unlock(t.Context(), device))
	require.Equal(t, public(must(child.Identity(0))), public(must(other.Identity(0))))
	require.True(t, reveal(t, must(other.Get("github", "http-token"))) == canary)
	require.ErrorIs(t, other.Save(filepath.Join(t.TempDir(), "x"), device.Recipient()), ErrExists, "it is in a folder")
	require.NoError(t, other.Put("more", "x", Secret{}))
	require.Equal(t, []string{"X25519"}, other.Status().Slots[0].Kinds)
	require.Equal(t, "device", other.Status().Slots[0].Name)
	require.ErrorIs(t, other.UnlockPhrase(phrase(t, about), Secret{}), ErrUnlocked)
	other.Lock()
	require.ErrorIs(t, other.UnlockPhrase(phrase(t, about), Secret{}), ErrWrongPhrase, "the root's words are not the child's")

	again := must(root.Child(3, nil))
	defer again.Close()
	require.Equal(t, child.Status().Check, again.Status().Check)
	seen := map[string]string{}
	for name, v := range map[string]*Vault{"root": root, "3": child, "4": must(root.Child(4, nil)), "3/0": must(child.Child(0, nil))} {
		for i := range uint32(20) {
			for _, key := range []string{public(must(v.Identity(i))), public(must(v.SSHHostKey(i))), public(must(v.SSHUserKey(i)))} {
				require.NotContains(t, seen, key)
				seen[key] = name
			}
		}
		if name != "root" && name != "3" {
			require.NoError(t, v.Close())
		}
	}
	want := aboutSeed(t, "")
	key, chain := nodeHex(t, want, "m/74'/3'/3'")
	require.True(t, key+chain == revealHex(t, must(child.ExportSeed())))
}

func TestSitePasswords(t *testing.T) {
	v := inMemoryVault(t, nil)
	get := func(site, login string, counter uint32, p PasswordPolicy) string {
		s, err := v.SitePassword(site, login, counter, p)
		require.NoError(t, err)
		return reveal(t, s)
	}
	require.Equal(t, get("example.com", "alice", 1, PasswordPolicy{}), get("example.com", "alice", 1, PasswordPolicy{Length: 20, Classes: "aA1!"}))
	require.NotEqual(t, get("a.bc", "d", 1, PasswordPolicy{}), get("a.b", "cd", 1, PasswordPolicy{}))
	classes := "aA1!"
	rapid.Check(t, func(t *rapid.T) {
		p := PasswordPolicy{Length: rapid.IntRange(8, 64).Draw(t, "length")}
		for _, c := range rapid.Permutation([]byte(classes)).Draw(t, "classes")[:rapid.IntRange(1, 4).Draw(t, "n")] {
			p.Classes += string(c)
		}
		login := rapid.StringN(0, 100, 1000).Draw(t, "login")
		s, err := v.SitePassword("example.com", login, rapid.Uint32().Draw(t, "counter"), p)
		require.NoError(t, err)
		require.NoError(t, s.Use(func(b []byte) error {
			require.Len(t, b, p.Length)
			for i := range len(classes) {
				has := strings.ContainsAny(string(b), classChars[classes[i]])
				require.Equal(t, strings.Contains(p.Classes, classes[i:i+1]), has, "class %c", classes[i])
			}
			return nil
		}))
	})
	for _, p := range []PasswordPolicy{{Length: 7}, {Length: 65}, {Length: -1}, {Classes: "b"}, {Classes: "aa"}, {Classes: "aA1!\x00"}} {
		_, err := v.SitePassword("example.com", "a", 1, p)
		require.ErrorIs(t, err, ErrMalformed, "%+v", p)
	}
	for _, site := range []string{"", ".", "Example.com", "example.com.", "exämple.com", "a..b", "-a.b", "a-.b", "a_b", "http://a", "a:443", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "ab"} {
		_, err := v.SitePassword(site, "a", 1, PasswordPolicy{})
		require.ErrorIs(t, err, ErrMalformed, "%q", site)
	}
	for _, login := range []string{"\xff", strings.Repeat("a", maxLoginBytes+1)} {
		_, err := v.SitePassword("example.com", login, 1, PasswordPolicy{})
		require.ErrorIs(t, err, ErrMalformed)
	}
	_, err := (&PasswordPolicy{Length: 20, Classes: "aA1!"}).compose(nil, &stream{bytes: make([]byte, 10)})
	require.Error(t, err, "a stream that is too short")
}

// TestPasswordCharactersAreEven: every character of the union is as likely.
func TestPasswordCharactersAreEven(t *testing.T) {
	counts := make(map[int]int)
	const k, draws = 68, 68 * 2000
	s := &stream{}
	for i := range draws {
		if len(s.bytes) < 64 {
			sum := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
			s.bytes = append(s.bytes, sum[:]...)
			sum = sha256.Sum256(sum[:])
			s.bytes = append(s.bytes, sum[:]...)
		}
		counts[s.pick(k)]++
	}
	require.Len(t, counts, k)
	for c, n := range counts {
		require.InDelta(t, draws/k, n, 6*45, "character %d", c) // six standard deviations
	}
}

// TestSecretsAreNotInTheFolder: nothing there shows a secret, in any form.
func TestSecretsAreNotInTheFolder(t *testing.T) {
	v, dir := folderVault(t, nil)
	require.NoError(t, v.Put("github", "http-token", secret(canary)))
	sealQuick(t, v, "prompt", canary)
	must(v.Rotate())
	seed := aboutSeed(t, "")
	require.NoError(t, filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data := string(must(os.ReadFile(name)))
		for _, b := range [][]byte{[]byte(canary), seed, seed[:32], []byte("abandon")} {
			require.NotContains(t, data, string(b))
			require.NotContains(t, strings.ToLower(data), hex.EncodeToString(b))
			require.NotContains(t, data, base64.StdEncoding.EncodeToString(b)[:len(b)])
		}
		return nil
	}))
}
