package forward

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// tcpPair is the two ends of a connection on loopback.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err = l.Accept()
	require.NoError(t, err)
	return a, b
}

// Each side writes and ends its direction when it likes; all of it arrives.
func TestSpliceHalfCloses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sizes := [2]int{rapid.IntRange(0, 300_000).Draw(rt, "there"), rapid.IntRange(0, 300_000).Draw(rt, "back")}
		first := rapid.Bool().Draw(rt, "first")
		left, a := tcpPair(t)
		b, right := tcpPair(t)
		type result struct {
			n, m int64
			err  error
		}
		done := make(chan result, 1)
		go func() {
			n, m, err := Splice(context.Background(), a, b)
			done <- result{n, m, err}
		}()
		data := [2][]byte{make([]byte, sizes[0]), make([]byte, sizes[1])}
		for _, d := range data {
			_, _ = rand.Read(d)
		}
		ends := []net.Conn{left, right}
		wrote := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		for i, c := range ends {
			go func() {
				defer close(wrote[i])
				if (i == 0) != first { // this one waits for the other's end
					<-wrote[1-i]
				}
				_, _ = c.Write(data[i])
				_ = c.(*net.TCPConn).CloseWrite()
			}()
		}
		got := [2][]byte{}
		errs := make(chan error, 2)
		for i, c := range ends {
			go func() {
				var err error
				got[i], err = io.ReadAll(c)
				errs <- err
			}()
		}
		require.NoError(t, errors.Join(<-errs, <-errs))
		r := <-done
		require.NoError(t, r.err)
		require.Equal(t, [2]int64{int64(sizes[0]), int64(sizes[1])}, [2]int64{r.n, r.m})
		require.True(t, bytes.Equal(data[0], got[1]) && bytes.Equal(data[1], got[0]))
		_ = left.Close()
		_ = right.Close()
	})
}

func TestSplicePassesAResetOn(t *testing.T) {
	left, a := tcpPair(t)
	b, right := tcpPair(t)
	done := make(chan error, 1)
	go func() { _, _, err := Splice(context.Background(), a, b); done <- err }()
	require.NoError(t, left.(*net.TCPConn).SetLinger(0))
	require.NoError(t, left.Close())
	_, err := io.ReadAll(right)
	require.Error(t, err, "a reset is no end")
	require.Error(t, <-done)
	_ = right.Close()
}

func TestSpliceEndsWithItsContext(t *testing.T) {
	left, a := tcpPair(t)
	b, right := tcpPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { _, _, err := Splice(ctx, a, b); done <- err }()
	cause := errors.New("why")
	cancel(cause)
	require.ErrorIs(t, <-done, cause)
	for _, c := range []net.Conn{left, right} {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := io.ReadAll(c)
		require.Error(t, err)
		_ = c.Close()
	}
}

func TestSpliceWithoutHalfClose(t *testing.T) {
	left, a := net.Pipe()
	b, right := net.Pipe()
	done := make(chan error, 1)
	go func() { _, _, err := Splice(t.Context(), a, b); done <- err }()
	go func() { _, _ = left.Write([]byte("hello")); _ = left.Close() }()
	text, err := io.ReadAll(right)
	require.NoError(t, err)
	require.Equal(t, "hello", string(text))
	_ = right.Close()
	<-done
}
