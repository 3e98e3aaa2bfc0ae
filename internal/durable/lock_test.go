package durable

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLockExcludesEverybodyElse(t *testing.T) {
	dir := openRoot(t)
	unlock, err := Lock(dir, "lock")
	require.NoError(t, err)
	_, err = Lock(dir, "lock")
	require.ErrorIs(t, err, ErrLocked)
	require.EqualError(t, err, fmt.Sprintf(`durable: lock "lock": locked by process %d`, os.Getpid()))

	other, err := Lock(dir, "another")
	require.NoError(t, err, "another name is another lock")
	other()

	unlock()
	unlock() // does nothing
	again, err := Lock(dir, "lock")
	require.NoError(t, err)
	unlock() // still nothing: the lock is somebody else's now
	_, err = Lock(dir, "lock")
	require.ErrorIs(t, err, ErrLocked)
	again()
}

func TestLockOneOfManyGetsIt(t *testing.T) {
	dir := openRoot(t)
	for range 20 {
		var wg sync.WaitGroup
		var won atomic.Int64
		unlocks := make(chan func(), 8)
		for range 8 {
			wg.Go(func() {
				if unlock, err := Lock(dir, "lock"); err == nil {
					won.Add(1)
					unlocks <- unlock
				}
			})
		}
		wg.Wait()
		require.Equal(t, int64(1), won.Load())
		(<-unlocks)()
	}
}

// The holder is a help: the lock does not depend on what is in its file.
func TestLockWithoutAKnownHolder(t *testing.T) {
	dir := openRoot(t)
	for _, text := range []string{"", "x", "-5", "0", "1 2", "\x1b[2J", strings.Repeat("9", 100)} {
		unlock, err := Lock(dir, "lock")
		require.NoError(t, err)
		require.NoError(t, dir.WriteFile("lock", []byte(text), 0o600))
		_, err = Lock(dir, "lock")
		require.ErrorIs(t, err, ErrLocked)
		require.EqualError(t, err, `durable: lock "lock": locked`, "%q", text)
		unlock()
	}
}

func TestLockFileThatWasLeftBehind(t *testing.T) {
	dir := openRoot(t)
	require.NoError(t, dir.WriteFile("lock", []byte("1\n"), 0o600))
	unlock, err := Lock(dir, "lock")
	require.NoError(t, err, "a crash leaves the file, not the lock")
	text, err := dir.ReadFile("lock")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintln(os.Getpid()), string(text))
	unlock()
	text, err = dir.ReadFile("lock")
	require.NoError(t, err)
	require.Empty(t, text, "a stale process id misleads nobody")
}

// A file that was removed under its holder is no longer the lock's.
func TestLockFileThatWasRemoved(t *testing.T) {
	dir := openRoot(t)
	unlock, err := Lock(dir, "lock")
	require.NoError(t, err)
	if err := dir.Remove("lock"); err != nil {
		unlock()
		t.Skip(err) // Windows does not remove what is open
	}
	again, err := Lock(dir, "lock")
	require.NoError(t, err)
	unlock()
	_, err = Lock(dir, "lock")
	require.ErrorIs(t, err, ErrLocked, "the end of the first leaves the second alone")
	again()

	f, err := dir.Create("old")
	require.NoError(t, err)
	defer f.Close()
	require.True(t, current(dir, "old", f))
	require.NoError(t, dir.Rename("old", "new"))
	require.False(t, current(dir, "old", f))
}

func TestLockErrors(t *testing.T) {
	dir := openRoot(t)
	require.NoError(t, dir.Mkdir("folder", 0o700))
	for _, name := range []string{"folder", "missing/lock", "../lock", ""} {
		_, err := Lock(dir, name)
		require.Error(t, err, "%q", name)
		require.NotErrorIs(t, err, ErrLocked)
	}
}
