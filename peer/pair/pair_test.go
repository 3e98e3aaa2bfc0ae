package pair

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/peer"
)

// A node is a head that invites, on a real socket.
type node struct {
	*Handler
	ep   *alknet.Endpoint
	dir  string
	book *peer.Book
}

// newNode serves the door of a head.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	var err error
	n.book, err = peer.OpenBook(filepath.Join(n.dir, "peers.json"))
	require.NoError(t, err)
	n.ep, err = alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	n.Handler = &Handler{Book: n.book, Dir: n.dir, Head: n.ep.ID(), Addrs: func() []string { return []string{n.ep.Addr().HostPort} }}
	router := &alknet.Router{Authenticate: n.book.Authenticate}
	require.NoError(t, router.Register(Service(n.Handler)))
	served := make(chan error, 1)
	go func() { served <- router.Serve(n.ep) }()
	t.Cleanup(func() {
		_ = router.Close()
		<-served
		_ = n.ep.Close()
		require.NoError(t, n.book.Close())
	})
	return n
}

func joiner(t *testing.T) *alknet.Endpoint {
	t.Helper()
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ep.Close() })
	return ep
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	e, ok := errors.AsType[*call.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, code, e.Code, "%v", err)
}

// TestInviteAndJoin with nothing but the printed ticket.
func TestInviteAndJoin(t *testing.T) {
	n := newNode(t)
	var joined []peer.Peer
	n.OnJoin = func(p peer.Peer) { joined = append(joined, p) }
	ticket, err := n.Invite(Invite{Peer: peer.Peer{
		ID: "worker-3", Scopes: []string{"x:y"}, Import: []string{"container/*"}, Labels: map[string]string{"gpu": "a100"},
	}})
	require.NoError(t, err)
	read, err := ParseTicket(ticket.String() + "\n")
	require.NoError(t, err)
	require.Equal(t, ticket, read)
	raw, err := os.ReadFile(filepath.Join(n.dir, invitesName))
	require.NoError(t, err)
	require.NotContains(t, string(raw), ticket.Secret, "only its hash is kept")

	me := joiner(t)
	got, err := Join(t.Context(), me, read, Joining{Name: "Worker 3", Addrs: []string{"10.0.0.3:4433"}, Labels: map[string]string{"gpu": "fake", "zone": "eu"}})
	require.NoError(t, err)
	require.Equal(t, "worker-3", got.ID)
	require.Equal(t, []string{"x:y"}, got.Scopes)
	require.Equal(t, []peer.Key{{ID: n.ep.ID()}}, got.Head.Keys)
	require.Equal(t, n.ep.Addr().HostPort, got.Head.Addrs[0].HostPort)
	p, ok := n.book.Get("worker-3")
	require.True(t, ok)
	require.Equal(t, []peer.Key{{ID: me.ID()}}, p.Keys)
	require.Equal(t, map[string]string{"gpu": "a100", "zone": "eu"}, p.Labels, "the invite's labels win")
	require.Equal(t, "10.0.0.3:4433", p.Addrs[0].HostPort)
	require.Len(t, joined, 1)

	again, err := Join(t.Context(), me, read, Joining{Name: "Worker 3"})
	require.NoError(t, err, "the same key with the same secret gets the same answer")
	require.Equal(t, got, again)
	_, err = Join(t.Context(), joiner(t), read, Joining{})
	wantCode(t, err, codes.Forbidden)
	require.Len(t, n.book.Peers(), 1)

	require.NoError(t, n.book.Update(func(m map[string]peer.Peer) error { delete(m, "worker-3"); return nil }))
	_, err = Join(t.Context(), me, read, Joining{})
	wantCode(t, err, codes.Forbidden)
	require.Empty(t, n.book.Peers(), "who was removed does not come back with a used ticket")
}

// TestWrongUsedAndExpiredAreOne answer.
func TestWrongUsedAndExpiredAreOne(t *testing.T) {
	n := newNode(t)
	used, err := n.Invite(Invite{Peer: peer.Peer{ID: "a"}})
	require.NoError(t, err)
	_, err = Join(t.Context(), joiner(t), used, Joining{})
	require.NoError(t, err)
	old, err := n.Invite(Invite{Peer: peer.Peer{ID: "b"}, TTL: time.Minute})
	require.NoError(t, err)
	wrong := old
	wrong.Secret = newSecret()
	n.clock = func() time.Time { return time.Now().Add(2 * time.Minute) }
	var texts []string
	for _, ticket := range []Ticket{used, old, wrong} {
		_, err := Join(t.Context(), joiner(t), ticket, Joining{})
		wantCode(t, err, codes.Forbidden)
		texts = append(texts, err.Error())
	}
	require.Equal(t, texts[0], texts[1])
	require.Equal(t, texts[0], texts[2])
	require.Len(t, n.book.Peers(), 1)
}

// TestTicketPinsTheHead: another key that answers at its address gets nothing.
func TestTicketPinsTheHead(t *testing.T) {
	n, mallory := newNode(t), newNode(t)
	ticket, err := n.Invite(Invite{Peer: peer.Peer{ID: "a"}})
	require.NoError(t, err)
	ticket.Addrs = []string{mallory.ep.Addr().HostPort}
	_, err = Join(t.Context(), joiner(t), ticket, Joining{})
	e, ok := errors.AsType[*alknet.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, alknet.CodeUnauthenticated, e.Code)
}

// TestGuessing is slow, and who guesses does not keep others out.
func TestGuessing(t *testing.T) {
	n := newNode(t)
	ticket, err := n.Invite(Invite{Peer: peer.Peer{ID: "a"}})
	require.NoError(t, err)
	ep := joiner(t)
	refused := 0
	for range 20 {
		guess := ticket
		guess.Secret = newSecret()
		_, err := Join(t.Context(), ep, guess, Joining{})
		e, ok := errors.AsType[*call.Error](err)
		require.True(t, ok, "%v", err)
		if e.Code == codes.ResourceExhausted {
			refused++
			require.NotZero(t, e.RetryAfter)
		}
	}
	require.Equal(t, 20-maxGuessesPlace, refused)
	n.clock = func() time.Time { return time.Now().Add(2 * guessTime) }
	_, err = Join(t.Context(), ep, ticket, Joining{})
	require.NoError(t, err, "a minute later")

	h := &Handler{}
	h.serves()
	for i := range 2 * maxGuessesAll { // from everywhere
		at := place(&net.UDPAddr{IP: net.IPv4(10, 0, byte(i), 1), Port: i})
		if h.mayGuess(at) == nil {
			h.guessed(at)
		}
	}
	require.Equal(t, maxGuessesAll, h.guesses.all)
	require.Equal(t, place(&net.UDPAddr{IP: net.ParseIP("2001:db8:1:2::1")}), place(&net.UDPAddr{IP: net.ParseIP("2001:db8:1:3::9"), Port: 5}), "one /56")
}

// TestUses: exactly as many as the invite says, whoever is first.
func TestUses(t *testing.T) {
	n := newNode(t)
	ticket, err := n.Invite(Invite{Peer: peer.Peer{ID: "w"}, Uses: 3})
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for range 5 {
		ep := joiner(t)
		wg.Go(func() {
			j, err := Join(t.Context(), ep, ticket, Joining{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ids[j.ID] = true
			}
		})
	}
	wg.Wait()
	require.Equal(t, map[string]bool{"w": true, "w-2": true, "w-3": true}, ids)
	require.Len(t, n.book.Peers(), 3)
}

// TestOneTimeInviteHasOneWinner: of many who use a ticket at the same time, at two
// processes of the head, exactly one becomes what it says.
func TestOneTimeInviteHasOneWinner(t *testing.T) {
	dir := t.TempDir()
	var heads []*Handler
	for range 2 {
		book, err := peer.OpenBook(filepath.Join(dir, "peers.json"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, book.Close()) })
		heads = append(heads, &Handler{Book: book, Dir: dir, Head: key(t), Addrs: func() []string { return []string{"127.0.0.1:1"} }})
	}
	for round := range 10 {
		id := fmt.Sprintf("w%d", round)
		ticket, err := heads[round%2].Invite(Invite{Peer: peer.Peer{ID: id}})
		require.NoError(t, err)
		var wg sync.WaitGroup
		var won atomic.Int32
		var winner atomic.Value
		for i := range 6 {
			who := key(t)
			wg.Go(func() {
				p, err := heads[i%2].admit(hashOf(ticket.Secret), who, &joinInput{Secret: ticket.Secret})
				if err == nil && p.ID == id {
					won.Add(1)
					winner.Store(who)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
		for _, h := range heads {
			require.NoError(t, h.Book.Reload())
			p, ok := h.Book.Get(id)
			require.True(t, ok)
			require.Equal(t, []peer.Key{{ID: winner.Load().(alknet.PeerID)}}, p.Keys)
		}
	}
}

// key is the public half of a fresh key.
func key(t *testing.T) alknet.PeerID {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return alknet.PeerID(pub)
}

// TestConfirm: the join waits until the code that both ends show is approved.
func TestConfirm(t *testing.T) {
	n := newNode(t)
	ticket, err := n.Invite(Invite{Peer: peer.Peer{ID: "a"}, Confirm: true})
	require.NoError(t, err)
	code := make(chan string, 1)
	done := make(chan error, 1)
	ep := joiner(t)
	go func() {
		_, err := Join(t.Context(), ep, ticket, Joining{Name: "me", OnCode: func(c string) { code <- c }})
		done <- err
	}()
	shown := <-code
	require.Len(t, shown, 8)
	pending := n.Pending()
	require.Len(t, pending, 1)
	require.Equal(t, shown, pending[0].Code)
	require.Equal(t, "me", pending[0].Name)
	require.Equal(t, ep.ID(), pending[0].Key)
	require.Empty(t, n.book.Peers(), "not before it is approved")
	require.Error(t, n.Approve("00000000x"))
	require.NoError(t, n.Approve(shown))
	require.NoError(t, <-done)
	require.Len(t, n.book.Peers(), 1)
	require.Error(t, n.Approve(shown), "once")

	other, err := n.Invite(Invite{Peer: peer.Peer{ID: "b"}, Confirm: true})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = Join(ctx, joiner(t), other, Joining{})
	require.Error(t, err)
	require.Eventually(t, func() bool { return len(n.Pending()) == 0 }, 5*time.Second, time.Millisecond, "who left does not wait")
	require.Len(t, n.book.Peers(), 1)
}

// TestInviteIsRefused where it could not work.
func TestInviteIsRefused(t *testing.T) {
	n := newNode(t)
	for name, i := range map[string]Invite{
		"reserved id":    {Peer: peer.Peer{ID: "local"}},
		"bad scope":      {Peer: peer.Peer{ID: "a", Scopes: []string{"with blank"}}},
		"too long":       {Peer: peer.Peer{ID: "a"}, TTL: 31 * 24 * time.Hour},
		"too many":       {Peer: peer.Peer{ID: "a"}, Uses: 1001},
		"keys it brings": {Peer: peer.Peer{ID: "a", Keys: []peer.Key{{ID: n.ep.ID()}}}},
	} {
		_, err := n.Invite(i)
		require.Error(t, err, name)
	}
	n.Addrs = nil
	_, err := n.Invite(Invite{Peer: peer.Peer{ID: "a"}})
	require.Error(t, err)
}

// TestSucceedAtTheDoor: a node that has switched keys already hands its statement
// over as a stranger; the statement proves itself.
func TestSucceedAtTheDoor(t *testing.T) {
	n := newNode(t)
	_, oldKey, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, newKey, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	old := alknet.PeerID(oldKey.Public().(ed25519.PublicKey))
	require.NoError(t, n.book.Update(func(m map[string]peer.Peer) error {
		m["a"] = peer.Peer{ID: "a", Keys: []peer.Key{{ID: old}}}
		return nil
	}))
	statement, err := peer.SignSuccessor(oldKey, newKey, time.Hour)
	require.NoError(t, err)
	stranger := joiner(t)
	submit := func(s string) error {
		to := n.ep.Addr()
		to.Over = alknet.QUIC | alknet.Raw
		conn, err := stranger.Dial(t.Context(), to, ALPN)
		require.NoError(t, err)
		return SubmitSuccessor(t.Context(), conn, s)
	}
	wantCode(t, submit(statement[:len(statement)-4]+"AAAA"), codes.Forbidden)
	require.NoError(t, submit(statement))
	p, _ := n.book.Get("a")
	require.Len(t, p.Keys, 2)
}

// TestJoinWithoutAKey is refused on every transport that has one stream or many.
func TestJoinWithoutAKey(t *testing.T) {
	n := newNode(t)
	ticket, err := n.Invite(Invite{Peer: peer.Peer{ID: "a"}})
	require.NoError(t, err)
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		anonymous, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Anonymous: true})
		require.NoError(t, err)
		conn, err := anonymous.Dial(t.Context(), alknet.Addr{HostPort: ticket.Addrs[0], Peer: ticket.Head, Over: over}, ALPN)
		require.NoError(t, err)
		_, err = JoinConn(t.Context(), conn, ticket, Joining{})
		wantCode(t, err, codes.Forbidden)
		require.NoError(t, anonymous.Close())
	}
	client, server := alknet.Pipe(ALPN, alknet.Identity{}, alknet.Identity{})
	done := make(chan error, 1)
	go func() { done <- n.ServeConn(t.Context(), server); _ = server.Close() }()
	_, err = JoinConn(t.Context(), client, ticket, Joining{})
	wantCode(t, err, codes.Forbidden)
	require.NoError(t, <-done)
}

func TestParseTicketRefuses(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	good := Ticket{Head: alknet.PeerID(key.Public().(ed25519.PublicKey)), Addrs: []string{"h:1", "[::1]:2"}, Secret: newSecret()}
	got, err := ParseTicket(good.String())
	require.NoError(t, err)
	require.Equal(t, good, got)
	s := good.String()
	for _, bad := range []string{
		"", "http" + s[6:], strings.Replace(s, "@h:1", "@", 1), strings.Replace(s, "h:1,", "h,", 1), s + "A", s[:len(s)-1], strings.ToUpper(s),
		strings.Replace(s, "/?join=", "/?token=", 1), strings.Replace(s, "h:1", "x@h:1", 1), s + "&x=1", fmt.Sprintf("alknet://%s@%s/?join=%s", good.Head, strings.Repeat("h:1,", 17), good.Secret),
	} {
		_, err := ParseTicket(bad)
		require.ErrorIs(t, err, errTicket, "%q", bad)
	}
}
