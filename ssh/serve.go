package ssh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/alkdev/alknet/internal/safe"
)

// The pause after an accept that failed doubles from the first to the last.
const (
	firstAcceptPause = 5 * time.Millisecond
	lastAcceptPause  = time.Second
)

// Serve accepts SSH connections on a listener, such as TCP port 22, where who
// [Handler.Users] knows may log in. It closes l and returns an error that wraps
// net.ErrClosed after Shutdown, or when l was closed.
func (h *Handler) Serve(l net.Listener) error {
	h.init()
	defer func() { _ = l.Close() }() // twice is harmless
	if h.Users == nil {
		return errNoUsers
	}
	if _, err := h.hostKeys(); err != nil {
		return err
	}
	h.mu.Lock()
	if h.down {
		h.mu.Unlock()
		return fmt.Errorf("ssh: serve: %w", net.ErrClosed)
	}
	h.listeners[l] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners, l)
	}()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			h.admit(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) || h.drainCtx.Err() != nil {
			return fmt.Errorf("ssh: serve: %w", net.ErrClosed)
		}
		if pause = min(max(2*pause, firstAcceptPause), lastAcceptPause); !h.wait(pause) {
			return fmt.Errorf("ssh: serve: %w", net.ErrClosed)
		}
		h.log().LogAttrs(context.Background(), slog.LevelWarn, "ssh accept failed", slog.String("err", err.Error()))
	}
}

// wait waits, unless the handler is shut down.
func (h *Handler) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.drainCtx.Done():
		return false
	}
}

// admit serves one connection, or closes it before a byte is exchanged.
func (h *Handler) admit(nc net.Conn) {
	p, limit := h.sources.begin(nc.RemoteAddr())
	if limit != "" {
		_ = nc.Close() // it is one too many
		h.logBurst(context.Background(), "limit", "ssh refused",
			slog.String("addr", nc.RemoteAddr().String()), slog.String("why", "limit "+limit))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		p.leave()
		_ = nc.Close() // too late
		return
	}
	failed := func(err error) {
		h.log().Error("ssh panic", "err", err)
		_ = nc.Close() // it is given up
	}
	safe.Go(&h.wg, failed, func() {
		defer p.leave()
		defer func() { _ = nc.Close() }() // twice is harmless
		l := &login{h: h, remote: nc.RemoteAddr(), place: p}
		_ = h.serveSSH(h.serveCtx, h.drainCtx, nc, l) // it logs how it ended
	})
}
