package peer

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// FuzzBook: what is read is written back and read as the same.
func FuzzBook(f *testing.F) {
	id, _ := newKey(f)
	f.Add([]byte(`{"version":1,"peers":[]}`))
	f.Add([]byte(`{"version":1,"peers":[{"id":"a","keys":[{"id":"` + id.String() + `","not_after":"2030-01-02T03:04:05Z"}],"addrs":["h:1 over quic via r:2"]}]}`))
	f.Add([]byte(`{"version":1,"peers":[{"id":"a"},{"id":"a"}]}`))
	f.Add([]byte(`{"version":1,"peers":[{"id":"local","Scopes":["x"]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ix, err := parseBook(data)
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "line ") || strings.Contains(err.Error(), "more than"), "%v", err)
			return
		}
		b := &Book{now: time.Now}
		b.index.Store(ix)
		out, err := formatBook(b.Peers())
		require.NoError(t, err)
		again, err := parseBook(out)
		require.NoError(t, err, "%s", out)
		require.True(t, ix.equal(again))
	})
}

// FuzzSuccessor: nothing but what both keys have signed is taken.
func FuzzSuccessor(f *testing.F) {
	_, a := newKey(f)
	_, b := newKey(f)
	good, err := SignSuccessor(a, b, time.Hour)
	require.NoError(f, err)
	f.Add(good)
	f.Add(successorPrefix + "e30.e30.e30")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := openSuccessor(s, time.Now())
		if err != nil {
			require.ErrorIs(t, err, ErrSuccessor)
			return
		}
		parts := strings.Split(strings.TrimPrefix(s, successorPrefix), ".")
		raw, err := decode64(parts[0])
		require.NoError(t, err)
		require.Equal(t, parts[0], encode64(raw))
		require.False(t, c.Old.IsZero() || c.New.IsZero())
	})
}

// FuzzRecord: what is read is what its key has signed, to the byte.
func FuzzRecord(f *testing.F) {
	_, key := newKey(f)
	good, err := SignRecord(key, Record{Addrs: []alknet.Addr{{HostPort: "h:1"}}, Seq: 1, Expires: time.Unix(1<<33, 0)})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(recordPrefix + "e30.e30"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := OpenRecord(b, time.Unix(1, 0))
		if err != nil {
			return
		}
		for _, a := range r.Addrs {
			require.Equal(t, r.Peer, a.Peer)
		}
	})
}

// FuzzName: a name with "@" is split in one way, and what is split is put together
// again.
func FuzzName(f *testing.F) {
	for _, s := range []string{"box/start", "box/start@worker-a", "box/start@any", "box/start@worker-a@head-b", "@", "a@", "@b", "a@@b", ""} {
		f.Add(s)
	}
	g := &Graph{}
	g.init()
	f.Fuzz(func(t *testing.T, s string) {
		op, peer := splitName(s)
		if strings.Contains(s, "@") {
			require.Equal(t, s, op+"@"+peer)
		} else {
			require.Equal(t, s, op)
		}
		base, onward := innermost(op)
		require.Equal(t, op, base+onward)
		require.NotContains(t, base, "@")
		_, ok := g.Lookup(s)
		require.False(t, ok, "an empty graph")
		_, err := g.To(Ref{Wait: -1}).Open(t.Context(), s, call.Options{Type: call.Subscription})
		_ = err // it does not panic
	})
}
