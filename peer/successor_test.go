package peer

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// TestSuccession: the new key is added, the old one ends after the overlap, and
// nothing else changes.
func TestSuccession(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	b := openBook(t, path)
	oldID, oldKey := newKey(t)
	newID, newKey1 := newKey(t)
	_, thirdKey := newKey(t)
	require.NoError(t, b.Update(put(Peer{ID: "worker-a", Keys: []Key{{ID: oldID}}, Scopes: []string{"x"}})))
	statement, err := SignSuccessor(oldKey, newKey1, time.Hour)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(statement, "alks1."))
	require.NoError(t, b.Succeed(statement))
	require.NoError(t, b.Succeed(statement), "the same again")
	for _, key := range []alknet.PeerID{oldID, newID} {
		id, err := b.Authenticate(t.Context(), provenBy(key), "x")
		require.NoError(t, err)
		require.Equal(t, "worker-a", id.ID)
		require.Equal(t, []string{"x"}, id.Scopes)
	}
	other, err := SignSuccessor(oldKey, thirdKey, time.Hour)
	require.NoError(t, err)
	require.ErrorIs(t, b.Succeed(other), ErrSuccessor, "a second, different successor")
	require.ErrorIs(t, openBook(t, path).Succeed(other), ErrSuccessor, "also after a restart")

	b.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	_, err = b.Authenticate(t.Context(), provenBy(oldID), "x")
	code, _ := codeOf(err)
	require.Equal(t, alknet.CodeRevoked, code, "the overlap is over")
	next, err := SignSuccessor(newKey1, thirdKey, 0)
	require.NoError(t, err)
	require.NoError(t, b.Succeed(next), "and so on")
}

// TestSuccessionIsRefused unless both keys have signed and the old one is valid.
func TestSuccessionIsRefused(t *testing.T) {
	oldID, oldKey := newKey(t)
	_, newKey1 := newKey(t)
	otherID, otherKey := newKey(t)
	b := openBook(t, "")
	require.NoError(t, b.Update(put(Peer{ID: "worker-a", Keys: []Key{{ID: oldID}}})))
	require.NoError(t, b.Update(put(Peer{ID: "worker-b", Keys: []Key{{ID: otherID}}})))
	good, err := SignSuccessor(oldKey, newKey1, time.Hour)
	require.NoError(t, err)
	parts := strings.Split(strings.TrimPrefix(good, successorPrefix), ".")
	claims, err := decode64(parts[0])
	require.NoError(t, err)
	with := func(i int, s string) string {
		p := append([]string(nil), parts...)
		p[i] = s
		return successorPrefix + strings.Join(p, ".")
	}
	wrong, err := sign(otherKey, successorLabel, claims)
	require.NoError(t, err)
	for name, s := range map[string]string{
		"without the old key": with(1, encode64(wrong)), "without the new key": with(2, encode64(wrong)), "swapped": with(1, parts[2]),
		"other claims": with(0, encode64([]byte(strings.Replace(string(claims), `"overlap_s":3600`, `"overlap_s":3601`, 1)))),
		"cut":          successorPrefix + parts[0] + "." + parts[1], "prefix": "alkd1." + good, "empty": "", "padding": good + "=",
	} {
		require.ErrorIs(t, b.Succeed(s), ErrSuccessor, name)
	}
	toOther, err := SignSuccessor(oldKey, otherKey, time.Hour)
	require.NoError(t, err)
	require.ErrorIs(t, b.Succeed(toOther), ErrSuccessor, "the new key is another's")
	_, strangerKey := newKey(t)
	unknown, err := SignSuccessor(strangerKey, newKey1, time.Hour)
	require.NoError(t, err)
	require.ErrorIs(t, b.Succeed(unknown), ErrSuccessor, "nobody's key")
	require.ErrorIs(t, b.succeed(good, "worker-b"), ErrSuccessor, "a key of somebody else")

	require.NoError(t, b.Update(func(m map[string]Peer) error { p := m["worker-a"]; p.Disabled = true; m["worker-a"] = p; return nil }))
	require.ErrorIs(t, b.Succeed(good), ErrSuccessor, "disabled")
	_, err = SignSuccessor(oldKey, oldKey, time.Hour)
	require.Error(t, err)
	_, err = SignSuccessor(oldKey, newKey1, 31*24*time.Hour)
	require.Error(t, err)
}

// TestRotateKeyIsForOnesOwnKeys.
func TestRotateKeyIsForOnesOwnKeys(t *testing.T) {
	b := openBook(t, "")
	oldID, oldKey := newKey(t)
	newID, newKey1 := newKey(t)
	require.NoError(t, b.Update(put(Peer{ID: "worker-a", Keys: []Key{{ID: oldID}}})))
	var reg call.Registry
	require.NoError(t, reg.Register(b.Operations()...))
	h := &call.Handler{Registry: &reg}
	statement, err := SignSuccessor(oldKey, newKey1, time.Hour)
	require.NoError(t, err)
	rotate := func(id string) error {
		_, err := call.Call[struct{}](t.Context(), h.As(alknet.Identity{ID: id}), "services/rotate-key", rotateInput{statement})
		return err
	}
	requireCode(t, rotate("worker-b"), "FORBIDDEN", true)
	require.Error(t, rotate(""))
	require.NoError(t, rotate("worker-a"))
	p, _ := b.Get("worker-a")
	require.Len(t, p.Keys, 2)
	require.Equal(t, newID, p.Keys[1].ID)
}

func TestRecord(t *testing.T) {
	id, key := newKey(t)
	_, other := newKey(t)
	r := Record{Addrs: []alknet.Addr{{HostPort: "10.0.0.1:4433"}, {HostPort: "host:1", Over: alknet.QUIC, Via: "relay:2"}}, Seq: 7, Expires: time.Now().Add(time.Hour)}
	b, err := SignRecord(key, r)
	require.NoError(t, err)
	got, err := OpenRecord(b, time.Now())
	require.NoError(t, err)
	require.Equal(t, id, got.Peer)
	require.Equal(t, uint64(7), got.Seq)
	require.Equal(t, []alknet.Addr{{HostPort: "10.0.0.1:4433", Peer: id}, {HostPort: "host:1", Peer: id, Over: alknet.QUIC, Via: "relay:2"}}, got.Addrs)
	_, err = OpenRecord(b, time.Now().Add(2*time.Hour))
	require.ErrorIs(t, err, errRecord)
	for i := range b {
		c := append([]byte(nil), b...)
		c[i] ^= 1
		_, err := OpenRecord(c, time.Now())
		require.ErrorIs(t, err, errRecord, "byte %d", i)
	}
	r.Peer = id
	_, err = SignRecord(other, r)
	require.Error(t, err)
}

func TestChain(t *testing.T) {
	a, _ := newKey(t)
	b, _ := newKey(t)
	c, _ := newKey(t)
	d := Chain(Static{a: {{HostPort: "a:1"}}}, nil, Static{a: {{HostPort: "a:2"}}, b: {{HostPort: "b:1"}}})
	got, err := d.Lookup(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, "a:1", got[0].HostPort)
	got, err = d.Lookup(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, b, got[0].Peer)
	_, err = d.Lookup(t.Context(), c)
	require.ErrorIs(t, err, ErrUnknownPeer)
	_, err = Chain().Lookup(t.Context(), c)
	require.ErrorIs(t, err, ErrUnknownPeer)
}
