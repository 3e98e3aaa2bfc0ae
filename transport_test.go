package alknet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

func copyAll(w io.Writer, r io.Reader) (int64, error) { return io.Copy(w, r) }

func TestStreamsCarryBothWaysAndHalfClose(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c := connect(t, tc, echo)
		s := open(t, c)
		msg := bytes.Repeat([]byte("0123456789abcdef"), 20000) // more than one window
		go func() {
			_, _ = s.Write(msg)
			_ = s.CloseWrite()
		}()
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, msg, got)
		require.NoError(t, s.Close())
		require.GreaterOrEqual(t, c.Stats().BytesIn, int64(len(msg)))
	})
}

func TestServerOpensStreams(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		if tc.over == alknet.Raw {
			t.Skip("Raw has one stream, which the client opens: TestRawHasOneStream")
		}
		c := connect(t, tc, alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
			s, err := conn.OpenStream(ctx)
			if err != nil {
				return err
			}
			if _, err := s.Write([]byte("from the server")); err != nil {
				return err
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
			<-conn.Done()
			return nil
		}))
		s, err := c.AcceptStream(t.Context())
		require.NoError(t, err)
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, "from the server", string(got))
	})
}

func TestRawHasOneStream(t *testing.T) {
	c := connect(t, transportCase{"Raw", alknet.Raw}, echo)
	_ = open(t, c)
	_, err := c.OpenStream(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.AcceptStream(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Close())
	_, err = c.AcceptStream(t.Context())
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestResetCarriesItsCode(t *testing.T) {
	codes := []alknet.ErrorCode{0, 1, alknet.CodeRefused, 1 << 32, 1<<62 - 1}
	eachTransport(t, func(t *testing.T, tc transportCase) {
		started, got := make(chan struct{}, 1), make(chan error, 1)
		h := alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
			_, err := io.ReadFull(s, make([]byte, 1))
			started <- struct{}{}
			if err == nil {
				_, err = io.ReadAll(s)
			}
			got <- err
			return nil
		})
		c := connect(t, tc, h)
		for _, code := range codes {
			if tc.over == alknet.Raw && code != codes[0] {
				break // the one stream is spent
			}
			s := open(t, c)
			_, err := s.Write([]byte("x"))
			require.NoError(t, err)
			<-started
			s.Reset(code)
			var e *alknet.Error
			require.ErrorAs(t, <-got, &e)
			require.True(t, e.Remote)
			if tc.over != alknet.Raw {
				require.Equal(t, code, e.Code)
			}
		}
	})
}

// A handler that closes a stream it has not read to the end stops the writer
// rather than letting it wait for ever.
func TestCloseStopsThePeersWriter(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c := connect(t, tc, alknet.StreamFunc(func(context.Context, *alknet.Stream) error { return nil }))
		s := open(t, c)
		var err error
		for range 1 << 14 {
			if _, err = s.Write(make([]byte, 1<<12)); err != nil {
				break
			}
		}
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestStreamContextEndsWithTheStream(t *testing.T) {
	for name, end := range map[string]func(*alknet.Conn, *alknet.Stream){
		"reset":        func(_ *alknet.Conn, s *alknet.Stream) { s.Reset(7) },
		"stop reading": func(_ *alknet.Conn, s *alknet.Stream) { _ = s.Close() },
		"connection":   func(c *alknet.Conn, _ *alknet.Stream) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, tc transportCase) {
				started, ended := make(chan struct{}), make(chan struct{})
				c := connect(t, tc, alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
					close(started)
					if tc.over == alknet.Raw { // only a read or write notices the end there
						_, _ = io.Copy(io.Discard, s)
						_ = s.Close()
					}
					<-ctx.Done()
					close(ended)
					return nil
				}))
				s := open(t, c)
				_, err := s.Write([]byte("x"))
				require.NoError(t, err)
				<-started
				end(c, s)
				select {
				case <-ended:
				case <-time.After(15 * time.Second):
					require.Fail(t, "the handler's context did not end")
				}
			})
		})
	}
}

// A handler may end its own writing and go on reading under a live context.
func TestStreamContextSurvivesOwnCloseWrite(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		result := make(chan error, 1)
		c := connect(t, tc, alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
			err := s.CloseWrite()
			_, rerr := io.ReadAll(s)
			result <- errors.Join(err, rerr, ctx.Err())
			return nil
		}))
		s := open(t, c)
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadAll(s)
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		require.NoError(t, <-result)
	})
}

func TestDeadlines(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c := connect(t, tc, alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
			<-conn.Done() // reads nothing, writes nothing
			return nil
		}))
		s := open(t, c)
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, s.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		_, err = s.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, s.SetReadDeadline(time.Time{}))
		require.NoError(t, s.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		for err = nil; err == nil; {
			_, err = s.Write(make([]byte, 1<<16))
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestManyStreams(t *testing.T) {
	sequential, parallel := 10000, 500
	if testing.Short() {
		sequential = 1000
	}
	eachTransport(t, func(t *testing.T, tc transportCase) {
		if tc.over == alknet.Raw {
			t.Skip("Raw has one stream: TestRawHasOneStream")
		}
		c := connect(t, tc, echo)
		for i := range sequential {
			roundTrip(t, c, fmt.Sprint(i))
		}
		var wg sync.WaitGroup
		for i := range parallel {
			wg.Go(func() { roundTrip(t, c, fmt.Sprint(i)) })
		}
		wg.Wait()
		require.Zero(t, c.Stats().Streams)
	})
}

func roundTrip(t testing.TB, c *alknet.Conn, msg string) {
	s := open(t, c)
	_, err := s.Write([]byte(msg))
	require.NoError(t, err)
	require.NoError(t, s.CloseWrite())
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, msg, string(got))
	require.NoError(t, s.Close())
}

// One gibibyte each way must not need memory of its size.
func TestBulkHasBoundedMemory(t *testing.T) {
	size := int64(1 << 30) // one gibibyte
	if testing.Short() || raceEnabled {
		size = 64 << 20
	}
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c := connect(t, tc, echo)
		s, err := c.OpenStream(t.Context())
		require.NoError(t, err)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		sent := make(chan error, 1)
		go func() {
			_, err := io.CopyN(s, zeros{}, size)
			sent <- errors.Join(err, s.CloseWrite())
		}()
		got, err := io.Copy(io.Discard, s)
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.Equal(t, size, got)
		runtime.ReadMemStats(&after)
		require.Less(t, int64(after.HeapInuse)-int64(before.HeapInuse), int64(128<<20))
	})
}

// zeros is an endless source of zero bytes.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestAfterCloseEverythingIsClosed(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c := connect(t, tc, echo)
		s := open(t, c)
		_, err := s.Write([]byte("x"))
		require.NoError(t, err)
		reading := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(s)
			reading <- err
		}()
		require.NoError(t, c.CloseWithError(42, "enough"))
		wantDone(t, c, "we closed it")
		require.ErrorIs(t, <-reading, net.ErrClosed, "a read under way")
		_, err = s.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = s.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = c.OpenStream(t.Context())
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = c.AcceptStream(t.Context())
		require.ErrorIs(t, err, net.ErrClosed)
		require.NoError(t, c.Close(), "closing twice is no error")
	})
}

func TestCloseTellsCodeAndReason(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		c := connect(t, tc, alknet.HandlerFunc(func(_ context.Context, conn *alknet.Conn) error {
			return conn.CloseWithError(0x100, "as HTTP/3 does")
		}))
		wantRefused(t, c, 0x100, "the handler closed the connection itself")
		if tc.over != alknet.Raw {
			_, err := c.OpenStream(t.Context())
			var e *alknet.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "as HTTP/3 does", e.Reason)
		}
	})
}

func TestHandlersResultIsTheCode(t *testing.T) {
	for name, tt := range map[string]struct {
		result error
		code   alknet.ErrorCode
	}{
		"nil":         {nil, alknet.CodeOK},
		"an Error":    {fmt.Errorf("wrapped: %w", &alknet.Error{Code: 77, Reason: "why"}), 77},
		"other error": {errors.New("/etc/secret"), alknet.CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, tc transportCase) {
				c := connect(t, tc, alknet.HandlerFunc(func(context.Context, *alknet.Conn) error { return tt.result }))
				wantRefused(t, c, tt.code, "the handler returned")
			})
		})
	}
}

// What a closed connection cuts off does not look like the end of the data.
func TestCutStreamsDoNotLookWhole(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		for range 20 {
			h := alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
				streams, cancel := context.WithCancel(ctx)
				defer cancel()
				done := make(chan error, 1)
				go func() {
					done <- alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
						_, _ = s.Write([]byte("half of "))
						<-ctx.Done()
						return nil // and the stream is closed, under a closed connection
					}).ServeConn(streams, conn)
				}()
				<-time.After(time.Millisecond)
				_ = conn.CloseWithError(99, "")
				return <-done
			})
			c := connect(t, tc, h)
			s, err := c.OpenStream(t.Context())
			if err != nil {
				continue // the server was quicker
			}
			if _, err := s.Write([]byte("x")); err != nil {
				continue
			}
			got, err := io.ReadAll(s)
			require.Error(t, err, "%q looks whole", got)
		}
	})
}

// TestTryWriteNeverWaits: where the transport can tell, all of it or nothing.
func TestTryWriteNeverWaits(t *testing.T) {
	eachTransport(t, func(t *testing.T, tc transportCase) {
		read := make(chan struct{})
		c := connect(t, tc, alknet.HandlerFunc(func(ctx context.Context, conn *alknet.Conn) error {
			s, err := conn.AcceptStream(ctx)
			if err != nil {
				return err
			}
			<-read
			_, err = io.Copy(s, s)
			_ = s.CloseWrite()
			return err
		}))
		s := open(t, c)
		part := bytes.Repeat([]byte("0123456789abcdef"), 64)
		sent := 0
		for { // nobody reads: it ends by being refused, not by waiting
			ok, err := s.TryWrite(part)
			require.NoError(t, err)
			if !ok {
				break
			}
			sent += len(part)
			require.Less(t, sent, 64<<20)
		}
		switch tc.over {
		case alknet.Raw, alknet.Mux:
			require.Zero(t, sent)
		default:
			require.GreaterOrEqual(t, sent, 64<<10)
		}
		close(read)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.Write([]byte("end"))
			_ = s.CloseWrite()
		}()
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		<-done
		require.Len(t, got, sent+3)
		require.Equal(t, "end", string(got[sent:]), "in order")
	})
}
