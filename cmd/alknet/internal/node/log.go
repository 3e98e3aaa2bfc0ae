package node

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// NewLog makes the log of the program: at most burst lines a second of one kind,
// then a count. level may be changed later.
func NewLog(w io.Writer, format string, level slog.Leveler, burst int) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if format == "json" {
		h = slog.NewJSONHandler(w, o)
	}
	h = eventHandler{h}
	if burst == 0 {
		burst = 10
	}
	if burst > 0 {
		h = &burstHandler{Handler: h, state: &bursts{max: burst, kinds: make(map[string]*kind)}}
	}
	return slog.New(h)
}

// Level reads a level of the configuration; "" is info.
func Level(s string) slog.Level {
	switch s {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// An eventHandler gives each line a word for programs: the libraries write facts
// without one.
type eventHandler struct{ slog.Handler }

// Handle adds the word, unless the line has it.
func (h eventHandler) Handle(ctx context.Context, r slog.Record) error {
	has := false
	r.Attrs(func(a slog.Attr) bool {
		has = has || a.Key == "event"
		return !has
	})
	if !has {
		r = r.Clone()
		r.AddAttrs(slog.String("event", eventOf(r.Message)))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps adding.
func (h eventHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return eventHandler{h.Handler.WithAttrs(a)}
}

// WithGroup keeps adding.
func (h eventHandler) WithGroup(name string) slog.Handler {
	return eventHandler{h.Handler.WithGroup(name)}
}

// eventOf is the word for a message, which is a constant of the code: "peer: left"
// is peer.left, "ssh login" ssh.login.
func eventOf(message string) string {
	switch message {
	case "panic", "call: handler panicked":
		return "handler.panic"
	case "call: OnConnect refused the connection":
		return "peer.refused"
	case "peer: not everything was imported":
		return "peer.import"
	case "peer: a goroutine of the graph failed":
		return "peer.failed"
	}
	words := strings.FieldsFunc(message, func(r rune) bool { return r < 'a' || r > 'z' })
	return strings.Join(words[:min(len(words), 2)], ".")
}

// bursts counts lines by their message, which is a constant of the code.
type bursts struct {
	max int

	mu    sync.Mutex
	kinds map[string]*kind // guarded by mu
}

type kind struct {
	second int64
	lines  int
	missed int
}

// maxKinds bounds the memory for counting; messages are few.
const maxKinds = 1024

type burstHandler struct {
	slog.Handler
	state *bursts
}

// Handle writes a record unless too many of its kind were written this second.
func (h *burstHandler) Handle(ctx context.Context, r slog.Record) error {
	missed, ok := h.state.admit(r.Message, r.Time)
	if !ok {
		return nil
	}
	if missed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("suppressed", missed))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps counting.
func (h *burstHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return &burstHandler{h.Handler.WithAttrs(a), h.state}
}

// WithGroup keeps counting.
func (h *burstHandler) WithGroup(name string) slog.Handler {
	return &burstHandler{h.Handler.WithGroup(name), h.state}
}

func (b *bursts) admit(message string, at time.Time) (missed int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.kinds[message]
	if k == nil {
		if len(b.kinds) >= maxKinds {
			clear(b.kinds)
		}
		k = &kind{}
		b.kinds[message] = k
	}
	if s := at.Unix(); s != k.second {
		k.second, k.lines = s, 0
		missed, k.missed = k.missed, 0
	}
	if k.lines >= b.max {
		k.missed++
		return 0, false
	}
	k.lines++
	return missed, true
}
