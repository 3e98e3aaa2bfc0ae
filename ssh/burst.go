package ssh

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// maxBurst is how many lines of one kind are logged in a second; more are
// counted, so that a peer can not fill a disk.
const maxBurst = 10

// bursts counts the lines of each kind.
type bursts struct {
	mu    sync.Mutex
	kinds map[string]*burst // guarded by mu; the kinds are ours, not a peer's
}

type burst struct {
	second  int64
	lines   int
	dropped int
}

// allow reports whether a line may be logged, and how many were not since the
// last one.
func (b *bursts) allow(kind string) (dropped int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kinds == nil {
		b.kinds = make(map[string]*burst)
	}
	k := b.kinds[kind]
	if k == nil {
		k = &burst{}
		b.kinds[kind] = k
	}
	if now := time.Now().Unix(); now != k.second {
		k.second, k.lines = now, 0
	}
	if k.lines == maxBurst {
		k.dropped++
		return 0, false
	}
	k.lines++
	dropped, k.dropped = k.dropped, 0
	return dropped, true
}

// logBurst logs a line that a peer can cause as often as it likes.
func (h *Handler) logBurst(ctx context.Context, kind, msg string, attrs ...slog.Attr) {
	dropped, ok := h.bursts.allow(kind)
	if !ok {
		return
	}
	if dropped > 0 {
		attrs = append(attrs, slog.Int("dropped", dropped))
	}
	h.log().LogAttrs(ctx, slog.LevelInfo, msg, attrs...)
}
