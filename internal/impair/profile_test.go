package impair

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is when the lanes of these tests begin.
var epoch = time.Unix(1_000_000, 0)

// newLane is a lane with a fixed seed.
func newLane(p Profile) *lane {
	l := &lane{rnd: rand.New(rand.NewPCG(7, 7))}
	l.reset(p, epoch)
	return l
}

// send sends n packets of a size, a gap apart, and returns their fates.
func send(l *lane, n, size int, gap time.Duration) []fate {
	var fates []fate
	for i := range n {
		fates = append(fates, l.packet(epoch.Add(time.Duration(i)*gap), size))
	}
	return fates
}

// delays is how long after it was sent each packet arrives.
func delays(fates []fate, gap time.Duration) []time.Duration {
	var list []time.Duration
	for i, f := range fates {
		list = append(list, f.due[0].Sub(epoch.Add(time.Duration(i)*gap)))
	}
	return list
}

func TestLaneZeroProfilePassesAtOnce(t *testing.T) {
	for _, f := range send(newLane(Profile{}), 100, 10, 0) {
		require.Equal(t, fate{due: [2]time.Time{epoch}, n: 1, flip: -1}, f)
	}
}

func TestLaneDelayAndJitterKeepTheOrder(t *testing.T) {
	const gap = time.Millisecond
	fates := send(newLane(Profile{Delay: 15 * time.Millisecond, Jitter: 10 * time.Millisecond}), 1000, 10, gap)
	list := delays(fates, gap)
	require.GreaterOrEqual(t, slices.Min(list), 15*time.Millisecond)
	require.Less(t, slices.Max(list), 25*time.Millisecond)
	require.Greater(t, slices.Max(list)-slices.Min(list), 5*time.Millisecond, "it varies")
	require.True(t, slices.IsSortedFunc(fates, func(a, b fate) int { return a.due[0].Compare(b.due[0]) }))
}

func TestLaneLosesItsShareInRunsThatEnd(t *testing.T) {
	const n = 200_000
	for _, p := range []Profile{{Loss: 0.02}, {Loss: 0.3, Burst: 3}, {Loss: 0.5, Burst: 1}, {Loss: 0.05, Burst: 10}} {
		l := newLane(p)
		lost, run, longest := 0, 0, 0
		for _, f := range send(l, n, 10, 0) {
			if f.n > 0 {
				run = 0
				continue
			}
			lost, run = lost+1, run+1
			longest = max(longest, run)
		}
		require.InEpsilon(t, p.Loss, float64(lost)/n, 0.05)
		require.Equal(t, max(p.Burst, 1), longest)
		require.Equal(t, Counts{Packets: n, Bytes: 10 * n, Lost: int64(lost)}, l.read())
	}
	for _, f := range send(newLane(Profile{Loss: 1}), 1000, 10, 0) {
		require.Zero(t, f.n)
	}
}

func TestLaneReordersDuplicatesAndCorruptsItsShare(t *testing.T) {
	const n, gap = 100_000, time.Millisecond
	l := newLane(Profile{Reorder: 0.1, Duplicate: 0.01, Corrupt: 0.3})
	var held, twice, flipped, overtaken int
	var before time.Time
	for i, f := range send(l, n, 10, gap) {
		require.Contains(t, []int{1, 2}, f.n)
		if f.due[0].After(epoch.Add(time.Duration(i) * gap)) {
			require.Equal(t, defaultReorderBy, f.due[0].Sub(epoch.Add(time.Duration(i)*gap)))
			held++
		}
		if f.due[0].Before(before) {
			overtaken++
		}
		before = f.due[0]
		if f.n == 2 {
			require.Equal(t, f.due[0], f.due[1])
			twice++
		}
		if f.flip >= 0 {
			require.Less(t, f.flip, 80)
			flipped++
		}
	}
	require.InEpsilon(t, 0.1, float64(held)/n, 0.1)
	require.InEpsilon(t, 0.01, float64(twice)/n, 0.2)
	require.InEpsilon(t, 0.3, float64(flipped)/n, 0.05)
	require.InEpsilon(t, held, overtaken, 0.2, "what is held back is overtaken")
	require.Equal(t, Counts{Packets: n, Bytes: 10 * n, Duplicated: int64(twice), Corrupted: int64(flipped), Reordered: int64(held)}, l.read())
}

func TestLaneBlackHole(t *testing.T) {
	const gap = 100 * time.Millisecond
	p := Profile{Up: 500 * time.Millisecond, Down: 200 * time.Millisecond}
	for i, f := range send(newLane(p), 70, 10, gap) {
		require.Equal(t, i%7 < 5, f.n == 1, "packet %d", i)
	}
	l := newLane(p)
	f := l.piece(epoch.Add(600*time.Millisecond), 10)
	require.Equal(t, epoch.Add(700*time.Millisecond), f.due[0], "a stream waits")
}

func TestLaneRateAndQueue(t *testing.T) {
	p := Profile{Delay: time.Millisecond, BytesPerSecond: 1_000_000, MaxQueue: 5}
	fates := send(newLane(p), 8, 1000, 0) // each takes 1 ms
	for i, f := range fates[:5] {
		require.Equal(t, epoch.Add(time.Duration(i+2)*time.Millisecond), f.due[0])
	}
	for _, f := range fates[5:] {
		require.Zero(t, f.n, "the queue is full")
	}
	l := newLane(p)
	require.Equal(t, int64(0), func() int64 { send(l, 100, 1000, time.Millisecond); return l.read().Lost }(), "as fast as it can be sent")
	l = newLane(p)
	send(l, 1000, 1000, 500*time.Microsecond)
	require.InEpsilon(t, 500, l.read().Lost, 0.05, "twice as fast")
	p.MaxQueue = 0
	l = newLane(p)
	send(l, 100, 1000, 0)
	require.Equal(t, int64(100-defaultQueue), l.read().Lost)
}

func TestLaneStreamLosesNothing(t *testing.T) {
	l := newLane(Profile{Delay: time.Millisecond, Loss: 0.1, Reorder: 0.5, Duplicate: 0.5, BytesPerSecond: 1 << 30, MaxQueue: 1})
	before := epoch
	for range 1000 {
		f := l.piece(epoch, 100)
		require.Equal(t, 1, f.n)
		require.False(t, f.due[0].Before(before))
		before = f.due[0]
	}
	require.Greater(t, before.Sub(epoch), retransmit, "a loss is a pause")
	require.Empty(t, l.leaving)
}

func TestLaneSameSeedSameFates(t *testing.T) {
	p := Profile{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.2, Burst: 3, Reorder: 0.1, Duplicate: 0.1, Corrupt: 0.1}
	require.Equal(t, send(newLane(p), 1000, 100, time.Millisecond), send(newLane(p), 1000, 100, time.Millisecond))
}

func TestFlipChangesOneBit(t *testing.T) {
	for bit := range 32 {
		b := make([]byte, 4)
		flip(b, bit)
		n := 0
		for _, c := range b {
			n += bits.OnesCount8(c)
		}
		require.Equal(t, 1, n)
		flip(b, bit)
		require.Equal(t, make([]byte, 4), b)
	}
	flip(nil, -1)
}

func TestProfilesHaveNamesOfTheirOwn(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range Profiles() {
		require.NotEmpty(t, p.Name)
		require.False(t, seen[p.Name])
		seen[p.Name] = true
	}
	require.Len(t, seen, 10)
}
