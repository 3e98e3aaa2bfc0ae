package handlertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/alkdev/alknet"
)

// survivesHalfClosed: streams end in every way but the good one.
func survivesHalfClosed(n *node) error {
	ways := []struct {
		name string
		use  func(*alknet.Stream, time.Time)
	}{
		{"half closed after a byte", func(s *alknet.Stream, until time.Time) {
			_, _ = s.Write([]byte("x"))
			_ = s.CloseWrite()
			hear(s, until)
		}},
		{"half closed when empty", func(s *alknet.Stream, _ time.Time) { _ = s.CloseWrite() }},
		{"half closed twice, then reset", func(s *alknet.Stream, _ time.Time) {
			_ = errors.Join(s.CloseWrite(), s.CloseWrite())
			s.Reset(77)
		}},
		{"closed and not read", func(s *alknet.Stream, _ time.Time) {
			_, _ = s.Write(bytes.Repeat([]byte("x"), 64<<10))
			_ = s.Close()
		}},
		{"reset after a byte", func(s *alknet.Stream, _ time.Time) {
			_, _ = s.Write([]byte("x"))
			s.Reset(77)
		}},
		{"left open", func(s *alknet.Stream, _ time.Time) { _, _ = s.Write([]byte("x")) }},
	}
	for _, way := range ways { // what the streams say of it depends on the handler
		if err := n.streams(way.use); err != nil {
			return fmt.Errorf("a stream %s: %w", way.name, err)
		}
	}
	return n.healthy()
}

// survivesGarbage: bytes that mean nothing.
func survivesGarbage(n *node) error {
	random := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // the same in each run, and no error
	garbage := []string{
		string(random), strings.Repeat("\x00", 64<<10), strings.Repeat("\xff", 64<<10), strings.Repeat("A", 64<<10),
		"\r\n\r\n\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-x\r\n" + string(random[:4096]), "{\"a\":[[[[[[",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	}
	for _, g := range garbage {
		use := func(s *alknet.Stream, until time.Time) {
			n.goes(func() {
				_, _ = io.WriteString(s, g) // the handler may end it
				_ = s.CloseWrite()
			})
			hear(s, until)
		}
		if err := n.streams(use); err != nil {
			return fmt.Errorf("%d bytes of garbage, %.20q…: %w", len(g), g, err)
		}
	}
	return n.healthy()
}

// hear reads until the stream ends, or as long as the peer is patient.
func hear(s *alknet.Stream, until time.Time) {
	_ = s.SetDeadline(until)
	_, _ = io.Copy(io.Discard, s)
}

// streams uses three streams of a connection, or the one, and leaves.
func (n *node) streams(use func(s *alknet.Stream, until time.Time)) error {
	c, v, err := n.connect()
	if err != nil {
		return err
	}
	count := 3
	if n.oneStream() {
		count = 1
	}
	until := time.Now().Add(min(patient, n.wait))
	for range count {
		st, err := n.open(c)
		if err != nil {
			return err
		}
		if st == nil {
			break
		}
		use(st, until)
	}
	return n.leave(c, v)
}

// survivesEmptyStreams: many that nothing is said on.
func survivesEmptyStreams(n *node) error {
	if n.oneStream() {
		return nil
	}
	c, v, err := n.connect()
	if err != nil {
		return err
	}
	for i := range n.flood {
		st, err := n.open(c)
		if err != nil {
			return fmt.Errorf("%w: stream %d of %d is not opened: %w", errStreamsStay, i+1, n.flood, err)
		}
		if st == nil {
			break
		}
		_ = st.Close() // the handler may be faster
	}
	if err := n.leave(c, v); err != nil {
		return err
	}
	return n.healthy()
}

// refusesStrangers: who may not use the service does not reach its handler.
func refusesStrangers(n *node) error {
	peers := []struct {
		name string
		id   alknet.Identity
	}{
		{"an anonymous peer", alknet.Identity{}},
		{"a peer without grants", alknet.Identity{ID: "stranger"}},
	}
	for _, p := range peers {
		n.peer.Store(&p.id)
		if err := n.judged(n.client, p.id); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if n.over != 0 {
		n.peer.Store(new(member(n.svc.Access))) // only who has a key
		keyless, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Anonymous: true})
		if err != nil {
			return err
		}
		err = n.judged(keyless, alknet.Identity{})
		if err = errors.Join(err, keyless.Close()); err != nil {
			return fmt.Errorf("a peer without a key: %w", err)
		}
	}
	n.peer.Store(new(member(n.svc.Access)))
	return n.healthy()
}

// judged connects from an endpoint, whose peer is taken for id, and checks that
// it is served or refused as the service has it.
func (n *node) judged(from *alknet.Endpoint, id alknet.Identity) error {
	want := alknet.CodeOK
	if denied, ok := errors.AsType[*alknet.AccessError](n.svc.Access.Check(&id)); ok {
		want = alknet.CodeRefused
		if denied.Unauthenticated {
			want = alknet.CodeUnauthenticated
		}
	}
	if id.ID == "" && !n.svc.AllowAnonymous {
		want = alknet.CodeUnauthenticated
	}
	c, err := n.dial(from)
	if want == alknet.CodeOK {
		if err != nil {
			return err
		}
		v, err := n.visited()
		if err != nil {
			return err
		}
		return n.leave(c, v)
	}
	if err == nil {
		err = n.end(c)
	}
	if len(n.visits) > 0 {
		return errServed
	}
	return n.refusal(err, want)
}

// end waits for the end of c and returns why it ended. On Raw only who reads
// sees it.
func (n *node) end(c *alknet.Conn) error {
	defer func() { _ = c.CloseWithError(alknet.CodeOK, "") }() // it has ended, or the check fails
	ctx, cancel := context.WithTimeout(context.Background(), n.wait)
	defer cancel()
	if n.over == alknet.Raw {
		return n.endOfStream(ctx, c)
	}
	for {
		st, err := c.AcceptStream(ctx)
		if err != nil {
			return err
		}
		st.Reset(alknet.CodeRefused)
	}
}

// endOfStream reads the one stream of a Raw connection until it ends.
func (n *node) endOfStream(ctx context.Context, c *alknet.Conn) error {
	st, err := c.OpenStream(ctx)
	if err != nil {
		return nil // it has ended, or the check has the stream and ended it
	}
	_ = st.SetReadDeadline(time.Now().Add(n.wait))
	_, err = io.Copy(io.Discard, st)
	return err
}

// refusal says whether err is a refusal with code. On Raw no code arrives.
func (n *node) refusal(err error, code alknet.ErrorCode) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errNotRefused
	}
	e, ok := errors.AsType[*alknet.Error](err)
	if n.over != alknet.Raw && (!ok || !e.Remote || e.Code != code) {
		return fmt.Errorf("%w: want %v, got %w", errNotRefused, code, err)
	}
	return nil
}

// recoversPanic: a panic around the handler ends one connection of two.
func recoversPanic(n *node) error {
	c, v, err := n.connect()
	if err != nil {
		return err
	}
	n.bomb.Store(true)
	hit, err := n.dial(n.client)
	if err == nil {
		err = n.end(hit)
	}
	if err := n.refusal(err, alknet.CodeInternal); err != nil {
		return fmt.Errorf("after a panic: %w", err)
	}
	if got := n.panics(); got != 1 {
		return fmt.Errorf("%w: %d times, not once", errPanicked, got)
	}
	select {
	case <-v.ended:
		return errSpreads
	default:
	}
	if err := n.leave(c, v); err != nil {
		return err
	}
	c, v, err = n.connect()
	if err != nil {
		return fmt.Errorf("after a panic: %w", err)
	}
	return n.leave(c, v)
}
