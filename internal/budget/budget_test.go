package budget

import (
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// requireLimit checks that err names a setting and its value.
func requireLimit(t require.TestingT, err error, setting string, maxBytes int64) {
	le, ok := errors.AsType[*LimitError](err)
	require.True(t, ok, "%v is a *LimitError", err)
	require.Equal(t, LimitError{Setting: setting, Max: maxBytes}, *le)
}

func TestReserveUpToTheLimit(t *testing.T) {
	b := New("limits.conn_bytes", 100, nil)
	require.NoError(t, b.Reserve(60))
	require.NoError(t, b.Reserve(40))
	requireLimit(t, b.Reserve(1), "limits.conn_bytes", 100)
	require.NoError(t, b.Reserve(0), "nothing always fits")
	require.Equal(t, int64(100), b.Used())
	b.Release(1)
	require.NoError(t, b.Reserve(1), "what was released can be taken again")
	b.Release(100)
	require.Zero(t, b.Used())
}

func TestLimitErrorText(t *testing.T) {
	err := New("limits.conn_bytes", 5, nil).Reserve(6)
	require.Equal(t, "limit reached: limits.conn_bytes = 5", err.Error())
}

func TestReserveTakesFromEveryParentOrNone(t *testing.T) {
	total := New("limits.total_bytes", 100, nil)
	group := New("limits.unauthenticated_bytes", 80, total)
	a, b := New("limits.conn_bytes", 50, group), New("limits.conn_bytes", 50, group)

	require.NoError(t, a.Reserve(50))
	requireLimit(t, b.Reserve(31), "limits.unauthenticated_bytes", 80)
	require.Zero(t, b.Used(), "a refused reservation holds nothing")
	require.Equal(t, int64(50), group.Used())
	require.Equal(t, int64(50), total.Used())

	require.NoError(t, total.Reserve(40))
	requireLimit(t, b.Reserve(11), "limits.total_bytes", 100)
	require.Zero(t, b.Used())
	require.Equal(t, int64(50), group.Used(), "nor in between")
	require.NoError(t, b.Reserve(10))
	requireLimit(t, a.Reserve(1), "limits.conn_bytes", 50)

	a.Release(50)
	b.Release(10)
	require.Zero(t, group.Used())
	require.Equal(t, int64(40), total.Used())
}

func TestReserveAtTheEdgesOfInt64(t *testing.T) {
	b := New("x", math.MaxInt64, nil)
	require.NoError(t, b.Reserve(math.MaxInt64))
	requireLimit(t, b.Reserve(1), "x", math.MaxInt64)
	requireLimit(t, b.Reserve(math.MaxInt64), "x", math.MaxInt64)
	b.Release(math.MaxInt64)
	require.Zero(t, b.Used())
}

func TestNewWithNothing(t *testing.T) {
	for _, n := range []int64{0, -1, math.MinInt64} {
		b := New("x", n, nil)
		require.NoError(t, b.Reserve(0))
		requireLimit(t, b.Reserve(1), "x", 0)
	}
}

// A double release would let peers make us hold more than the limit.
func TestReleaseOfTooMuchPanicsAndKeepsTheCount(t *testing.T) {
	total := New("total", 100, nil)
	b := New("conn", 100, total)
	require.NoError(t, b.Reserve(10))
	require.PanicsWithValue(t, "budget: conn: released more than was reserved", func() { b.Release(11) })
	require.Equal(t, int64(10), b.Used())
	require.Equal(t, int64(10), total.Used())
	require.Panics(t, func() { b.Release(-1) })
	require.Panics(t, func() { b.Reserve(-1) })
	require.Panics(t, func() { b.Release(math.MinInt64) })
	require.Equal(t, int64(10), b.Used())
	b.Release(10)
	require.Panics(t, func() { b.Release(1) })
}

// TestBudgetConcurrently: the limits hold at every moment, and everything
// comes back. The race detector watches.
func TestBudgetConcurrently(t *testing.T) {
	const workers, rounds = 8, 2000
	total := New("total", 64, nil)
	var wg sync.WaitGroup
	for w := range workers {
		b := New("conn", 16, total)
		wg.Go(func() {
			for i := range rounds {
				n := int64(1 + (i+w)%16)
				if err := b.Reserve(n); err != nil {
					continue
				}
				if used := total.Used(); used < n || used > 64 {
					t.Errorf("%d bytes are used", used)
				}
				b.Release(n)
			}
			if b.Used() != 0 {
				t.Errorf("%d bytes are left", b.Used())
			}
		})
	}
	wg.Wait()
	require.Zero(t, total.Used())
}

// TestBudgetModel compares a tree of budgets with plain sums.
func TestBudgetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SliceOfN(rapid.Int64Range(0, 50), 3, 3).Draw(t, "limits")
		root := New("0", limits[0], nil)
		tree := []*Budget{root, New("1", limits[1], root), New("2", limits[2], root)}
		var held [3]int64
		fits := func(i int, n int64) bool {
			all := held[0] + held[1] + held[2]
			return all+n <= limits[0] && (i == 0 || held[i]+n <= limits[i])
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, 2).Draw(t, "budget")
			n := rapid.Int64Range(0, 30).Draw(t, "n")
			if rapid.Bool().Draw(t, "reserve") {
				want := fits(i, n)
				require.Equal(t, want, tree[i].Reserve(n) == nil)
				if want {
					held[i] += n
				}
			} else {
				n = min(n, held[i])
				tree[i].Release(n)
				held[i] -= n
			}
			require.Equal(t, held[0]+held[1]+held[2], root.Used())
			require.Equal(t, held[1], tree[1].Used())
			require.Equal(t, held[2], tree[2].Used())
		}
	})
}

func TestReserveAndReleaseAllocateNothing(t *testing.T) {
	b := New("conn", 100, New("total", 100, nil))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if b.Reserve(10) == nil {
			b.Release(10)
		}
	}))
}

func BenchmarkReserveRelease(b *testing.B) {
	total := New("total", math.MaxInt64, nil)
	b.Run("alone", func(b *testing.B) {
		conn := New("conn", 1<<20, total)
		for b.Loop() {
			_ = conn.Reserve(100)
			conn.Release(100)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			conn := New("conn", 1<<20, total)
			for pb.Next() {
				_ = conn.Reserve(100)
				conn.Release(100)
			}
		})
	})
}
