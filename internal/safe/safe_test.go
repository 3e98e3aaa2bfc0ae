package safe

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failures collects what fail hears.
type failures struct {
	mu   sync.Mutex
	errs []error // guarded by mu
}

func (c *failures) add(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

// runOne starts f, waits for it and returns what fail heard.
func runOne(f func()) []error {
	var wg sync.WaitGroup
	var c failures
	Go(&wg, c.add, f)
	wg.Wait()
	return c.errs
}

func TestGoReturnIsNoFailure(t *testing.T) {
	before := Panics()
	ran := false
	require.Empty(t, runOne(func() { ran = true }))
	require.True(t, ran)
	require.Equal(t, before, Panics())
}

func TestGoPanicBecomesFailure(t *testing.T) {
	tests := []struct {
		name string
		f    func()
		want func(t *testing.T, v any)
	}{
		{"a string", func() { panic("boom") }, func(t *testing.T, v any) { require.Equal(t, "boom", v) }},
		{"an error", func() { panic(errGoexit) }, func(t *testing.T, v any) { require.Equal(t, errGoexit, v) }},
		{"nil", func() { panic(nil) }, func(t *testing.T, v any) { require.IsType(t, &runtime.PanicNilError{}, v) }},
		{"the runtime's", func() { var s []int; s[len(s)]++ }, func(t *testing.T, v any) {
			_, ok := v.(runtime.Error)
			require.True(t, ok)
		}},
		{"in a deferred function", func() { defer func() { panic("late") }() }, func(t *testing.T, v any) {
			require.Equal(t, "late", v)
		}},
		{"after another one", func() { defer func() { panic("second") }(); panic("first") }, func(t *testing.T, v any) {
			require.Equal(t, "second", v)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := Panics()
			errs := runOne(tt.f)
			require.Len(t, errs, 1, "fail hears of it once")
			pe, ok := errors.AsType[*PanicError](errs[0])
			require.True(t, ok)
			tt.want(t, pe.Value)
			require.Contains(t, string(pe.Stack), "safe_test.go", "the stack shows where it was")
			require.Equal(t, before+1, Panics())
		})
	}
}

// A test that fails in a goroutine ends it by Goexit, which is no panic and
// would otherwise look like a return.
func TestGoGoexitBecomesFailure(t *testing.T) {
	before := Panics()
	errs := runOne(runtime.Goexit)
	require.Equal(t, []error{errGoexit}, errs)
	require.Equal(t, before, Panics())
}

func TestGoRecoveredPanicIsNoFailure(t *testing.T) {
	require.Empty(t, runOne(func() {
		defer func() { _ = recover() }()
		panic("its own business")
	}))
}

func TestGoPanicInFailGoesNoFurther(t *testing.T) {
	for name, f := range map[string]func(){"after a panic": func() { panic("f") }, "after Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			before := Panics()
			var wg sync.WaitGroup
			Go(&wg, func(error) { panic("fail") }, f)
			wg.Wait() // it is released all the same
			require.Greater(t, Panics(), before)
		})
	}
}

func TestGoGoexitInFailReleasesTheGroup(t *testing.T) {
	var wg sync.WaitGroup
	Go(&wg, func(error) { runtime.Goexit() }, func() { panic("f") })
	wg.Wait()
}

func TestGoFailRunsBeforeTheGroupIsReleased(t *testing.T) {
	for range 100 {
		var wg sync.WaitGroup
		var heard error // not guarded: the race detector is the judge
		Go(&wg, func(err error) { heard = err }, func() { panic("f") })
		wg.Wait()
		require.Error(t, heard)
	}
}

func TestGoWithoutOwnerPanicsInTheCaller(t *testing.T) {
	var wg sync.WaitGroup
	ignore := func(error) {}
	require.Panics(t, func() { Go(nil, ignore, func() {}) })
	require.Panics(t, func() { Go(&wg, nil, func() {}) })
	require.Panics(t, func() { Go(&wg, ignore, nil) })
	wg.Wait() // none of them was counted
}

func TestGoManyPanicsAreAllCounted(t *testing.T) {
	const n = 1000
	before := Panics()
	var wg sync.WaitGroup
	var c failures
	for i := range n {
		Go(&wg, c.add, func() {
			if i%2 == 0 {
				panic(i)
			}
		})
	}
	wg.Wait()
	require.Len(t, c.errs, n/2)
	require.Equal(t, before+n/2, Panics())
}

// The value of a panic may be a secret or a peer's bytes.
func TestPanicErrorTextShowsNeitherValueNorStack(t *testing.T) {
	err := &PanicError{Value: "hunter2", Stack: []byte("goroutine 7 [running]: hunter2")}
	wrapped := fmt.Errorf("serve: %w", err)
	nested := struct{ Err any }{err}
	var log strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "err", err, "wrapped", wrapped, "nested", nested, "value", *err)
	}
	texts := []string{err.Error(), wrapped.Error(), log.String(), fmt.Sprint(*err), fmt.Sprintf("%+v", nested)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%40s"} {
		texts = append(texts, fmt.Sprintf(verb, err), fmt.Sprintf(verb, wrapped))
	}
	for _, verb := range []string{"%d", "%t"} { // mistakes
		texts = append(texts, fmt.Sprintf(verb, err))
	}
	for _, text := range texts {
		require.NotContains(t, text, "hunter2")
		require.NotContains(t, text, "goroutine 7")
		require.NotContains(t, strings.ToLower(text), fmt.Sprintf("%x", "hunter2"))
		require.NotContains(t, text, "Z29yb3V0aW5l", "the stack in base64")
	}
	require.Equal(t, err.Error(), fmt.Sprint(err))
	require.Equal(t, fmt.Sprintf("%q", err.Error()), fmt.Sprintf("%q", err))
	require.Contains(t, wrapped.Error(), err.Error())
}

func BenchmarkGo(b *testing.B) {
	var wg sync.WaitGroup
	b.ReportAllocs()
	for b.Loop() {
		Go(&wg, func(error) {}, func() {})
		wg.Wait()
	}
}
