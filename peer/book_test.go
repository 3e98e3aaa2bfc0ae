package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/delegation"
)

// newKey is a fresh key.
func newKey(t testing.TB) (alknet.PeerID, ed25519.PrivateKey) {
	pub, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return alknet.PeerID(pub), key
}

// state is a handshake that has proven a key.
func provenBy(id alknet.PeerID) tls.ConnectionState {
	return tls.ConnectionState{PeerCertificates: []*x509.Certificate{{PublicKey: ed25519.PublicKey(id[:])}}}
}

func put(p Peer) func(map[string]Peer) error {
	return func(m map[string]Peer) error { m[p.ID] = p; return nil }
}

func openBook(t *testing.T, path string) *Book {
	t.Helper()
	b, err := OpenBook(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func TestBookSaysWhoAPeerIs(t *testing.T) {
	b := openBook(t, "")
	id, _ := newKey(t)
	other, _ := newKey(t)
	old, _ := newKey(t)
	past := time.Now().Add(-time.Hour)
	require.NoError(t, b.Update(put(Peer{
		ID: "worker-a", Keys: []Key{{ID: id}, {ID: old, NotAfter: past}}, Scopes: []string{"a:b"}, Resources: map[string][]string{"box": {"1"}},
		Addrs: []alknet.Addr{{HostPort: "10.0.0.1:4433"}},
	})))
	got, err := b.Authenticate(t.Context(), provenBy(id), "x")
	require.NoError(t, err)
	require.Equal(t, alknet.Identity{ID: "worker-a", Peer: id, Scopes: []string{"a:b"}, Resources: map[string][]string{"box": {"1"}}}, got)
	got, err = b.Authenticate(t.Context(), provenBy(other), "x")
	require.NoError(t, err)
	require.Equal(t, alknet.Identity{Peer: other}, got, "a stranger has no id")
	got, err = b.Authenticate(t.Context(), tls.ConnectionState{}, "x")
	require.NoError(t, err)
	require.Zero(t, got)

	wantRevoked := func(key alknet.PeerID) {
		t.Helper()
		_, err := b.Authenticate(t.Context(), provenBy(key), "x")
		code, _ := codeOf(err)
		require.Equal(t, alknet.CodeRevoked, code)
	}
	wantRevoked(old)
	addrs, err := b.Lookup(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []alknet.Addr{{HostPort: "10.0.0.1:4433", Peer: id}}, addrs)
	_, err = b.Lookup(t.Context(), other)
	require.ErrorIs(t, err, ErrUnknownPeer)

	p, _ := b.Get("worker-a")
	p.Disabled = true
	require.NoError(t, b.Update(put(p)))
	wantRevoked(id)
	_, err = b.Lookup(t.Context(), id)
	require.ErrorIs(t, err, ErrUnknownPeer)
	require.Zero(t, b.Imports(Info{ID: "worker-a"}))
}

func TestBookTokens(t *testing.T) {
	b := openBook(t, "")
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return tokenPrefix + hex.EncodeToString(sum[:])
	}
	require.NoError(t, b.Update(put(Peer{ID: "ci", Scopes: []string{"x:y"}, Tokens: []Token{
		{Hash: hash("good"), Label: "ci"}, {Hash: hash("old"), NotAfter: time.Now().Add(-time.Second)},
	}})))
	id, err := b.Token(t.Context(), alknet.Identity{}, "good")
	require.NoError(t, err)
	require.Equal(t, "ci", id.ID)
	for _, bad := range []string{"old", "unknown", "", "alkd1.x.y"} {
		_, err := b.Token(t.Context(), alknet.Identity{}, bad)
		require.Error(t, err, bad)
	}
	require.NoError(t, b.Update(func(m map[string]Peer) error { p := m["ci"]; p.Disabled = true; m["ci"] = p; return nil }))
	_, err = b.Token(t.Context(), alknet.Identity{}, "good")
	require.Error(t, err)
}

// TestBookDelegations: whose delegation counts, and that it lends no more than it
// says.
func TestBookDelegations(t *testing.T) {
	b := openBook(t, "")
	alice, aliceKey := newKey(t)
	head, _ := newKey(t)
	require.NoError(t, b.Update(put(Peer{ID: "alice", Keys: []Key{{ID: alice}}, Scopes: []string{"box:use", "all:else"}})))
	sign := func(ops ...string) string {
		token, err := delegation.Sign(aliceKey, delegation.Claims{
			Audience: head, Operations: ops, Scopes: []string{"box:use"}, Expires: time.Now().Add(time.Minute),
		})
		require.NoError(t, err)
		return token
	}
	presenter := alknet.Identity{ID: "head", Peer: head, Scopes: []string{"call:delegate"}}
	id, err := b.Token(t.Context(), presenter, sign("box/*"))
	require.NoError(t, err)
	require.Equal(t, "alice", id.ID)
	require.Equal(t, []string{"box:use"}, id.Scopes)
	_, err = b.Token(t.Context(), alknet.Identity{ID: "eve", Peer: alice}, sign("box/*"))
	require.Error(t, err, "it was not lent to this key")

	// Through the gate: box/start is lent, sys/whoami is not.
	var reg call.Registry
	box := whoami("box")
	box.Name = "box/start"
	require.NoError(t, reg.Register(whoami("sys"), box))
	h := &call.Handler{Registry: &reg, Authenticate: b.Token}
	c := call.With(h.As(presenter), call.Options{Token: sign("box/*")})
	_, err = call.Call[string](t.Context(), c, "box/start", struct{}{})
	require.NoError(t, err)
	_, err = call.Call[string](t.Context(), c, "sys/whoami", struct{}{})
	requireCode(t, err, "UNAUTHENTICATED", false)

	require.NoError(t, b.Update(func(m map[string]Peer) error {
		p := m["alice"]
		p.RevokedBefore = time.Now().Add(time.Minute)
		m["alice"] = p
		return nil
	}))
	_, err = b.Token(t.Context(), presenter, sign("box/*"))
	require.Error(t, err, "older than RevokedBefore")
}

// writeBook puts a file in the place of a book.
func writeBook(t *testing.T, path, text string) {
	t.Helper()
	temp := path + ".new"
	require.NoError(t, os.WriteFile(temp, []byte(text), 0o600))
	require.NoError(t, os.Rename(temp, path))
}

// TestBookRefusesBadFiles: with the line and the reason, and the old list stays.
func TestBookRefusesBadFiles(t *testing.T) {
	k1, _ := newKey(t)
	k2, _ := newKey(t)
	good := fmt.Sprintf("{\"version\":1,\"peers\":[\n{\"id\":\"a\",\"keys\":[{\"id\":\"%v\"}]},\n{\"id\":\"b\",\"keys\":[{\"id\":\"%v\"}]}\n]}\n", k1, k2)
	hash := tokenPrefix + strings.Repeat("0", 64)
	for name, tt := range map[string]struct{ text, why string }{
		"duplicate id":         {strings.Replace(good, `"b"`, `"a"`, 1), `line 3: a second peer "a"`},
		"duplicate key":        {strings.Replace(good, k2.String(), k1.String(), 1), "line 3: "},
		"duplicate token":      {strings.Replace(good, `"id":"b"`, `"tokens":[{"hash":"`+hash+`"},{"hash":"`+hash+`"}],"id":"b"`, 1), "line 3: "},
		"reserved id":          {strings.Replace(good, `"b"`, `"local"`, 1), "line 3: "},
		"bad id":               {strings.Replace(good, `"b"`, `"B b"`, 1), "line 3: "},
		"alk_ id":              {strings.Replace(good, `"b"`, `"alk_x"`, 1), "line 3: "},
		"unknown member":       {strings.Replace(good, `"id":"b"`, `"id":"b","admin":true`, 1), "line 3: "},
		"member in other case": {strings.Replace(good, `"id":"b"`, `"id":"b","Scopes":["x"]`, 1), "line 3: "},
		"member twice":         {strings.Replace(good, `"id":"b"`, `"id":"b","id":"c"`, 1), "line 3: "},
		"bad key":              {strings.Replace(good, k2.String(), "xyz", 1), "line 3: "},
		"bad token hash":       {strings.Replace(good, `"id":"b"`, `"tokens":[{"hash":"secret"}],"id":"b"`, 1), "line 3: "},
		"bad address":          {strings.Replace(good, `"id":"b"`, `"addrs":["nowhere"],"id":"b"`, 1), "line 3: "},
		"version":              {strings.Replace(good, `"version":1`, `"version":2`, 1), "line 1: "},
		"torn":                 {good[:len(good)/2], "line "},
		"not JSON":             {"hello", "line 1: "},
		"something behind":     {good + "{}", "line "},
		"empty":                {"", "line 1: "},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "peers.json")
			writeBook(t, path, good)
			b := openBook(t, path)
			writeBook(t, path, tt.text)
			err := b.Reload()
			require.ErrorContains(t, err, tt.why)
			require.Len(t, b.Peers(), 2, "the old list is kept")
			require.ErrorContains(t, b.Update(put(Peer{ID: "c"})), tt.why, "nor is it overwritten")
			_, err = OpenBook(path)
			require.ErrorContains(t, err, tt.why, "never an empty list")
			writeBook(t, path, strings.Replace(good, `"b"`, `"c"`, 1))
			require.NoError(t, b.Reload())
			_, ok := b.Get("c")
			require.True(t, ok)
		})
	}
	t.Run("others may read it", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "peers.json")
		for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o660} {
			writeBook(t, path, good)
			require.NoError(t, os.Chmod(path, mode))
			_, err := OpenBook(path)
			require.ErrorContains(t, err, "chmod 600")
		}
	})
	t.Run("the backup is named", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "peers.json")
		b := openBook(t, path)
		require.NoError(t, b.Update(put(Peer{ID: "a"})))
		require.NoError(t, b.Update(put(Peer{ID: "b"})))
		writeBook(t, path, "{")
		_, err := OpenBook(path)
		require.ErrorContains(t, err, "peers.json.bak")
	})
}

// TestBookIsReloaded: a change of the file is live within a second, and so are the
// changes of another process.
func TestBookIsReloaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	b, other := openBook(t, path), openBook(t, path)
	changes := make(chan struct{}, 10)
	b.OnChange = func() { changes <- struct{}{} }
	require.NoError(t, other.Update(put(Peer{ID: "a"})))
	select {
	case <-changes:
	case <-time.After(5 * time.Second):
		t.Fatal("the change was not seen")
	}
	_, ok := b.Get("a")
	require.True(t, ok)
	require.NoError(t, b.Update(put(Peer{ID: "b"})), "on top of what the other wrote")
	require.Len(t, b.Peers(), 2)
	<-changes
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, os.Remove(path))
	require.Error(t, b.Reload(), "a list that is gone is kept")
	require.Len(t, b.Peers(), 2)
}

// TestBookUpdateIsAllOrNothing.
func TestBookUpdateIsAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	b := openBook(t, path)
	require.NoError(t, b.Update(put(Peer{ID: "a", Scopes: []string{"x"}})))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	boom := errors.New("boom")
	for _, f := range []func(map[string]Peer) error{
		func(m map[string]Peer) error { m["b"] = Peer{ID: "b"}; return boom },
		func(m map[string]Peer) error { m["b"] = Peer{ID: "c"}; return nil },
		func(m map[string]Peer) error { m["any"] = Peer{ID: "any"}; return nil },
		func(m map[string]Peer) error { m["a"].Scopes[0] = "changed in place"; return boom },
	} {
		require.Error(t, b.Update(f))
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, before, after)
		require.Equal(t, []Peer{{ID: "a", Scopes: []string{"x"}}}, b.Peers())
	}
}

// TestBookUpdatesOfManyAreInOrder: no update of several writers is lost.
func TestBookUpdatesOfManyAreInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	done := make(chan error, 4)
	for range 4 {
		b := openBook(t, path)
		go func() {
			for range 10 {
				err := b.Update(func(m map[string]Peer) error {
					p := m["count"]
					p.ID, p.Note = "count", p.Note+"x"
					m["count"] = p
					return nil
				})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		require.NoError(t, <-done)
	}
	p, _ := openBook(t, path).Get("count")
	require.Len(t, p.Note, 40)
}

// TestBookRoundTrip: what is written is read back as it was.
func TestBookRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	keys := make([]alknet.PeerID, 20)
	for i := range keys {
		keys[i], _ = newKey(t)
	}
	b := openBook(t, path)
	word := rapid.StringMatching(`[a-z]{1,8}`)
	rapid.Check(t, func(rt *rapid.T) {
		used := 0
		peers := map[string]Peer{}
		for _, id := range rapid.SliceOfNDistinct(rapid.StringMatching(`w[a-z0-9]{0,5}`), 0, 5, rapid.ID).Draw(rt, "ids") {
			p := Peer{
				ID: id, Name: rapid.String().Draw(rt, "name"), Export: rapid.Bool().Draw(rt, "export"), Disabled: rapid.Bool().Draw(rt, "disabled"),
				Scopes: rapid.SliceOfN(word, 1, 3).Draw(rt, "scopes"), Labels: map[string]string{word.Draw(rt, "label"): rapid.String().Draw(rt, "value")},
				Addrs: []alknet.Addr{{HostPort: "[::1]:80", Over: alknet.Transport(rapid.IntRange(0, 7).Draw(rt, "over")), Via: "relay.example:4433"}},
			}
			if len(p.Name) > 200 {
				p.Name = ""
			}
			for range rapid.IntRange(0, 3).Draw(rt, "keys") {
				p.Keys = append(p.Keys, Key{ID: keys[used%20], NotAfter: time.Unix(int64(rapid.IntRange(1, 1<<33).Draw(rt, "end")), 0).UTC()})
				used++
			}
			peers[id] = p
		}
		require.NoError(rt, b.Update(func(m map[string]Peer) error {
			clear(m)
			for id, p := range peers {
				m[id] = p
			}
			return nil
		}))
		again, err := OpenBook(path)
		require.NoError(rt, err)
		defer again.Close()
		require.Equal(rt, b.Peers(), again.Peers())
	})
}

// TestRevocationEndsLiveConnections within a second, through the Router.
func TestRevocationEndsLiveConnections(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "peers.json"))
	worker, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	defer worker.Close()
	require.NoError(t, b.Update(put(Peer{ID: "worker-a", Keys: []Key{{ID: worker.ID()}}, Import: []string{"*"}})))
	g := &Graph{Imports: b.Imports, Known: b.Known}
	defer g.Close()
	router := &alknet.Router{Authenticate: b.Authenticate}
	require.NoError(t, router.Register(call.Service(&call.Handler{Sources: []call.Source{g}, OnConnect: g.Attach})))
	head, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- router.Serve(head) }()
	defer func() { _ = router.Close(); <-served; _ = head.Close() }()
	var calls atomic.Int32
	b.OnChange = func() { calls.Add(1); _ = router.Reauthenticate(context.Background()) }

	reg := new(call.Registry)
	block := call.QueryFunc(func(ctx context.Context, _ struct{}) (string, error) { <-ctx.Done(); return "", ctx.Err() })
	require.NoError(t, reg.Register(call.Operation{Name: "x/block", Func: block}))
	ctx, cancel := context.WithCancel(t.Context())
	sup := &Supervisor{Dial: DialPeer(worker, Static{head.ID(): {head.Addr()}}, head.ID(), &call.Handler{Registry: reg})}
	ran := make(chan error, 1)
	go func() { ran <- sup.Run(ctx) }()
	require.Eventually(t, func() bool { return g.offerOf("worker-a", "x/block") != nil }, 10*time.Second, time.Millisecond)

	ended := make(chan error, 1)
	go func() {
		_, err := call.Call[string](context.Background(), g.To(Ref{Wait: -1}), "x/block", struct{}{})
		ended <- err
	}()
	require.Eventually(t, func() bool { return g.node("worker-a").running.Load() == 1 }, 5*time.Second, time.Millisecond)
	begun := time.Now()
	require.NoError(t, b.Update(func(m map[string]Peer) error { p := m["worker-a"]; p.Disabled = true; m["worker-a"] = p; return nil }))
	require.Error(t, <-ended)
	t.Logf("its calls ended after %v", time.Since(begun))
	require.Less(t, time.Since(begun), 5*time.Second) // the promise is 1 s; timings are not asserted tightly
	require.NotZero(t, calls.Load())
	cancel()
	require.ErrorIs(t, <-ran, context.Canceled)
}
