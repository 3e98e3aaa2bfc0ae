package ssh

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// writesOf records the writes of a connection.
type writesOf struct {
	net.Conn
	mu   sync.Mutex
	list [][]byte // guarded by mu
	err  error    // guarded by mu
}

// take returns what was written since it was called last; then writes fail with err.
func (w *writesOf) take(err error) [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list, w.err = nil, err
	return list
}

func (w *writesOf) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.list = append(w.list, bytes.Clone(b))
	return len(b), nil
}

// The two parts of a packet are one write; a packet that is only as long as the
// first part is written too, after a moment; an error of that is not lost.
func TestPartsOfAPacketAreOneWrite(t *testing.T) { synctest.Test(t, testPartsOfAPacketAreOneWrite) }
func testPartsOfAPacketAreOneWrite(t *testing.T) {
	first, rest, small := bytes.Repeat([]byte("1"), libraryBuffer), bytes.Repeat([]byte("2"), 28<<10), []byte("3")
	conn := &writesOf{}
	var w wholeWrites
	write := func(b []byte) {
		t.Helper()
		n, err := w.write(conn, b)
		require.NoError(t, err)
		require.Equal(t, len(b), n)
	}
	for _, b := range [][]byte{small, first, rest, first, first, rest, small} {
		write(b)
	}
	require.Equal(t, [][]byte{small, append(bytes.Clone(first), rest...), append(bytes.Clone(first), first...), rest, small}, conn.take(nil))
	write(first)
	require.Empty(t, conn.take(nil))
	time.Sleep(holdTime)
	synctest.Wait()
	require.Equal(t, [][]byte{first}, conn.take(nil))
	write(small)
	conn.take(io.ErrClosedPipe)
	write(first)
	time.Sleep(holdTime)
	synctest.Wait()
	_, err := w.write(conn, small)
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// On TCP too, whatever the sizes and when it is closed: what is read is what was
// written.
func TestWholeWritesLoseNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	got := make(chan []byte, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		b, _ := io.ReadAll(nc)
		got <- b
	}()
	c := &loginConn{Conn: nc}
	var want []byte
	for i, size := range []int{1, libraryBuffer, 28 << 10, libraryBuffer, libraryBuffer, 5, libraryBuffer} {
		b := bytes.Repeat([]byte{byte(i)}, size)
		n, err := c.Write(b)
		require.NoError(t, err)
		require.Equal(t, size, n)
		want = append(want, b...)
	}
	require.NoError(t, c.Close())
	require.True(t, bytes.Equal(want, <-got))
}
