// Package handlertest is the conformance suite that every [alknet.Service]
// passes:
//
//	func TestService(t *testing.T) {
//		handlertest.Run(t, Service(…))
//	}
//
// It counts goroutines and panics of the whole process: nothing else may run
// beside it.
package handlertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet"
)

// Every wait is bounded. A handler that needs nearly so long is broken: it waits
// for nothing but its peer here, which is in the same process.
const (
	longest = 15 * time.Second
	patient = 500 * time.Millisecond // for what a handler need not answer, on one connection
)

// What is wrong with a service.
var (
	errNotCalled   = errors.New("the handler is not called for a new connection")
	errConnEnded   = errors.New("the handler does not return once the peer has closed the connection")
	errCtxEnded    = errors.New("the handler does not return once its context has ended")
	errDraining    = errors.New("the handler does not return once its idle connection is draining")
	errStreamsStay = errors.New("the handler does not end streams that its peer has closed")
	errPanicked    = errors.New("it panics")
	errLeaks       = errors.New("goroutines are left when all connections have ended")
	errServed      = errors.New("it serves a peer that is to be refused")
	errNotRefused  = errors.New("the connection does not end as it should")
	errPeerUnaware = errors.New("the peer does not see the end of a connection that was drained")
	errRouterStays = errors.New("the Router does not end: a handler still runs")
	errSpreads     = errors.New("a panic on one connection ends another")
)

// A suite is a service over one transport.
type suite struct {
	svc    alknet.Service
	over   alknet.Transport // 0: Pipe
	shared bool             // the handler is a Shutdowner and serves more than this suite
	wait   time.Duration    // bounds each wait for the handler
	flood  int              // empty streams of one connection
}

// A check is one promise that a handler keeps.
type check struct {
	name string
	run  func(*node) error
}

// checks hold on each transport.
var checks = []check{
	{"returns when the peer closes", endsWithConn},
	{"returns when ctx ends", endsWithContext},
	{"returns when draining", endsWhenDraining},
	{"half-closed streams", survivesHalfClosed},
	{"garbage", survivesGarbage},
	{"empty streams", survivesEmptyStreams},
	{"identity", refusesStrangers},
	{"panic", recoversPanic},
}

// Run checks svc over [alknet.Pipe] and, on loopback sockets, over each of its
// transports: that its handler
//
//   - returns when the peer closes the connection, when its context ends, and
//     when an idle connection is drained;
//   - outlives streams that are half closed or reset, bytes that mean nothing,
//     and, where there are many streams, 10,000 empty ones (1,000 with -short):
//     it ends each of them, or the connection;
//   - is reached by no anonymous peer unless AllowAnonymous is set, and by none
//     that Access refuses;
//   - costs, when something wrapped around it panics, that connection only;
//   - leaves no goroutine behind.
//
// On Raw an [alknet.StreamFunc] cannot tell that its stream is idle: there the
// peer ends the stream when the connection drains. A handler that is an
// [alknet.Shutdowner] is shut down once, at the end, with an idle connection
// over each transport; it may keep the goroutines of its first connections
// until then.
func Run(t *testing.T, svc alknet.Service) {
	t.Helper()
	base := suite{svc: svc, wait: longest, flood: 10_000}
	if testing.Short() {
		base.flood = 1_000
	}
	_, base.shared = svc.Handler.(alknet.Shutdowner)
	whole := goleak.IgnoreCurrent()
	for _, over := range carriers(svc) {
		t.Run(carrierName(over), func(t *testing.T) {
			s := base
			s.over = over
			s.each(t)
		})
	}
	if base.shared {
		t.Run("Shutdown", func(t *testing.T) {
			if err := errors.Join(base.shutsDown(), base.leaks(whole)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// each runs the checks, each on a Router of its own.
func (s *suite) each(t *testing.T) {
	if s.shared { // what it starts for the first connection is its own until Shutdown
		if err := s.on((*node).healthy); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := s.check(c.run); err != nil {
				t.Fatalf("%s: %v", s.svc.ALPN, err)
			}
		})
	}
}

// check is on, and the goroutines return to what they were.
func (s *suite) check(run func(*node) error) error {
	before := goleak.IgnoreCurrent()
	if err := s.on(run); err != nil {
		return err
	}
	return s.leaks(before)
}

// on runs a check on a node of its own.
func (s *suite) on(run func(*node) error) error {
	n, err := s.start()
	if err != nil {
		return err
	}
	err = run(n)
	if late := n.stop(); err == nil {
		err = late
	}
	return err
}

// leaks waits until no goroutine is left but those of before.
func (s *suite) leaks(before goleak.Option) error {
	deadline := time.Now().Add(s.wait)
	for {
		err := goleak.Find(before) // it tries for a while
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", errLeaks, err)
		}
	}
}

// wants waits for done, or returns what is wrong.
func (s *suite) wants(done <-chan struct{}, wrong error) error {
	t := time.NewTimer(s.wait)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return wrong
	}
}

// carriers are what a service runs over: Pipe, which is 0, and its transports.
func carriers(svc alknet.Service) []alknet.Transport {
	over := svc.Over
	if over == 0 {
		over = alknet.QUIC | alknet.Mux
	}
	list := []alknet.Transport{0}
	for _, t := range []alknet.Transport{alknet.QUIC, alknet.Mux, alknet.Raw} {
		if over&t != 0 {
			list = append(list, t)
		}
	}
	return list
}

func carrierName(over alknet.Transport) string {
	if over == 0 {
		return "Pipe"
	}
	return over.String()
}
