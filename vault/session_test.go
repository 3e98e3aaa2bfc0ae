package vault

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestLockWaitsForUsesOfEarlierSessions: a lock that is waiting does not keep an
// unlock away, and the lock after it waits for what the first one waits for.
func TestLockWaitsForUsesOfEarlierSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := must(New(phrase(t, about), Secret{}, nil))
		defer v.Close()
		old := must(v.PurposeKey("x", 1))
		leave := newChan()
		var wg sync.WaitGroup
		wg.Go(func() {
			require.NoError(t, old.Use(func([]byte) error {
				<-leave
				return nil
			}))
		})
		synctest.Wait()
		wg.Go(v.Lock)
		synctest.Wait()
		var young Secret
		for range 2 {
			require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
			young = must(v.PurposeKey("x", 1))
			var kept []byte
			require.NoError(t, young.Use(func(b []byte) error {
				kept = b
				return nil
			}))
			locked := newChan()
			wg.Go(func() { v.Lock(); close(locked) })
			synctest.Wait()
			select {
			case <-locked:
				require.Fail(t, "Lock returned under a use")
			default:
			}
			require.Equal(t, make([]byte, 32), kept, "it is wiped meanwhile")
			require.ErrorIs(t, young.Use(func([]byte) error { return nil }), ErrLocked)
		}
		close(leave)
		wg.Wait()
		require.Empty(t, v.ending)
	})
}
