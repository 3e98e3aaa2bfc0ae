package alknet_test

import (
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alkdev/alknet"
)

func TestParsePeerID(t *testing.T) {
	id := keyID(newKey(t))
	require.Len(t, id.String(), 52)
	hexID := "ed25519:" + hex.EncodeToString(id[:])
	for _, s := range []string{id.String(), hexID} {
		got, err := alknet.ParsePeerID(s)
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
	// The example of pkarr's specification.
	got, err := alknet.ParsePeerID("o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy")
	require.NoError(t, err)
	require.Equal(t, "o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy", got.String())

	s := id.String()
	for name, bad := range map[string]string{
		"empty": "", "short": s[:51], "long": s + "y", "upper case": strings.ToUpper(s), "space": " " + s,
		"newline inside": s[:20] + "\n" + s[20:], "not of the alphabet": "l" + s[1:], "unused bits set": s[:51] + "b",
		"hex without prefix": hexID[8:], "hex in upper case": "ed25519:" + strings.ToUpper(hexID[8:]), "hex short": hexID[:70],
	} {
		_, err := alknet.ParsePeerID(bad)
		require.Error(t, err, name)
	}
}

// Keys of small order and encodings that are not canonical prove nothing: the
// list is computed here from the curve, not copied.
func TestWeakPeerIDsAreRefused(t *testing.T) {
	p, _ := new(big.Int).SetString("57896044618658097711785492504343953926634992332820282019728792003956564819949", 10) // 2^255-19
	one := big.NewInt(1)
	inv := func(x *big.Int) *big.Int { return new(big.Int).ModInverse(x, p) }
	mul := func(a, b *big.Int) *big.Int { return new(big.Int).Mod(new(big.Int).Mul(a, b), p) }
	d := mul(new(big.Int).Neg(big.NewInt(121665)), inv(big.NewInt(121666)))
	// A point doubles to y=0 (order 4) if x^2 = y^2 with -x^2+y^2 = 1+d x^2 y^2 => the order-8 points
	// satisfy d*y^4 + ... ; with x^2 = -y^2 the left side is 2y^2 = 1 - d y^4.
	ys := []*big.Int{one, new(big.Int).Sub(p, one), big.NewInt(0)}
	disc := new(big.Int).Add(one, d) // y^2 = (-1 ± sqrt(1+d)) / d
	root := new(big.Int).ModSqrt(disc, p)
	require.NotNil(t, root)
	for _, r := range []*big.Int{root, new(big.Int).Sub(p, root)} {
		y2 := mul(new(big.Int).Sub(r, one), inv(d))
		if y := new(big.Int).ModSqrt(y2, p); y != nil {
			ys = append(ys, y, new(big.Int).Sub(p, y))
		}
	}
	require.Len(t, ys, 5, "the eight points of small order have five y")
	encode := func(y *big.Int, sign byte) string {
		b := y.FillBytes(make([]byte, 32))
		for i := range 16 {
			b[i], b[31-i] = b[31-i], b[i]
		}
		b[31] |= sign
		return "ed25519:" + hex.EncodeToString(b)
	}
	for _, y := range ys {
		for _, sign := range []byte{0, 0x80} {
			_, err := alknet.ParsePeerID(encode(y, sign))
			require.ErrorContains(t, err, "weak", "y = %v", y)
		}
	}
	for k := range int64(19) { // y >= p is a second spelling of y-p
		_, err := alknet.ParsePeerID(encode(new(big.Int).Add(p, big.NewInt(k)), 0))
		require.Error(t, err, k)
	}
	_, err := alknet.ParsePeerID(encode(big.NewInt(3), 0))
	require.NoError(t, err)
}

func TestParseAddr(t *testing.T) {
	id := keyID(newKey(t))
	for _, s := range []string{"node.example:4433", "127.0.0.1:1", "[::1]:65535", ":4433", id.String() + "@host:0", id.String() + "@[fe80::1%eth0]:7"} {
		a, err := alknet.ParseAddr(s)
		require.NoError(t, err, s)
		require.Equal(t, s, a.String())
	}
	for name, s := range map[string]string{
		"empty": "", "no port": "host", "port name": "host:http", "port too large": "host:65536", "port with zero": "host:01",
		"port with sign": "host:+1", "two keys": id.String() + "@" + id.String() + "@h:1", "bad key": "abc@host:1", "space": "ho st:1",
		"control": "ho\x1bst:1", "not ASCII": "höst:1", "long": strings.Repeat("a", 400) + ":1", "bare IPv6": "::1:80", "needless brackets": "[host]:1",
		"path": "host/x:1",
	} {
		_, err := alknet.ParseAddr(s)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "\x1b")
	}
}

func TestTextForms(t *testing.T) {
	id := keyID(newKey(t))
	in := struct {
		ID   alknet.PeerID
		Addr alknet.Addr
	}{id, alknet.Addr{HostPort: "h:1", Peer: id}}
	b, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"ID":"`+id.String()+`","Addr":"`+id.String()+`@h:1"}`, string(b))
	out := in
	out.ID, out.Addr = alknet.PeerID{}, alknet.Addr{}
	require.NoError(t, json.Unmarshal(b, &out))
	require.Equal(t, in, out)
	require.Error(t, json.Unmarshal([]byte(`{"ID":"x"}`), &out))
	require.Error(t, json.Unmarshal([]byte(`{"Addr":"x"}`), &out))
	require.Equal(t, "QUIC|Raw", (alknet.QUIC | alknet.Raw).String())
	require.Equal(t, "none", alknet.Transport(0).String())
	require.Equal(t, "limit reached", alknet.CodeLimit.String())
	require.Equal(t, "0x100", alknet.ErrorCode(0x100).String())
	require.Equal(t, `alknet: refused (said the peer): "\x1b"`, (&alknet.Error{Code: alknet.CodeRefused, Remote: true, Reason: "\x1b"}).Error())
}

// More rights never lose a peer its admission, and fewer never win it.
func TestAccessControlIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"a", "b", "c"})
		words := rapid.SliceOfN(word, 0, 3)
		ac := alknet.AccessControl{RequiredScopes: words.Draw(t, "all"), RequiredScopesAny: words.Draw(t, "any"),
			ResourceType: rapid.SampledFrom([]string{"", "t"}).Draw(t, "type"), ResourceAction: rapid.SampledFrom([]string{"", "a"}).Draw(t, "action")}
		less := alknet.Identity{ID: "x", Scopes: words.Draw(t, "scopes"), Resources: map[string][]string{"t": words.Draw(t, "resources")}}
		more := less
		more.Scopes = append(append([]string{}, less.Scopes...), word.Draw(t, "more"))
		if ac.Check(&less) == nil && ac.Check(&more) != nil {
			t.Fatalf("%+v admits %+v and not %+v", ac, less, more)
		}
	})
}
