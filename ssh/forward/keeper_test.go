package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

// A fakeLink is a link to this machine, which can be cut and refuse.
type fakeLink struct {
	mu      sync.Mutex
	open    []io.Closer // guarded by mu
	donc    chan struct{}
	once    sync.Once
	listens *[]string // addresses that were asked for
	refuse  error
}

func (l *fakeLink) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		l.mu.Lock()
		l.open = append(l.open, nc)
		l.mu.Unlock()
	}
	return nc, err
}

func (l *fakeLink) Listen(_ context.Context, network, address string) (net.Listener, error) {
	if l.listens != nil {
		*l.listens = append(*l.listens, address)
	}
	if l.refuse != nil {
		return nil, l.refuse
	}
	nl, err := net.Listen(network, address)
	if err == nil {
		l.mu.Lock()
		l.open = append(l.open, nl)
		l.mu.Unlock()
	}
	return nl, err
}

func (l *fakeLink) Done() <-chan struct{} { return l.donc }

func (l *fakeLink) Close() error {
	l.once.Do(func() { close(l.donc) })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		_ = c.Close()
	}
	return nil
}

func TestKeeperBacksOff(t *testing.T) { synctest.Test(t, testKeeperBacksOff) }
func testKeeperBacksOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun := time.Now()
	var at []time.Duration
	k := &Keeper{Connect: func(context.Context) (Link, error) {
		if at = append(at, time.Since(begun)); len(at) == 9 {
			cancel()
		}
		return nil, errors.New("down")
	}}
	require.ErrorIs(t, k.Run(ctx), context.Canceled)
	for i := 1; i < len(at); i++ {
		want := min(time.Second<<(i-1), 30*time.Second)
		require.InDelta(t, want.Seconds(), (at[i] - at[i-1]).Seconds(), want.Seconds()/5+0.001, "pause %d", i)
	}
}

func TestKeeperRetriesARefusedForward(t *testing.T) {
	synctest.Test(t, testKeeperRetriesARefusedForward)
}
func testKeeperRetriesARefusedForward(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var asked []string
	var reported []error
	link := &fakeLink{donc: make(chan struct{}), listens: &asked, refuse: errors.New("refused")}
	k := &Keeper{
		Connect:  func(context.Context) (Link, error) { return link, nil },
		Forwards: []Forward{{Remote: true, Network: "tcp", Listen: "127.0.0.1:0", TargetNetwork: "tcp", Target: "127.0.0.1:1"}},
		OnState:  func(up bool, err error) { reported = append(reported, err) }, MaxBackoff: 30 * time.Second,
	}
	time.AfterFunc(65*time.Second, cancel)
	require.ErrorIs(t, k.Run(ctx), context.Canceled)
	require.Len(t, asked, 3)
	require.Len(t, reported, 4, "up, and three refusals")
}

func TestKeeperKeepsThePortAndWaitsForTheLink(t *testing.T) {
	target := testenv.Echo(t, "tcp", "127.0.0.1:0")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	local := free.Addr().String()
	require.NoError(t, free.Close())
	var mu sync.Mutex
	var asked []string
	var links []*fakeLink
	up := make(chan struct{}, 10)
	k := &Keeper{
		Connect: func(context.Context) (Link, error) {
			mu.Lock()
			defer mu.Unlock()
			l := &fakeLink{donc: make(chan struct{}), listens: &asked}
			links = append(links, l)
			return l, nil
		},
		Forwards: []Forward{
			{Remote: true, Network: "tcp", Listen: "127.0.0.1:0", TargetNetwork: "tcp", Target: target.String()},
			{Network: "tcp", Listen: local, TargetNetwork: "tcp", Target: target.String()},
		},
		OnState: func(isUp bool, err error) {
			if isUp && err == nil {
				up <- struct{}{}
			}
		},
		MaxBackoff: 10 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	for range 20 {
		<-up
		nc, err := net.Dial("tcp", local)
		require.NoError(t, err)
		_, err = nc.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(nc, make([]byte, 1))
		require.NoError(t, err)
		_ = nc.Close()
		mu.Lock()
		_ = links[len(links)-1].Close()
		mu.Unlock()
	}
	<-up
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, "127.0.0.1:0", asked[0])
	for _, a := range asked[1:] {
		require.NotEqual(t, "127.0.0.1:0", a, "a port that was 0 keeps its number")
		require.Equal(t, asked[1], a)
	}
}

func TestKeeperLinkWaits(t *testing.T) {
	k := &Keeper{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := k.Link(ctx)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, CodeNetUnreachable, e.Code)
	k2 := &Keeper{Forwards: []Forward{{Network: "tcp", Listen: "256.0.0.1:1"}}}
	require.Error(t, k2.Run(t.Context()), "a local forward that can not be bound")
}
