// Package testops offers operations to try a node with: echo, sleep, streams,
// panics, fan-out. They are for tests and measurements; a program registers them
// only when it was told to, and says so when it starts.
//
//	err := reg.Register(testops.Operations(testops.Options{})...)
package testops

import (
	"context"
	"encoding/json"
	"errors"
	iofs "io/fs"
	"iter"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/internal/strictjson"
)

// Options are what the operations need.
type Options struct {
	// Dir holds a file for each key of test/count. Nil: counts are kept in memory.
	Dir *os.Root
	// AllowAnonymous lets callers without an identity use them.
	AllowAnonymous bool
}

// ops is the state of a set of operations.
type ops struct {
	dir     *os.Root
	running atomic.Int64

	mu     sync.Mutex
	counts map[string]int // guarded by mu
}

// The bounds of what may be asked for.
const (
	maxAlloc = 64 << 20
	maxItem  = 32 << 20
	maxTree  = 4096 // calls of one test/fanout
)

// Operations returns the operations, all below "test/".
func Operations(o Options) []call.Operation {
	t := &ops{dir: o.Dir, counts: make(map[string]int)}
	me := &alknet.Identity{ID: "test"}
	failed := []call.ErrorSpec{{Code: "TEST_FAILED", Description: "as it was asked to"}}
	list := []call.Operation{
		{Name: "test/echo", Description: "returns its input", Func: call.QueryFunc(t.echo)},
		{Name: "test/sleep", Description: "returns after ms milliseconds, or when it is aborted", Func: call.QueryFunc(t.sleep)},
		{Name: "test/count", Description: "adds one to key and returns it", Func: call.MutationFunc(t.count)},
		{Name: "test/stream", Description: "sends n items", Func: t.stream(), Resumable: true, Errors: failed},
		{Name: "test/upload", Description: "counts what it is sent", Func: call.UploadFunc(t.upload)},
		{Name: "test/exchange", Description: "sends back what it is sent", Func: call.ExchangeFunc(t.exchange)},
		{Name: "test/panic", Description: "panics", Func: call.QueryFunc(t.panics)},
		{Name: "test/fanout", Description: "calls itself: width calls, depth deep", Func: call.QueryFunc(t.fanout), Authority: me, MayCall: []string{"test/fanout", "test/sleep", "*"}},
		{Name: "test/running", Description: "how many handlers of test/ run", Func: call.QueryFunc(t.alive)},
		{Name: "test/whoami", Description: "who calls, as the gate and as the handler see it", Func: call.QueryFunc(t.whoami)},
		{Name: "test/alloc", Description: "holds bytes of memory for hold_ms", Func: call.QueryFunc(t.alloc)},
		{Name: "test/fail", Description: "fails with a code", Func: call.QueryFunc(t.fail), Errors: failed},
	}
	for i := range list {
		list[i].AllowAnonymous = o.AllowAnonymous
		list[i].Tags = []string{"test"}
		list[i].Func.Serve = t.counted(list[i].Func.Serve)
	}
	return list
}

// counted keeps running right.
func (t *ops) counted(next call.HandlerFunc) call.HandlerFunc {
	return func(ctx context.Context, s *call.Stream) error {
		t.running.Add(1)
		defer t.running.Add(-1)
		return next(ctx, s)
	}
}

func (t *ops) echo(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }

// sleepIn is the input of test/sleep.
type sleepIn struct {
	MS     int  `json:"ms"`
	Ignore bool `json:"ignore,omitzero"` // the end of its context
}

func (t *ops) sleep(ctx context.Context, in sleepIn) (sleepIn, error) {
	timer := time.NewTimer(time.Duration(in.MS) * time.Millisecond)
	defer timer.Stop()
	done := ctx.Done()
	if in.Ignore {
		done = nil
	}
	select {
	case <-timer.C:
		return in, nil
	case <-done:
		return in, ctx.Err()
	}
}

// countIn is the input and output of test/count.
type countIn struct {
	Key string `json:"key"`
	N   int    `json:"n,omitzero"`
}

func (t *ops) count(_ context.Context, in countIn) (countIn, error) {
	if in.Key == "" || len(in.Key) > 64 || strings.ContainsFunc(in.Key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) {
		return in, &call.Error{Code: codes.InvalidInput, Message: "key is 1 to 64 of a-z, 0-9 and -"}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.counts[in.Key]
	if t.dir != nil {
		b, err := t.dir.ReadFile("count-" + in.Key)
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return in, err
		}
		if n, err = strconv.Atoi(string(b)); err != nil && len(b) > 0 {
			return in, err
		}
	}
	n++
	if t.dir != nil {
		if err := durable.WriteFile(t.dir, "count-"+in.Key, []byte(strconv.Itoa(n)), 0o600); err != nil {
			return in, err
		}
	} else {
		t.counts[in.Key] = n
	}
	return countIn{Key: in.Key, N: n}, nil
}

// streamIn is the input of test/stream.
type streamIn struct {
	N      int  `json:"n"`
	Bytes  int  `json:"bytes,omitzero"`   // of each item
	GapMS  int  `json:"gap_ms,omitzero"`  // between items
	FailAt int  `json:"fail_at,omitzero"` // fail in the place of this item, from 1
	Raw    bool `json:"raw,omitzero"`     // bytes instead of JSON
}

// itemOut is an item of test/stream.
type itemOut struct {
	I   int    `json:"i"`
	Pad string `json:"pad,omitzero"`
}

// stream is test/stream: a Func whose schemas are those of streamIn and Item.
func (t *ops) stream() call.Func {
	f := call.SubscriptionFunc(func(context.Context, streamIn) iter.Seq2[itemOut, error] { return nil })
	f.Serve = func(ctx context.Context, s *call.Stream) error {
		data, _, err := s.Recv()
		if err != nil {
			return err
		}
		var in streamIn
		if err := strictjson.DecodeExact(data, &in); err != nil || in.Bytes < 0 || in.Bytes > maxItem {
			return &call.Error{Code: codes.InvalidInput, Message: "bytes is at most 32 MiB", Err: err}
		}
		return t.items(ctx, s, in)
	}
	return f
}

// items sends the items, behind the one that the caller had.
func (t *ops) items(ctx context.Context, s *call.Stream, in streamIn) error {
	r, _ := call.RequestFromContext(ctx)
	pad := strings.Repeat("x", in.Bytes)
	for i := int(r.After) + 1; i <= in.N; i++ {
		if in.GapMS > 0 {
			if _, err := t.sleep(ctx, sleepIn{MS: in.GapMS}); err != nil {
				return err
			}
		}
		if i == in.FailAt {
			return &call.Error{Code: "TEST_FAILED", Message: "fail_at"}
		}
		data := []byte(pad)
		if !in.Raw {
			data = []byte(`{"i":` + strconv.Itoa(i) + `,"pad":"` + pad + `"}`)
		}
		if err := s.Send(data, in.Raw); err != nil {
			return err
		}
	}
	return nil
}

// uploadedOut is the output of test/upload.
type uploadedOut struct {
	Items int   `json:"items"`
	Bytes int64 `json:"bytes"`
}

func (t *ops) upload(_ context.Context, in iter.Seq2[[]byte, error]) (uploadedOut, error) {
	var u uploadedOut
	for b, err := range in {
		if err != nil {
			return u, err
		}
		u.Items++
		u.Bytes += int64(len(b))
	}
	return u, nil
}

func (t *ops) exchange(_ context.Context, in iter.Seq2[[]byte, error]) iter.Seq2[[]byte, error] {
	return in
}

// panicIn is the input of test/panic.
type panicIn struct {
	Where string `json:"where"`         // handler, iterator, goroutine, marshal
	Kind  string `json:"kind,omitzero"` // "index": out of range; "exit": the goroutine ends
}

// outcome is the output of test/panic, which has none.
type outcome string

// MarshalJSON panics if that was asked for.
func (o outcome) MarshalJSON() ([]byte, error) {
	if o == "marshal" {
		panic("test/panic: marshal")
	}
	return []byte(`""`), nil
}

func boom(kind string) {
	if kind == "index" {
		_ = make([]int, len(kind))[len(kind)+len(kind)]
	}
	if kind == "exit" {
		runtime.Goexit()
	}
	panic("test/panic: " + kind)
}

// panics is test/panic.
func (t *ops) panics(ctx context.Context, in panicIn) (outcome, error) {
	switch in.Where {
	case "marshal":
		return "marshal", nil
	case "goroutine":
		r, _ := call.RequestFromContext(ctx)
		begin := r.Go
		begin(func(context.Context) error { boom(in.Kind); return nil })
		<-ctx.Done()
	case "iterator":
		for range iter.Seq[int](func(func(int) bool) { boom(in.Kind) }) {
			continue
		}
	default:
		boom(in.Kind)
	}
	return "", nil
}

// fanoutIn is the input of test/fanout.
type fanoutIn struct {
	Depth    int      `json:"depth"`
	Width    int      `json:"width"`
	MS       int      `json:"ms,omitzero"`       // that each leaf sleeps
	Continue bool     `json:"continue,omitzero"` // children survive an abort
	Peers    []string `json:"peers,omitzero"`    // the children go there, in turn
}

// fanout calls width children, and answers how many calls there were below it.
func (t *ops) fanout(ctx context.Context, in fanoutIn) (int, error) {
	if in.Depth < 0 || in.Width < 0 || tree(in.Depth, in.Width) > maxTree {
		return 0, &call.Error{Code: codes.InvalidInput, Message: "at most 4,096 calls"}
	}
	r, _ := call.RequestFromContext(ctx)
	if in.Depth == 0 {
		_, err := t.sleep(ctx, sleepIn{MS: in.MS})
		return 1, err
	}
	var sum atomic.Int64
	begin := r.Go
	var wg sync.WaitGroup
	for i := range in.Width {
		wg.Add(1)
		name := "test/fanout"
		if len(in.Peers) > 0 {
			name += "@" + in.Peers[i%len(in.Peers)]
		}
		env := call.With(r.Env, call.Options{ContinueRunning: in.Continue})
		next := in
		next.Depth--
		begin(func(ctx context.Context) error {
			defer wg.Done()
			n, err := call.Call[int](ctx, env, name, next)
			sum.Add(int64(n))
			return err
		})
	}
	wg.Wait()
	return int(sum.Load()) + 1, ctx.Err()
}

// tree is how many calls a fan-out makes.
func tree(depth, width int) int {
	n, level := 1, 1
	for range min(depth, 64) {
		level *= width
		if n += level; n > maxTree {
			break
		}
	}
	return n
}

func (t *ops) alive(context.Context, struct{}) (int64, error) { return t.running.Load() - 1, nil }

// whoamiOut is the output of test/whoami.
type whoamiOut struct {
	Caller     string   `json:"caller"`
	Scopes     []string `json:"scopes"`
	Originator string   `json:"originator,omitzero"`
	Claimed    string   `json:"claimed,omitzero"`
	Path       []string `json:"path"`
	Transport  string   `json:"transport"`
	Connection string   `json:"connection"`
}

func (t *ops) whoami(ctx context.Context, _ struct{}) (whoamiOut, error) {
	r, _ := call.RequestFromContext(ctx)
	w := whoamiOut{Caller: r.Caller.ID, Scopes: r.Caller.Scopes, Path: []string{}, Transport: "none"}
	if r.Originator != nil {
		w.Originator = r.Originator.ID
	}
	if r.Claimed != nil {
		w.Claimed = r.Claimed.ID
	}
	for _, p := range r.Path {
		w.Path = append(w.Path, p.String())
	}
	if r.Client != nil {
		w.Transport, w.Connection = r.Client.Conn().Transport().String(), r.Client.Conn().Identity().ID
	}
	return w, nil
}

// allocIn is the input of test/alloc.
type allocIn struct {
	Bytes  int `json:"bytes"`
	HoldMS int `json:"hold_ms,omitzero"`
}

func (t *ops) alloc(ctx context.Context, in allocIn) (int, error) {
	if in.Bytes < 0 || in.Bytes > maxAlloc {
		return 0, &call.Error{Code: codes.InvalidInput, Message: "bytes is at most 64 MiB"}
	}
	b := make([]byte, in.Bytes)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	_, err := t.sleep(ctx, sleepIn{MS: in.HoldMS})
	return len(b), err
}

// failIn is the input of test/fail.
type failIn struct {
	Code    string          `json:"code"`
	Details json.RawMessage `json:"details,omitzero"`
}

func (t *ops) fail(_ context.Context, in failIn) (int, error) {
	return 0, &call.Error{Code: in.Code, Message: "as asked", Details: in.Details}
}
