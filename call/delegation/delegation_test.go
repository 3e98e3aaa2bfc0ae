package delegation

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alkdev/alknet"
)

// key is the n-th key.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), n))
}

func id(n byte) alknet.PeerID { return alknet.PeerID(key(n).Public().(ed25519.PublicKey)) }

var (
	now   = time.Unix(1_800_000_000, 0)
	alice = alknet.Identity{ID: "alice", Scopes: []string{"a", "b", "c"}, Resources: map[string][]string{"box": {"start", "stop"}, "db": {"read"}}}
)

func lookup(p alknet.PeerID) (alknet.Identity, bool) { return alice, p == id(1) }

func claims(audience byte, c Claims) Claims {
	c.Audience, c.Issued = id(audience), now
	if c.Expires.IsZero() {
		c.Expires = now.Add(time.Minute)
	}
	return c
}

// chain is a token from 1 over 2 to 3.
func chain3(t testing.TB) string {
	token, err := Sign(key(1), claims(2, Claims{Operations: []string{"box/*"}, Scopes: []string{"a", "b"}}))
	require.NoError(t, err)
	token, err = Narrow(key(2), token, claims(3, Claims{Scopes: []string{"a"}, Resources: map[string][]string{"box": {"start"}}}))
	require.NoError(t, err)
	return token
}

func TestVerify(t *testing.T) {
	got, err := Verify(chain3(t), Options{Presenter: id(3), Lookup: lookup, Now: now})
	require.NoError(t, err)
	require.Equal(t, alknet.Identity{ID: "alice", Scopes: []string{"a"}, Resources: map[string][]string{"box": {"start"}}}, got)
	require.True(t, Allowed(chain3(t), "box/start"))
	require.False(t, Allowed(chain3(t), "fs/read"))
	require.Equal(t, now.Add(time.Minute), Expires(chain3(t)))
	require.Equal(t, []string{"a", "b", "c"}, alice.Scopes, "the issuer's own identity is not touched")
}

func TestVerifyRefuses(t *testing.T) {
	token := chain3(t)
	parts := strings.Split(token, ".")
	swap := func(i int, with string) string {
		p := slices.Clone(parts)
		p[i] = with
		return strings.Join(p, ".")
	}
	forged := func(from, to string) string {
		raw, err := base64.RawURLEncoding.DecodeString(parts[3])
		require.NoError(t, err)
		return swap(3, base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(raw), from, to, 1))))
	}
	one, err := Sign(key(1), claims(2, Claims{}))
	require.NoError(t, err)
	bearer, err := Sign(key(1), Claims{Issued: now, Expires: now.Add(time.Minute)})
	require.NoError(t, err)
	long, err := Sign(key(1), Claims{Issued: now, Expires: now.Add(2 * time.Hour)})
	require.NoError(t, err)
	good := Options{Presenter: id(3), Lookup: lookup, Now: now}
	at := func(d time.Duration) Options { o := good; o.Now = now.Add(d); return o }
	op := func(name string) Options { o := good; o.Operation = name; return o }
	by := func(n byte) Options { o := good; o.Presenter = id(n); return o }
	anyone := good
	anyone.Bearer = true
	tests := []struct {
		name, token string
		o           Options
		ok          bool
	}{
		{"as it is", token, good, true},
		{"within the skew", token, at(time.Minute + 59*time.Second), true},
		{"an operation that is lent", token, op("box/start"), true},
		{"expired", token, at(2 * time.Minute), false},
		{"not yet valid", token, at(-61 * time.Second), false},
		{"an operation that is not lent", token, op("fs/read"), false},
		{"replayed on another connection", token, by(4), false},
		{"by the audience before, to the last one", token, by(2), true},
		{"by the first issuer", token, by(1), false},
		{"cut", strings.Join(parts[:3], "."), good, false},
		{"cut, by its audience", strings.Join(parts[:3], "."), by(2), true},
		{"one link, by its issuer", strings.Join(parts[:3], "."), by(1), false},
		{"reordered", strings.Join([]string{parts[0], parts[3], parts[4], parts[1], parts[2]}, "."), good, false},
		{"a link twice", token + "." + parts[3] + "." + parts[4], good, false},
		{"another chain's link", one + "." + parts[3] + "." + parts[4], good, false},
		{"claims changed", forged(`"a"`, `"b"`), good, false},
		{"an unknown claim", forged(`{`, `{"x":1,`), good, false},
		{"a claim twice", forged(`{`, `{"exp":1,`), good, false},
		{"a signature cut", swap(4, parts[4][:10]), good, false},
		{"padding", token + "=", good, false},
		{"no token", "", good, false},
		{"another prefix", "alkd2" + token[5:], good, false},
		{"too long", token + strings.Repeat("A", maxBytes), good, false},
		{"a bearer token", bearer, good, false},
		{"a bearer token that is allowed", bearer, anyone, true},
		{"a bearer token for too long", long, anyone, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Verify(tt.token, tt.o)
			if tt.ok {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrInvalid)
			}
		})
	}
	_, err = Verify(token, Options{Presenter: id(3), Now: now, Lookup: func(alknet.PeerID) (alknet.Identity, bool) { return alice, false }})
	require.ErrorIs(t, err, ErrInvalid, "an issuer that is not known, or disabled")
}

func TestNarrowRefusesToWiden(t *testing.T) {
	token, err := Sign(key(1), claims(2, Claims{Operations: []string{"box/*"}, Scopes: []string{"a"}, Resources: map[string][]string{"box": {"start"}}}))
	require.NoError(t, err)
	for name, c := range map[string]Claims{
		"operations": {Operations: []string{"*"}}, "another namespace": {Operations: []string{"fs/*"}}, "scopes": {Scopes: []string{"b"}},
		"resources": {Resources: map[string][]string{"box": {"stop"}}}, "resource types": {Resources: map[string][]string{"db": {"read"}}},
	} {
		_, err := Narrow(key(2), token, claims(3, c))
		require.ErrorIs(t, err, ErrInvalid, name)
		// And who signs it all the same is not believed.
		links, err := parse(token)
		require.NoError(t, err)
		forced, err := extend(key(2), token, &links[0], claims(3, c))
		require.NoError(t, err)
		_, err = Verify(forced, Options{Presenter: id(3), Lookup: lookup, Now: now})
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	_, err = Narrow(key(4), token, claims(3, Claims{}))
	require.Error(t, err, "only the audience narrows")
	links, err := parse(token)
	require.NoError(t, err)
	forced, err := extend(key(2), token, &links[0], claims(3, Claims{Expires: now.Add(time.Hour)}))
	require.NoError(t, err)
	_, err = Verify(forced, Options{Presenter: id(3), Lookup: lookup, Now: now})
	require.ErrorIs(t, err, ErrInvalid, "it outlives the link before")
}

// TestNarrowedNeverAllowsMore: over random chains and operations, what a longer
// chain allows its beginning allows too.
func TestNarrowedNeverAllowsMore(t *testing.T) {
	globs := rapid.SliceOfN(rapid.SampledFrom([]string{"*", "box/*", "box/start", "fs/*", "fs/read"}), 0, 3)
	scopes := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3)
	rapid.Check(t, func(r *rapid.T) {
		some := func() (c Claims) {
			if rapid.Bool().Draw(r, "ops") {
				c.Operations = globs.Draw(r, "globs")
			}
			if rapid.Bool().Draw(r, "scopes") {
				c.Scopes = scopes.Draw(r, "scopes")
			}
			return c
		}
		token, err := Sign(key(1), claims(2, some()))
		if err != nil {
			r.Fatal(err)
		}
		for n := byte(2); n < 6; n++ {
			longer, err := Narrow(key(n), token, claims(n+1, some()))
			if err != nil {
				continue
			}
			before, berr := Verify(token, Options{Presenter: id(n), Lookup: lookup, Now: now})
			after, aerr := Verify(longer, Options{Presenter: id(n + 1), Lookup: lookup, Now: now})
			if berr != nil || aerr != nil {
				r.Fatal(berr, aerr)
			}
			for _, s := range after.Scopes {
				if !slices.Contains(before.Scopes, s) {
					r.Fatalf("scope %s was won", s)
				}
			}
			for _, op := range []string{"box/start", "box/stop", "fs/read", "db/x"} {
				if Allowed(longer, op) && !Allowed(token, op) {
					r.Fatalf("operation %s was won", op)
				}
			}
			token = longer
			if n+1 == 6 {
				return
			}
		}
	})
}

func FuzzDelegation(f *testing.F) {
	f.Add(chain3(f))
	f.Add("alkd1.e30.e30")
	f.Add("alkd1..")
	f.Fuzz(func(t *testing.T, token string) {
		links, err := parse(token)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		again := prefix[:len(prefix)-1]
		for _, l := range links {
			again += "." + base64.RawURLEncoding.EncodeToString(l.raw) + "." + base64.RawURLEncoding.EncodeToString(l.signature)
		}
		require.Equal(t, token, again, "one spelling only")
		if got, err := Verify(token, Options{Presenter: id(3), Lookup: lookup, Now: now}); err == nil {
			require.Equal(t, "alice", got.ID)
		}
	})
}
