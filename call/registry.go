package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/alkdev/alknet/call/internal/guard"
	"github.com/alkdev/alknet/internal/printable"
)

// ErrDuplicate is in the error of [Registry.Register] for a name that is taken,
// also one that differs in letter case only.
var ErrDuplicate = errors.New("the name is taken")

// A Source adds operations found elsewhere, such as on peers, to a Handler,
// which asks its own Registry first.
type Source interface {
	// Lookup finds an operation. The name may end in "@peer". What it returns is
	// not changed by anybody and best the same pointer each time.
	Lookup(name string) (*Operation, bool)
	// All yields all operations, in no order.
	All() iter.Seq[*Operation]
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
}

// A Registry holds operations. The zero value is empty and ready. All methods
// may be called at any time.
type Registry struct {
	ops atomic.Pointer[map[string]*entry] // copy-on-write; nil: empty

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed and replaced at each change; nil: nobody asked
}

// An entry is an operation with what was made of it once.
type entry struct {
	op    Operation
	stats opStats

	describe sync.Once
	detail   json.RawMessage // what services/schema says; made by describe

	running atomic.Int64
	mu      sync.Mutex
	gone    bool          // guarded by mu
	idle    chan struct{} // guarded by mu; closed when gone and running is 0
}

// newEntry prepares an operation.
func newEntry(op Operation) (*entry, error) {
	if err := op.check(); err != nil {
		return nil, err
	}
	e := &entry{op: op, idle: make(chan struct{})}
	e.op.reg = e
	o := &e.op
	o.Tags, o.MayCall, o.Errors = slices.Clone(o.Tags), slices.Clone(o.MayCall), slices.Clone(o.Errors)
	o.Access.RequiredScopes = slices.Clone(o.Access.RequiredScopes)
	o.Access.RequiredScopesAny = slices.Clone(o.Access.RequiredScopesAny)
	o.Capabilities = maps.Clone(o.Capabilities)
	if o.Authority != nil {
		o.Authority = new(cloneIdentity(*o.Authority))
	}
	if o.Func.Type == Query {
		o.Idempotent = true
	}
	for what, text := range map[string]json.RawMessage{"input": o.Func.Input, "output": o.Func.Output} {
		if text == nil || o.Func.forward {
			continue
		}
		if err := guard.Check(text); err != nil {
			return nil, fmt.Errorf("call: operation %s: %s: %w", printable.Quote(op.Name), what, err)
		}
	}
	return e, nil
}

// checkInput judges one input item against the operation's schema.
func (e *entry) checkInput(data []byte) *Error {
	f := &e.op.Func
	if f.shape != nil {
		if err := f.shape.check(data); err != nil {
			return err
		}
	}
	if f.Check == nil {
		return nil
	}
	err := f.Check(data)
	if err == nil {
		return nil
	}
	if ce, ok := errors.AsType[*Error](err); ok {
		return new(*ce).ran(runNo)
	}
	return inputError("", "value", "").because(err)
}

// enter counts a run; false: the operation was removed.
func (e *entry) enter() bool {
	e.running.Add(1)
	e.mu.Lock()
	gone := e.gone
	e.mu.Unlock()
	if gone {
		e.leave()
		return false
	}
	return true
}

// leave ends a run.
func (e *entry) leave() {
	if e.running.Add(-1) > 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone && e.running.Load() == 0 {
		select {
		case <-e.idle:
		default:
			close(e.idle)
		}
	}
}

// retire refuses new runs.
func (e *entry) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	if e.running.Load() == 0 {
		select {
		case <-e.idle:
		default:
			close(e.idle)
		}
	}
}

func (r *Registry) load() map[string]*entry {
	if m := r.ops.Load(); m != nil {
		return *m
	}
	return nil
}

// storeLocked publishes a new set of operations.
func (r *Registry) storeLocked(m map[string]*entry) {
	r.ops.Store(&m)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Register adds operations: all of them, or none with an error. The error wraps
// [ErrDuplicate] if a name is taken or differs from another in letter case only.
func (r *Registry) Register(ops ...Operation) error {
	entries := make([]*entry, 0, len(ops))
	for _, op := range ops {
		e, err := newEntry(op)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := maps.Clone(r.load())
	if m == nil {
		m = make(map[string]*entry)
	}
	folded := make(map[string]string, len(m))
	for name := range m {
		folded[strings.ToLower(name)] = name
	}
	for _, e := range entries {
		low := strings.ToLower(e.op.Name)
		if old, taken := folded[low]; taken {
			return fmt.Errorf("call: register %q: %w by %q", e.op.Name, ErrDuplicate, old)
		}
		folded[low] = e.op.Name
		m[e.op.Name] = e
	}
	r.storeLocked(m)
	return nil
}

// Replace puts op in the place of the operation of its name, or adds it. Calls
// from now on use it; running ones finish with the old one.
func (r *Registry) Replace(op Operation) error {
	e, err := newEntry(op)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := maps.Clone(r.load())
	if m == nil {
		m = make(map[string]*entry)
	}
	for name := range m {
		if name != op.Name && strings.EqualFold(name, op.Name) {
			return fmt.Errorf("call: replace %q: %w by %q", op.Name, ErrDuplicate, name)
		}
	}
	m[op.Name] = e
	r.storeLocked(m)
	return nil
}

// Remove takes an operation away: it is NOT_FOUND at once. Remove returns when
// none of its runs is left, or with ctx's error. Without that operation it does
// nothing.
func (r *Registry) Remove(ctx context.Context, name string) error {
	r.mu.Lock()
	e := r.load()[name]
	if e == nil {
		r.mu.Unlock()
		return nil
	}
	m := maps.Clone(r.load())
	delete(m, name)
	r.storeLocked(m)
	r.mu.Unlock()
	e.retire()
	select {
	case <-e.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("call: remove %q: %d still running: %w", name, e.running.Load(), ctx.Err())
	}
}

// Lookup finds an operation by its exact name.
func (r *Registry) Lookup(name string) (*Operation, bool) {
	if e := r.load()[name]; e != nil {
		return &e.op, true
	}
	return nil, false
}

// All yields the operations of this moment, sorted by name.
func (r *Registry) All() iter.Seq[*Operation] {
	m := r.load()
	return func(yield func(*Operation) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(&m[name].op) {
				return
			}
		}
	}
}

// Changed returns a channel that is closed at the next change.
func (r *Registry) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

var _ Source = (*Registry)(nil)
