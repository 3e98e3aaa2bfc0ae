package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-yamux/v5"
	"github.com/stretchr/testify/require"
)

// pair is a session over a loopback connection.
func pair(t testing.TB, client, server Config) (*Session, *Session) {
	a, b := tcpPair(t)
	s, err := Server(b, server)
	require.NoError(t, err)
	c, err := Client(a, client)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Close(0, "")
		_ = s.Close(0, "")
	})
	return c, s
}

func tcpPair(t testing.TB) (a, b net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	b, err = ln.Accept()
	require.NoError(t, err)
	return a, b
}

// A connection that ends without a word, as that of a process that is killed does,
// is no end of what its streams had to say; a stream that was ended before is.
func TestLostConnectionEndsNoStream(t *testing.T) {
	a, b := tcpPair(t)
	s, err := Server(b, Config{MaxStreams: 2})
	require.NoError(t, err)
	defer s.Close(0, "")
	c, err := Client(a, Config{})
	require.NoError(t, err)
	defer c.Close(0, "")
	var cut, whole *Stream
	for _, st := range []**Stream{&cut, &whole} {
		opened, err := c.Open(t.Context())
		require.NoError(t, err)
		_, err = opened.Write([]byte("x"))
		require.NoError(t, err)
		*st, err = s.Accept(t.Context())
		require.NoError(t, err)
		_, err = io.ReadFull(*st, make([]byte, 1))
		require.NoError(t, err)
		if st == &whole {
			require.NoError(t, opened.CloseWrite())
			_, err = (*st).Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		}
	}
	require.NoError(t, a.(*net.TCPConn).CloseWrite())
	_, err = cut.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
	<-s.Done()
	require.NotErrorIs(t, s.Err(), io.EOF)
	_, err = whole.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "what was whole stays so")
}

func TestOpenWaitsForTheOtherEndsLimit(t *testing.T) {
	c, s := pair(t, Config{}, Config{MaxStreams: 2})
	var opened []*Stream
	for range 2 {
		st, err := c.Open(t.Context())
		require.NoError(t, err)
		opened = append(opened, st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Open(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for range 2 {
		st, err := s.Accept(t.Context())
		require.NoError(t, err)
		require.NoError(t, st.Close()) // the accepting end frees the place
	}
	_ = opened[0].Close()
	_, err = c.Open(t.Context())
	require.NoError(t, err)
}

func TestMaxBytesLowersTheStreams(t *testing.T) {
	require.Equal(t, 3, Config{MaxStreams: 100, MaxBytes: 1 << 20}.maxStreams())
	require.Equal(t, 1, Config{MaxStreams: 100, MaxBytes: 1}.maxStreams())
	require.Equal(t, 2, Config{MaxStreams: 2, MaxBytes: 1 << 30}.maxStreams())
	require.Equal(t, 1, Config{}.maxStreams())
}

type account struct {
	mu        sync.Mutex
	used, max int64
}

func (a *account) Reserve(n int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used+n > a.max {
		return errors.New("no more")
	}
	a.used += n
	return nil
}

func (a *account) Release(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used -= n
}

func (a *account) now() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

func TestMemoryIsReservedAndGivenBack(t *testing.T) {
	a := &account{max: 64 << 20}
	c, s := pair(t, Config{}, Config{MaxStreams: 10, MaxBytes: 64 << 20, Memory: a})
	for range 5 {
		st, err := c.Open(t.Context())
		require.NoError(t, err)
		go func() {
			_, _ = io.CopyN(st, zeros{}, 8<<20)
			_ = st.CloseWrite()
		}()
		in, err := s.Accept(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, a.now(), int64(window))
		n, err := io.Copy(io.Discard, in)
		require.NoError(t, err)
		require.EqualValues(t, 8<<20, n)
		require.NoError(t, in.Close())
		require.NoError(t, st.Close())
	}
	require.NoError(t, c.Close(0, ""))
	require.NoError(t, s.Close(0, ""))
	require.Eventually(t, func() bool { return a.now() == 0 }, 10*time.Second, time.Millisecond, "yamux gives it back a moment after the end")
}

// yamux would double a window whose updates follow each other within four round
// trips, lose credit in doing so, and at some size wait for ever. A slow round
// trip before a fast transfer made that certain.
func TestStreamDoesNotStallAfterASlowRoundTrip(t *testing.T) {
	a, b := tcpPair(t)
	slow := &slowStart{Conn: a, until: time.Now().Add(100 * time.Millisecond)}
	s, err := Server(b, Config{MaxStreams: 10})
	require.NoError(t, err)
	c, err := Client(slow, Config{MaxStreams: 10})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.RTT() > 10*time.Millisecond }, 10*time.Second, time.Millisecond)
	st, err := c.Open(t.Context())
	require.NoError(t, err)
	go func() {
		_, _ = io.CopyN(st, zeros{}, 64<<20)
		_ = st.CloseWrite()
	}()
	in, err := s.Accept(t.Context())
	require.NoError(t, err)
	require.NoError(t, in.SetReadDeadline(time.Now().Add(30*time.Second)))
	n, err := io.Copy(io.Discard, in)
	require.NoError(t, err)
	require.EqualValues(t, 64<<20, n)
	_ = c.Close(0, "")
	_ = s.Close(0, "")
}

// A slowStart holds back what is written before a moment.
type slowStart struct {
	net.Conn
	until time.Time
}

func (c *slowStart) Write(b []byte) (int, error) {
	timer := time.NewTimer(time.Until(c.until))
	defer timer.Stop()
	<-timer.C
	return c.Conn.Write(b)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestMemoryThatIsRefusedEndsTheSession(t *testing.T) {
	c, s := pair(t, Config{}, Config{MaxStreams: 10, Memory: &account{max: window}}) // the control stream takes it
	_, _ = c.Open(t.Context())
	<-s.Done()
	require.Error(t, s.Err())
	<-c.Done()
}

// A peer that is not of our kind: plain yamux without a control stream's
// messages, or with wrong ones.
func TestHostilePeers(t *testing.T) {
	for name, act := range map[string]func(t *testing.T, ys *yamux.Session, control *yamux.Stream){
		"malformed control": func(t *testing.T, _ *yamux.Session, control *yamux.Stream) {
			_, err := control.Write([]byte{99})
			require.NoError(t, err)
		},
		"control ends": func(t *testing.T, _ *yamux.Session, control *yamux.Stream) {
			require.NoError(t, control.CloseWrite())
		},
		"control is reset": func(t *testing.T, _ *yamux.Session, control *yamux.Stream) {
			require.NoError(t, control.Reset())
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			s, err := Server(b, Config{MaxStreams: 4})
			require.NoError(t, err)
			conf := yamux.DefaultConfig()
			conf.LogOutput = io.Discard
			ys, err := yamux.Client(a, conf, nil)
			require.NoError(t, err)
			control, err := ys.OpenStream(t.Context())
			require.NoError(t, err)
			act(t, ys, control)
			select {
			case <-s.Done():
			case <-time.After(15 * time.Second):
				require.Fail(t, "the session goes on")
			}
			require.NoError(t, ys.Close())
			_ = s.Close(0, "")
		})
	}
}

// More streams than were granted are reset, not queued without end.
func TestStreamsBeyondTheGrantAreReset(t *testing.T) {
	a, b := tcpPair(t)
	s, err := Server(b, Config{MaxStreams: 4})
	require.NoError(t, err)
	conf := yamux.DefaultConfig()
	conf.LogOutput = io.Discard
	ys, err := yamux.Client(a, conf, nil)
	require.NoError(t, err)
	_, err = ys.OpenStream(t.Context()) // control
	require.NoError(t, err)
	resets := 0
	for range 50 {
		st, err := ys.OpenStream(t.Context())
		require.NoError(t, err)
		_ = st.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := st.Read(make([]byte, 1)); errors.Is(err, yamux.ErrStreamReset) {
			resets++
		}
	}
	require.Equal(t, 46, resets)
	require.NoError(t, ys.Close())
	_ = s.Close(0, "")
}

func TestWhatAStopSaysIsKeptForALateStream(t *testing.T) {
	c, s := pair(t, Config{}, Config{MaxStreams: 4})
	s.handleStop(message{kind: msgReset, stream: 3, n: 1 << 40})
	st, err := c.Open(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, st.ys.StreamID())
	in, err := s.Accept(t.Context())
	require.NoError(t, err)
	_, err = in.Write([]byte("x"))
	require.ErrorAs(t, err, new(*StreamError))
	called := make(chan struct{})
	in.OnAbort(func() { close(called) })
	<-called
	for id := uint32(101); id < 1000; id += 2 {
		s.handleStop(message{kind: msgStop, stream: id})
	}
	require.LessOrEqual(t, len(s.early), 6, "what is said of streams to come is bounded")
}

func TestDeadlinesOfAStoppedStream(t *testing.T) {
	c, s := pair(t, Config{}, Config{MaxStreams: 4})
	st, err := c.Open(t.Context())
	require.NoError(t, err)
	in, err := s.Accept(t.Context())
	require.NoError(t, err)
	require.NoError(t, in.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = in.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, in.Close())
	require.Eventually(t, func() bool {
		_ = st.SetDeadline(time.Time{}) // does not bring a stopped writer back
		_, err := st.Write([]byte("x"))
		return err != nil
	}, 10*time.Second, time.Millisecond)
}

func TestKeepAliveNoticesADeadPeer(t *testing.T) {
	a, b := net.Pipe() // nobody reads b
	defer b.Close()
	go func() { _, _ = io.ReadFull(b, make([]byte, 24)) }() // the stream and the first ping
	c, err := Client(a, Config{KeepAlive: 10 * time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, b.SetDeadline(time.Now().Add(time.Hour)))
	_ = c.Close(0, "")
	<-c.Done()
}
