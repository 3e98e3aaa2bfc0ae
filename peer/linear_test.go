package peer

import (
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A counted is one operation on a counter in the Book: what it wrote or read, and
// from when to when it ran.
type counted struct {
	value      int
	write      bool
	begun, end time.Time
}

// linearizable checks a history of a counter that only rises: writes are all
// different, whatever ended before something else began comes before it, and a read
// sees all writes that had ended and none that had not begun.
func linearizable(t *testing.T, history []counted, writes int) {
	t.Helper()
	seen := make([]bool, writes+1)
	for _, a := range history {
		if a.write {
			require.False(t, seen[a.value], "two writes saw the same")
			seen[a.value] = true
		}
		for _, b := range history {
			if !a.end.Before(b.begun) {
				continue
			}
			switch {
			case b.write:
				require.Less(t, a.value, b.value, "an update is lost or came too late")
			default:
				require.LessOrEqual(t, a.value, b.value, "a read is stale")
			}
		}
	}
	require.NotContains(t, seen[1:], false)
}

// TestBookIsLinearizable: several Books of one file, each with descriptors and locks
// of its own as processes have them, update it and read it at once.
func TestBookIsLinearizable(t *testing.T) {
	const books, updates = 4, 25
	path := filepath.Join(t.TempDir(), "peers.json")
	var mu sync.Mutex
	var history []counted
	note := func(c counted) {
		c.end = time.Now()
		mu.Lock()
		defer mu.Unlock()
		history = append(history, c)
	}
	var wg sync.WaitGroup
	for range books {
		b := openBook(t, path)
		wg.Go(func() {
			for range updates {
				c := counted{write: true, begun: time.Now()}
				err := b.Update(func(m map[string]Peer) error {
					p := m["count"]
					n, _ := strconv.Atoi(p.Note) // "" is 0
					c.value = n + 1
					p.ID, p.Note = "count", strconv.Itoa(n+1)
					m["count"] = p
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				note(c)
			}
		})
		reader := openBook(t, path)
		wg.Go(func() {
			for range updates {
				c := counted{begun: time.Now()}
				if err := reader.Reload(); err != nil {
					t.Error(err)
					return
				}
				p, _ := reader.Get("count")
				c.value, _ = strconv.Atoi(p.Note)
				note(c)
			}
		})
	}
	wg.Wait()
	linearizable(t, history, books*updates)
}
