package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/internal/safe"
)

// A Supervisor keeps connections to one peer up until the context of
// [Supervisor.Run] ends. Set the fields before use.
type Supervisor struct {
	// Dial makes a connection; usually [DialPeer]'s. The Supervisor closes it.
	Dial func(ctx context.Context) (*call.Client, error)
	// Graph is where each connection is attached. Nil: nowhere, as for a plain
	// worker.
	Graph *Graph
	// Conns is how many connections to keep. 0: 1.
	Conns int
	// MinBackoff and MaxBackoff bound the time between dials that fail. 0: 1 s
	// and 60 s.
	MinBackoff, MaxBackoff time.Duration
	// Rand is for jitter. Nil: math/rand/v2.
	Rand func() uint64
	// OnState is called when the first connection is up, when none is left, and
	// for each dial that failed, with why. It must not block.
	OnState func(up bool, err error)

	once sync.Once

	mu    sync.Mutex
	graph *Graph                    // guarded by mu; Caller's; nil: nobody asked for one
	conns map[*call.Client]struct{} // guarded by mu
	turn  chan struct{}             // guarded by mu; closed when conns changes
}

// Run dials, attaches and waits, again and again, until ctx ends, whose error it
// returns; it then closes its connections.
func (s *Supervisor) Run(ctx context.Context) error {
	s.init()
	var wg sync.WaitGroup
	for range max(s.Conns, 1) {
		safe.Go(&wg, func(err error) { s.state(false, err) }, func() { s.keep(ctx) })
	}
	wg.Wait()
	s.closeGraph()
	return ctx.Err()
}

func (s *Supervisor) init() {
	s.once.Do(func() {
		s.conns, s.turn = make(map[*call.Client]struct{}), make(chan struct{})
	})
}

// keep keeps one connection up.
func (s *Supervisor) keep(ctx context.Context) {
	var wg sync.WaitGroup // old connections that drain
	defer wg.Wait()
	b := backoff{s: s}
	for ctx.Err() == nil {
		c, err := s.Dial(ctx)
		if err == nil {
			begun := time.Now()
			err = s.attach(ctx, c)
			if err == nil {
				err = s.hold(ctx, c, &wg)
			} else {
				_ = c.Close() // what is of use is in err
			}
			b.lived(time.Since(begun))
		}
		if ctx.Err() != nil {
			return
		}
		s.state(s.any(), err)
		b.wait(ctx, err)
	}
}

func (s *Supervisor) attach(ctx context.Context, c *call.Client) error {
	if s.Graph != nil {
		if err := s.Graph.Attach(ctx, c); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.joinLocked(c)
	n := len(s.conns)
	s.turnLocked()
	s.mu.Unlock()
	if n == 1 {
		s.state(true, nil)
	}
	return nil
}

// hold waits until c ends or drains. One that drains is kept, beside its
// successor, until it ends.
func (s *Supervisor) hold(ctx context.Context, c *call.Client, wg *sync.WaitGroup) error {
	select {
	case <-c.Done():
	case <-ctx.Done():
		s.drop(c)
		return ctx.Err()
	case <-c.Draining():
		safe.Go(wg, func(error) {}, func() {
			select {
			case <-c.Done():
			case <-ctx.Done():
			}
			s.drop(c)
		})
		return errDraining
	}
	err := why(c)
	s.drop(c)
	return err
}

// errDraining is why a connection was followed by another.
var errDraining = &alknet.Error{Code: alknet.CodeShutdown, Reason: "draining", Remote: true}

// why is why a connection ended: what the next use of it says.
func why(c *call.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := c.Conn().AcceptStream(ctx)
	if err == nil {
		st.Reset(alknet.CodeOK)
		return errors.New("peer: the connection ended")
	}
	return fmt.Errorf("peer: the connection ended: %w", err)
}

// drop forgets a connection and closes it.
func (s *Supervisor) drop(c *call.Client) {
	s.mu.Lock()
	delete(s.conns, c)
	s.turnLocked()
	s.mu.Unlock()
	_ = c.Close() // it is over either way
}

func (s *Supervisor) turnLocked() {
	close(s.turn)
	s.turn = make(chan struct{})
}

func (s *Supervisor) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) > 0
}

func (s *Supervisor) state(up bool, err error) {
	if s.OnState != nil {
		s.OnState(up, err)
	}
}

func (s *Supervisor) rand() uint64 {
	if s.Rand != nil {
		return s.Rand()
	}
	return rand.Uint64()
}
