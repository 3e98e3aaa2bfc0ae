package mux

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-yamux/v5"

	"github.com/alkdev/alknet/internal/safe"
)

// Config is what a Session may use. Zero values mean none.
type Config struct {
	MaxStreams int           // that the peer may have open at once; at least 1
	KeepAlive  time.Duration // interval of pings; an unanswered one ends the session; 0: none
	MaxBytes   int64         // received and not yet read, on all streams: lowers MaxStreams where it must; 0: none
	// Memory is asked for each stream's window when the peer opens it; nil:
	// unlimited. A window that it refuses ends the session.
	Memory Memory
}

// Memory is a budget for received data, in bytes.
type Memory interface {
	// Reserve takes n bytes or returns why not.
	Reserve(n int64) error
	// Release gives n bytes back.
	Release(n int64)
}

// maxStreams is how many streams fit beside the control stream, each with a
// whole window.
func (c Config) maxStreams() int {
	n := max(c.MaxStreams, 1)
	if c.MaxBytes > 0 {
		n = max(1, min(n, int(c.MaxBytes/window)-1))
	}
	return n
}

// A CloseError is the end of a session by one of its two ends.
type CloseError struct {
	Code   uint64 // below 2^62
	Reason string // at most 256 bytes; the peer's where Remote
	Remote bool   // the peer closed it
}

// Error names the code alone: the reason may be the peer's.
func (e *CloseError) Error() string { return fmt.Sprintf("mux: closed with code %#x", e.Code) }

// Unwrap makes a closed session test as net.ErrClosed.
func (e *CloseError) Unwrap() error { return net.ErrClosed }

const (
	// window is what a stream may hold that is not read yet, in bytes: yamux's
	// first window, which never grows (see span).
	window = 256 << 10
	// lingerTime is how long Close waits for the peer to have read the reason.
	lingerTime = 500 * time.Millisecond
)

// A Session multiplexes streams over one connection. All methods may be called
// concurrently.
type Session struct {
	ys     *yamux.Session
	client bool
	max    uint64
	wg     sync.WaitGroup
	queue  chan *Stream  // streams of the peer that wait for Accept
	openc  chan struct{} // held while a stream is opened, so that ids are registered in order
	donec  chan struct{} // closed when the session has ended
	readyc chan struct{} // closed when control can be written

	wmu     sync.Mutex // serialises writes to control
	control *yamux.Stream

	mu      sync.Mutex
	err     error // guarded by mu; why the session ended
	streams map[uint32]*Stream
	last    [2]uint32          // highest stream registered: even ids, odd ids
	early   map[uint32]message // about streams that are not registered yet
	opened  uint64             // streams we opened
	allowed uint64             // streams the peer lets us open in all
	granted uint64             // streams we let the peer open in all
	morec   chan struct{}      // closed and replaced when allowed grows
}

// Client starts the dialling end of a session on nc, which it takes over.
func Client(nc net.Conn, c Config) (*Session, error) {
	s := newSession(true, c)
	ys, err := yamux.Client(nc, s.yamuxConfig(c), memoryManager(c.Memory))
	if err != nil {
		return nil, fmt.Errorf("mux: %w", err)
	}
	s.ys = ys
	control, err := ys.OpenStream(context.Background())
	if err != nil {
		_ = ys.Close()
		return nil, fmt.Errorf("mux: %w", err)
	}
	s.start(control)
	safe.Go(&s.wg, s.fail, s.acceptLoop)
	return s, nil
}

// Server starts the accepting end of a session on nc, which it takes over.
func Server(nc net.Conn, c Config) (*Session, error) {
	s := newSession(false, c)
	ys, err := yamux.Server(nc, s.yamuxConfig(c), memoryManager(c.Memory))
	if err != nil {
		return nil, fmt.Errorf("mux: %w", err)
	}
	s.ys = ys
	safe.Go(&s.wg, s.fail, func() {
		control, err := ys.AcceptStream()
		if err != nil {
			s.fail(err)
			return
		}
		s.start(control)
		s.acceptLoop()
	})
	return s, nil
}

func newSession(client bool, c Config) *Session {
	n := c.maxStreams()
	return &Session{
		client:  client,
		max:     uint64(n),
		queue:   make(chan *Stream, n),
		openc:   make(chan struct{}, 1),
		donec:   make(chan struct{}),
		readyc:  make(chan struct{}),
		streams: make(map[uint32]*Stream),
		early:   make(map[uint32]message),
		allowed: 1, // the first needs no word from the peer
		granted: 1,
		morec:   make(chan struct{}),
	}
}

func (s *Session) yamuxConfig(c Config) *yamux.Config {
	n := int(s.max) + 1 // and the control stream
	return &yamux.Config{
		AcceptBacklog:           max(n, 256),
		PingBacklog:             8,
		EnableKeepAlive:         c.KeepAlive > 0,
		KeepAliveInterval:       c.KeepAlive,
		MeasureRTTInterval:      24 * time.Hour, // once: later pings would keep an idle connection alive
		ConnectionWriteTimeout:  10 * time.Second,
		MaxIncomingStreams:      uint32(min(n, math.MaxUint32)),
		InitialStreamWindowSize: window,
		MaxStreamWindowSize:     window,
		LogOutput:               io.Discard,
		ReadBufSize:             16 << 10,
		MaxMessageSize:          64 << 10,
	}
}

// start takes the control stream into use: it tells the peer how many streams
// it may open and reads what the peer says.
func (s *Session) start(control *yamux.Stream) {
	s.control = control
	close(s.readyc)
	safe.Go(&s.wg, s.fail, s.readControl)
	safe.Go(&s.wg, s.fail, func() { s.grant(s.max - 1) })
}

// acceptLoop takes streams from yamux at once, so that its backlog stays empty.
func (s *Session) acceptLoop() {
	for {
		ys, err := s.ys.AcceptStream()
		if err != nil {
			s.fail(err)
			return
		}
		st := s.register(ys, true)
		select {
		case s.queue <- st:
		default: // more than we granted: yamux let through what it counts differently
			st.Reset(0)
		}
	}
}

func (s *Session) register(ys *yamux.Stream, incoming bool) *Stream {
	st := &Stream{ys: ys, s: s, incoming: incoming, abortc: make(chan struct{})}
	id := ys.StreamID()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[id] = st
	s.last[id%2] = max(s.last[id%2], id)
	if m, ok := s.early[id]; ok {
		delete(s.early, id)
		st.stopLocked(m.n, m.kind == msgReset)
	}
	return st
}

// Open opens a stream, waiting while the peer's limit is reached.
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	if err := s.waitCredit(ctx); err != nil {
		return nil, err
	}
	select {
	case s.openc <- struct{}{}:
	case <-ctx.Done():
		return nil, s.openError(ctx, ctx.Err())
	case <-s.donec:
		return nil, s.Err()
	}
	defer func() { <-s.openc }()
	ys, err := s.ys.OpenStream(ctx)
	if err != nil {
		return nil, s.openError(ctx, err)
	}
	return s.register(ys, false), nil
}

// waitCredit waits until the peer lets us open one more stream.
func (s *Session) waitCredit(ctx context.Context) error {
	for {
		s.mu.Lock()
		ok, more := s.opened < s.allowed, s.morec
		if ok {
			s.opened++
		}
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.donec:
			return s.Err()
		}
	}
}

// openError gives back the place of a stream that did not come to be.
func (s *Session) openError(ctx context.Context, err error) error {
	s.mu.Lock()
	s.opened--
	s.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.translate(err)
}

// Accept waits for a stream that the peer opened.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	select {
	case st := <-s.queue:
		return st, nil
	default:
	}
	select {
	case st := <-s.queue:
		return st, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.donec:
		return nil, s.Err()
	}
}

// Close ends the session. It tells the peer code and reason and waits up to
// half a second for it to have read them and everything written before.
func (s *Session) Close(code uint64, reason string) error {
	if !s.end(&CloseError{Code: code, Reason: reason}) {
		<-s.ys.CloseChan()
		return nil
	}
	deadline := time.NewTimer(lingerTime)
	defer deadline.Stop()
	if s.send(message{kind: msgClose, n: code & maxCode, reason: reason}, time.Now().Add(lingerTime)) == nil {
		select {
		case <-s.ys.CloseChan():
		case <-deadline.C:
		}
	}
	err := s.ys.Close()
	s.wg.Wait()
	if err != nil {
		return fmt.Errorf("mux: %w", err)
	}
	return nil
}

// fail ends the session for err without a word to the peer.
func (s *Session) fail(err error) {
	if s.end(err) {
		_ = s.ys.Close() // the session is over either way
	}
}

// end records why the session ended; false if that was known already.
func (s *Session) end(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = lost(err)
	close(s.donec)
	for _, st := range s.streams {
		st.abortLocked()
	}
	return true
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.donec }

// Err says why the session ended: a *CloseError, or what the connection
// returned. Nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// RTT is the round-trip time measured at the start; 0: not yet known.
func (s *Session) RTT() time.Duration { return s.ys.RTT() }

// send writes one control message. The server's first ones wait for the
// client's control stream.
func (s *Session) send(m message, deadline time.Time) error {
	var timer <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-s.readyc:
	case <-s.ys.CloseChan():
		return net.ErrClosed
	case <-timer:
		return context.DeadlineExceeded
	}
	if !deadline.IsZero() {
		_ = s.control.SetWriteDeadline(deadline) // also frees a writer that is stuck before us
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	_, err := s.control.Write(m.appendTo(make([]byte, 0, 32+len(m.reason))))
	return err
}

// grant lets the peer open n more streams.
func (s *Session) grant(n uint64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	s.granted += n
	total := s.granted
	s.mu.Unlock()
	_ = s.send(message{kind: msgStreams, n: total}, time.Time{}) // fails only with the session
}

// readControl handles what the peer says on the control stream until it ends.
func (s *Session) readControl() {
	r := bufio.NewReaderSize(s.control, 512)
	for {
		m, err := readMessage(r)
		if err != nil {
			if errors.Is(err, errControl) {
				err = &CloseError{Reason: err.Error()}
			}
			s.fail(s.translate(err))
			return
		}
		s.handle(m)
	}
}

func (s *Session) handle(m message) {
	switch m.kind {
	case msgStreams:
		s.mu.Lock()
		if m.n > s.allowed { // they may arrive out of order
			s.allowed = m.n
			close(s.morec)
			s.morec = make(chan struct{})
		}
		s.mu.Unlock()
	case msgStop, msgReset:
		s.handleStop(m)
	case msgClose:
		s.fail(&CloseError{Code: m.n, Reason: m.reason, Remote: true})
	}
}

// handleStop passes on what the peer says of a stream. The stream itself may
// still be on its way to us: yamux hands it over on its own time.
func (s *Session) handleStop(m message) {
	s.mu.Lock()
	st := s.streams[m.stream]
	switch {
	case st != nil:
		st.stopLocked(m.n, m.kind == msgReset)
	case m.stream > s.last[m.stream%2] && uint64(len(s.early)) <= s.max+1:
		if s.early[m.stream].kind != msgReset {
			s.early[m.stream] = m
		}
	}
	s.mu.Unlock()
}

// remove forgets a stream that is over and, if the peer opened it, lets the
// peer open another.
func (s *Session) remove(st *Stream) {
	s.mu.Lock()
	_, live := s.streams[st.ys.StreamID()]
	delete(s.streams, st.ys.StreamID())
	over := s.err != nil
	s.mu.Unlock()
	if live && st.incoming && !over {
		s.grant(1)
	}
}

// translate makes yamux's errors of an ended session those of this package.
func (s *Session) translate(err error) error {
	select {
	case <-s.donec:
		return s.Err()
	default:
	}
	if s.ys.IsClosed() {
		return fmt.Errorf("mux: %w: %w", net.ErrClosed, lost(err))
	}
	return err
}

// lost keeps the end of a connection without a word from being taken for the end
// of what was said: TLS has io.EOF for it.
func lost(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("mux: the peer has vanished: %w", io.ErrUnexpectedEOF)
	}
	return err
}
