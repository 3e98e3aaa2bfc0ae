package demo

import (
	"context"
	"errors"
	"strings"
	"time"
)

// A step shows one thing. It returns what to print, and what it used.
type step struct {
	part, name string
	run        func(*world, context.Context) (outcome, error)
}

// An outcome is what a step has to say.
type outcome struct{ with, result string }

// stepTime is how long one step may take.
const stepTime = 30 * time.Second

// steps are in the order in which they run; the later ones destroy what the
// earlier ones need.
func steps() []step {
	return []step{
		{"call", "query and mutation", (*world).stepUnary},
		{"call", "subscription", (*world).stepSubscription},
		{"call", "upload", (*world).stepUpload},
		{"peer", "one, any and all workers", (*world).stepRoutes},
		{"peer", "invite and join", (*world).stepJoin},
		{"ssh", "ssh exec", (*world).stepExec},
		{"ssh", "ssh terminal", (*world).stepTerminal},
		{"ssh", "port forward and SOCKS5", (*world).stepForward},
		{"ssh", "expose", (*world).stepExpose},
		{"peer", "stream, worker killed at 20", (*world).stepKill},
		{"all", "stranger refused", (*world).stepStranger},
		{"all", "revoked peer loses connection", (*world).stepRevoke},
		{"all", "drain with a call in flight", (*world).stepDrain},
	}
}

// runSteps runs them all, also after one that failed.
func (w *world) runSteps(ctx context.Context, s *Summary) {
	for i, st := range steps() {
		if ctx.Err() != nil {
			return
		}
		if w.o.Only != "" && st.part != w.o.Only && !strings.HasPrefix(st.name, w.o.Only) {
			continue
		}
		if w.o.Serve && st.name == "drain with a call in flight" {
			continue // the head is still needed
		}
		r := w.runStep(ctx, st)
		r.Number = i + 1
		s.Steps++
		if r.OK {
			s.Passed++
		}
		if w.o.Step != nil {
			w.o.Step(r)
		}
	}
}

func (w *world) runStep(ctx context.Context, st step) *Result {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	w.log.take()
	begun := time.Now()
	out, err := st.run(w, ctx)
	r := &Result{Event: "step", Part: st.part, Step: st.name, OK: err == nil, With: out.with, Result: out.result}
	r.Millis = float64(time.Since(begun).Microseconds()) / 1000
	if err != nil {
		r.Expected, r.Got, r.Log = "success", err.Error(), w.log.last(20)
		if m, ok := errors.AsType[*mismatch](err); ok {
			r.Expected, r.Got = m.expected, m.got
		}
	}
	return r
}
