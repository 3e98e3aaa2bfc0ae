package testenv

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/alkdev/alknet/internal/safe"
)

// Echo is a server that sends back what it gets, "tcp", "unix" or "udp", until
// the test ends.
func Echo(t testing.TB, network, address string) net.Addr {
	t.Helper()
	e := &echo{failed: func(err error) { t.Error(err) }, open: make(map[io.Closer]struct{})}
	t.Cleanup(e.close)
	if network == "udp" {
		pc, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		e.goes(pc, func() { echoDatagrams(pc) })
		return pc.LocalAddr()
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	e.goes(l, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.goes(c, func() { _, _ = io.Copy(c, c) }) // whoever connects sees how it ends
		}
	})
	return l.Addr()
}

// An echo is what a server has open.
type echo struct {
	failed func(error)
	wg     sync.WaitGroup

	mu   sync.Mutex
	open map[io.Closer]struct{} // guarded by mu; nil when the test has ended
}

// goes runs f, closes c when f returns, and when the test ends.
func (e *echo) goes(c io.Closer, f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open == nil {
		_ = c.Close() // too late
		return
	}
	e.open[c] = struct{}{}
	safe.Go(&e.wg, e.failed, func() {
		defer func() {
			_ = c.Close() // twice is harmless
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.open, c)
		}()
		f()
	})
}

func (e *echo) close() {
	e.mu.Lock()
	list := e.open
	e.open = nil
	for c := range list {
		_ = c.Close() // f returns
	}
	e.mu.Unlock()
	e.wg.Wait()
}

func echoDatagrams(pc net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo(buf[:n], from) // datagrams may be lost
	}
}
