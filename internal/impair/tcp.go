package impair

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

const (
	pieceBytes = 16 << 10
	maxPieces  = 64 // of one direction of a connection under way; then the sender has to wait
)

// TCP starts a relay to the TCP server at target, which is closed with t. A
// stream has no packets to lose, so of the profile a loss is a pause of 200 ms,
// in which nothing overtakes; a black hole, or a Loss of 1, holds the bytes until
// it is over; Corrupt flips a bit in a piece of up to 16 KiB; Reorder, Duplicate,
// MaxQueue and Rebind do nothing. The end of a stream and a half-close are passed
// on in their turn, a reset at once.
func TCP(t testing.TB, target string, p Profile) *Relay {
	t.Helper()
	r := newRelay(t, p)
	front, err := net.Listen("tcp", listenAddr)
	if err != nil {
		t.Fatalf("impair: %v", err)
	}
	r.addr, r.front = front.Addr(), front
	safe.Go(&r.wg, r.fail, func() { r.accept(front, target) })
	t.Cleanup(r.Close)
	return r
}

// accept connects each client with the server.
func (r *Relay) accept(front net.Listener, target string) {
	for {
		client, err := front.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.fail(err)
			return
		}
		safe.Go(&r.wg, r.fail, func() { r.join(client.(*net.TCPConn), target) })
	}
}

// join serves one connection until both directions have ended.
func (r *Relay) join(client *net.TCPConn, target string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	abort := func() {
		cancel()
		_ = client.SetLinger(0) // a reset
		_ = client.Close()
	}
	remove := r.closers.add(abort)
	defer remove()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		abort()
		return
	}
	server := conn.(*net.TCPConn)
	cut := func() {
		abort()
		_ = server.SetLinger(0)
		_ = server.Close()
	}
	defer r.closers.add(cut)()
	defer client.Close()
	defer server.Close()
	donec := make(chan struct{}, 1)
	safe.Go(&r.wg, r.fail, func() {
		defer func() { donec <- struct{}{} }()
		r.carry(ctx, stream{r.toClient, server, client, cut})
	})
	r.carry(ctx, stream{r.toServer, client, server, cut})
	<-donec
}

// A stream is one direction of a connection.
type stream struct {
	lane     *lane
	from, to *net.TCPConn
	cut      func() // resets both ends
}

// A piece is a part of a stream under way; an empty one is its end.
type piece struct {
	due  time.Time
	data []byte
}

// carry moves a stream until its end, or until something fails.
func (r *Relay) carry(ctx context.Context, s stream) {
	pieces := make(chan piece, maxPieces)
	readc := make(chan struct{})
	safe.Go(&r.wg, r.fail, func() {
		defer close(readc)
		defer close(pieces)
		if err := read(ctx, s, pieces); err != nil {
			s.cut()
		}
	})
	for p := range pieces {
		if !r.open(ctx) || !waitUntil(ctx, p.due) {
			s.cut()
			break
		}
		if err := write(s.to, p.data); err != nil {
			s.cut()
			break
		}
	}
	for range pieces { // until the reader has seen that it is over
	}
	<-readc
}

// write passes on a piece.
func write(to *net.TCPConn, data []byte) error {
	if len(data) == 0 {
		return to.CloseWrite()
	}
	_, err := to.Write(data)
	return err
}

// read sends the pieces of a stream and its end.
func read(ctx context.Context, s stream, pieces chan<- piece) error {
	for {
		buf := make([]byte, pieceBytes)
		n, err := s.from.Read(buf)
		if n == 0 && !errors.Is(err, io.EOF) {
			return err
		}
		fate := s.lane.piece(time.Now(), n)
		flip(buf[:n], fate.flip)
		select {
		case pieces <- piece{fate.due[0], buf[:n]}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if n == 0 {
			return nil
		}
	}
}

// open waits while everything is lost; false is that the connection ended first.
func (r *Relay) open(ctx context.Context) bool {
	for {
		p, changedc := r.current()
		if p.Loss < 1 {
			return ctx.Err() == nil
		}
		select {
		case <-changedc:
		case <-ctx.Done():
			return false
		}
	}
}

// waitUntil waits for a moment; false is that the connection ended first.
func waitUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
