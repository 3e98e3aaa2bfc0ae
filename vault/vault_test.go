package vault

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// TestWordsToSecretAndBack is the way through everything: phrase, vault, signer,
// slot, Put, another process's Open, Unlock, Get.
func TestWordsToSecretAndBack(t *testing.T) {
	v, dir := folderVault(t, nil)
	k := must(v.Identity(v.IdentityIndex()))
	require.NoError(t, v.Put("github", "http-token", secret(canary)))
	sealQuick(t, v, "prompt", "correct horse")
	status := v.Status()
	require.NoError(t, v.Close())

	v, err := Open(dir, nil)
	require.NoError(t, err)
	defer v.Close()
	again := v.Status()
	require.False(t, again.Unlocked)
	status.Unlocked = false
	require.Equal(t, status, again)
	require.Equal(t, 1, again.Secrets)
	require.NoError(t, v.Unlock(t.Context(), Passphrase(secret("correct horse"))))
	require.Equal(t, public(k), public(must(v.Identity(0))))
	require.True(t, reveal(t, must(v.Get("github", "http-token"))) == canary)
	require.Equal(t, []SecretInfo{{Name: "github", Purpose: "http-token", KeyVersion: 2, Generation: 1}}, v.List())
}

// TestFourWaysToBeWrong are distinct: a wrong word, a wrong checksum, a wrong
// passphrase, and a phrase of another node; none yields a signer.
func TestFourWaysToBeWrong(t *testing.T) {
	v, dir := folderVault(t, nil)
	require.NoError(t, v.Close())
	v, err := Open(dir, nil)
	require.NoError(t, err)
	defer v.Close()

	_, err = ParsePhrase("abandom" + about[len("abandon"):])
	var perr *PhraseError
	require.ErrorAs(t, err, &perr)
	require.Equal(t, 1, perr.Word)
	_, err = ParsePhrase(about[:len(about)-len("about")] + "abandon")
	require.ErrorAs(t, err, &perr)
	require.True(t, perr.Checksum)
	for name, unlock := range map[string]func() error{
		"passphrase":  func() error { return v.UnlockPhrase(phrase(t, about), secret("x")) },
		"other node":  func() error { return v.UnlockPhrase(phrase(t, legal), Secret{}) },
		"check":       func() error { return v.CheckPhrase(phrase(t, legal), Secret{}) },
		"other seed":  func() error { return v.UnlockSeed(NewSecret(make([]byte, 64))) },
		"check again": func() error { return v.CheckPhrase(phrase(t, about), secret(" ")) },
	} {
		require.ErrorIs(t, unlock(), ErrWrongPhrase, name)
		_, err = v.Identity(0)
		require.ErrorIs(t, err, ErrLocked, name)
	}
	require.ErrorIs(t, v.UnlockSeed(NewSecret(make([]byte, 63))), ErrMalformed)
	require.NoError(t, v.CheckPhrase(phrase(t, about), Secret{}))
	require.False(t, v.Status().Unlocked, "a check changes nothing")
	require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
}

func TestStates(t *testing.T) {
	v, dir := folderVault(t, nil)
	sealQuick(t, v, "prompt", "pw")
	seed := must(v.ExportSeed())
	raw := []byte(reveal(t, seed))
	ways := map[string]func() error{
		"slot":   func() error { return v.Unlock(t.Context(), Passphrase(secret("pw"))) },
		"phrase": func() error { return v.UnlockPhrase(phrase(t, about), Secret{}) },
		"seed":   func() error { return v.UnlockSeed(NewSecret(slices.Clone(raw))) },
	}
	for name, unlock := range ways {
		require.ErrorIs(t, unlock(), ErrUnlocked, name)
		require.True(t, v.Status().Unlocked)
		v.Lock()
		v.Lock() // does nothing
		require.False(t, v.Status().Unlocked)
		requireLocked(t, v)
		require.NoError(t, unlock(), name)
		require.NoError(t, v.CheckPhrase(phrase(t, about), Secret{}))
		require.True(t, v.Status().Unlocked)
	}
	require.NoError(t, v.Close())
	require.NoError(t, v.Close())
	requireLocked(t, v)
	for name, unlock := range ways {
		require.ErrorIs(t, unlock(), ErrLocked, "%s after Close", name)
	}
	require.NotPanics(t, func() { v.Status(); v.List(); v.IdentityIndex() })
	st, err := Inspect(dir)
	require.NoError(t, err)
	require.Equal(t, "prompt", st.Slots[0].Name)
}

// requireLocked: whatever needs keys fails.
func requireLocked(t *testing.T, v *Vault) {
	t.Helper()
	_, recipient := must(age.GenerateX25519Identity()), must(age.GenerateX25519Identity()).Recipient()
	for name, use := range map[string]func() error{
		"Identity":       func() error { _, err := v.Identity(0); return err },
		"RotateIdentity": func() error { _, _, err := v.RotateIdentity(); return err },
		"SSHHostKey":     func() error { _, err := v.SSHHostKey(0); return err },
		"SSHUserKey":     func() error { _, err := v.SSHUserKey(0); return err },
		"AgeIdentity":    func() error { _, err := v.AgeIdentity(0); return err },
		"PurposeKey":     func() error { _, err := v.PurposeKey("msg/store", 1); return err },
		"SitePassword":   func() error { _, err := v.SitePassword("a.b", "c", 1, PasswordPolicy{}); return err },
		"Child":          func() error { _, err := v.Child(1, nil); return err },
		"ExportSeed":     func() error { _, err := v.ExportSeed(); return err },
		"Put":            func() error { return v.Put("a", "b", Secret{}) },
		"Get":            func() error { _, err := v.Get("a", "b"); return err },
		"Delete":         func() error { return v.Delete("a") },
		"Rotate":         func() error { _, err := v.Rotate(); return err },
		"Encrypt":        func() error { _, err := v.Encrypt(EncryptedData{KeyVersion: 2}, Secret{}); return err },
		"Seal":           func() error { return v.Seal("x", recipient) },
		"RemoveSlot":     func() error { return v.RemoveSlot("prompt") },
	} {
		require.ErrorIs(t, use(), ErrLocked, name)
	}
}

// TestLockRevokesAllThatWasHandedOut, and a later Unlock does not bring it back.
func TestLockRevokesAllThatWasHandedOut(t *testing.T) {
	v := inMemoryVault(t, nil)
	require.NoError(t, v.Put("a", "b", secret(canary)))
	old, next, err := v.RotateIdentity()
	require.NoError(t, err)
	signers := []crypto.Signer{must(v.Identity(0)), must(v.SSHHostKey(0)), must(v.SSHUserKey(0)), old, next}
	secrets := []Secret{
		must(v.PurposeKey("msg/store", 1)), must(v.Get("a", "b")), must(v.ExportSeed()),
		must(v.SitePassword("a.b", "c", 1, PasswordPolicy{})),
	}
	child := must(v.Child(1, nil))
	defer child.Close()
	for _, k := range signers {
		_, err := k.Sign(nil, []byte("x"), crypto.Hash(0))
		require.NoError(t, err)
	}
	var pages [][]byte
	for _, s := range secrets {
		require.NoError(t, s.Use(func(b []byte) error {
			pages = append(pages, b)
			return nil
		}))
	}
	for range 2 {
		v.Lock()
		for _, k := range signers {
			_, err := k.Sign(nil, []byte("x"), crypto.Hash(0))
			require.ErrorIs(t, err, ErrLocked)
			require.Len(t, k.Public(), ed25519.PublicKeySize)
		}
		for i, s := range secrets {
			require.ErrorIs(t, s.Use(func([]byte) error { return nil }), ErrLocked)
			require.Equal(t, make([]byte, len(pages[i])), pages[i], "wiped")
			require.False(t, s.Equal(s))
			s.Destroy()
		}
		require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
		_, err := signers[0].Sign(nil, []byte("x"), crypto.Hash(0))
		require.ErrorIs(t, err, ErrLocked, "still")
	}
	_, err = must(child.Identity(0)).Sign(nil, nil, nil)
	require.NoError(t, err, "a child is a vault of its own")
}

// TestLockWaitsForUses: a use that has begun finishes, one that begins after
// Lock fails, and Lock returns in between.
func TestLockWaitsForUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := must(New(phrase(t, about), Secret{}, nil))
		defer v.Close()
		s := must(v.PurposeKey("x", 1))
		leave, locked := newChan(), newChan()
		var wg sync.WaitGroup
		wg.Go(func() {
			require.NoError(t, s.Use(func(b []byte) error {
				<-leave
				require.NotEqual(t, make([]byte, 32), b)
				return nil
			}))
		})
		synctest.Wait()
		for range 2 {
			wg.Go(func() { v.Lock() })
		}
		go func() { v.Lock(); close(locked) }()
		synctest.Wait()
		select {
		case <-locked:
			require.Fail(t, "Lock did not wait")
		default:
		}
		_, err := v.Identity(0)
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorIs(t, s.Use(func([]byte) error { return nil }), ErrLocked)
		close(leave)
		<-locked
		wg.Wait()
	})
}

// TestLockDuringManySignatures: each signature is whole or ErrLocked.
func TestLockDuringManySignatures(t *testing.T) {
	v := inMemoryVault(t, nil)
	for range 20 {
		k := must(v.Identity(0))
		var wg sync.WaitGroup
		begun := make(chan struct{}, 4)
		for range 4 {
			wg.Go(func() {
				for {
					sig, err := k.Sign(nil, []byte("m"), nil)
					if err != nil {
						require.ErrorIs(t, err, ErrLocked)
						return
					}
					require.True(t, ed25519.Verify(k.Public().(ed25519.PublicKey), []byte("m"), sig))
					select {
					case begun <- struct{}{}:
					default:
					}
				}
			})
		}
		<-begun
		v.Lock()
		_, err := k.Sign(nil, []byte("m"), nil)
		require.ErrorIs(t, err, ErrLocked)
		wg.Wait()
		require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
	}
}

func TestAutoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		v := must(New(phrase(t, about), Secret{}, &Options{AutoLock: time.Minute, Events: func(e Event) { events = append(events, e.Kind) }}))
		defer v.Close()
		k := must(v.Identity(0))
		for range 5 {
			time.Sleep(59 * time.Second)
			_, err := k.Sign(nil, nil, nil)
			require.NoError(t, err, "a use restarts it")
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		require.True(t, v.Status().Unlocked)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, v.Status().Unlocked)
		_, err := k.Sign(nil, nil, nil)
		require.ErrorIs(t, err, ErrLocked)
		require.Contains(t, events, eventLock)

		require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
		s := must(v.PurposeKey("x", 1))
		require.NoError(t, s.Use(func([]byte) error {
			time.Sleep(10 * time.Minute) // it does not lock under a use
			return nil
		}))
		require.True(t, v.Status().Unlocked)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		require.False(t, v.Status().Unlocked)
	})
}

// TestCacheForgetsInTime: by a timer, not at the next touch.
func TestCacheForgetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := must(New(phrase(t, about), Secret{}, &Options{CacheTTL: time.Minute}))
		defer v.Close()
		c := v.current().cache
		count := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.entries)
		}
		must(v.Identity(0))
		time.Sleep(30 * time.Second)
		must(v.Identity(1))
		must(v.Identity(0))
		require.Equal(t, 2, count())
		time.Sleep(31 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, count())
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Zero(t, count())
		require.Equal(t, make([]byte, slots*slotBytes), c.page.bytes()[slotsAt:slotsAt+slots*slotBytes], "wiped")
		must(v.Identity(0))
		require.Equal(t, 1, count())
	})
}

func TestCacheKeepsTheLastUsed(t *testing.T) {
	v := inMemoryVault(t, nil)
	c := v.current().cache
	must(v.Identity(0))
	for i := range uint32(3 * slots) {
		require.Equal(t, public(must(v.Identity(i))), public(must(v.Identity(i))))
		must(v.Identity(0))
	}
	require.Len(t, c.entries, slots)
	require.Contains(t, c.entries, cacheKeyOf(place{identityPath, 0}, formEd25519))
	require.NotContains(t, c.entries, cacheKeyOf(place{identityPath, 1}, formEd25519))
	// The same place in another form is another key.
	require.NoError(t, v.use(func(s *session) error {
		return s.derived(place{identityPath, 0}, formKey, func(key []byte) error {
			require.Len(t, key, 32)
			return nil
		})
	}))

	none := must(New(phrase(t, about), Secret{}, &Options{CacheTTL: -1}))
	defer none.Close()
	require.Equal(t, public(must(v.Identity(0))), public(must(none.Identity(0))))
	require.Empty(t, none.current().cache.entries)
}

func TestEventsTellWithoutSecrets(t *testing.T) {
	var mu sync.Mutex
	var events []Event
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := &Options{Now: func() time.Time { return now }, Events: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}}
	v, dir := folderVault(t, o)
	require.Equal(t, now, v.Status().Created)
	require.NoError(t, v.Put("github", "http-token", secret(canary)))
	must(v.Get("github", "http-token"))
	_, err := v.Get("nothing", "http-token")
	require.ErrorIs(t, err, ErrNotFound)
	must(must(v.Identity(3)).Sign(nil, nil, nil))
	must(v.Rotate())
	_, _, err = v.RotateIdentity()
	require.NoError(t, err)
	sealQuick(t, v, "prompt", canary)
	require.NoError(t, v.Delete("github"))
	v.Lock()
	require.ErrorIs(t, v.Unlock(t.Context(), Passphrase(secret("x"+canary))), ErrNoSlot)
	require.ErrorIs(t, v.UnlockPhrase(phrase(t, legal), Secret{}), ErrWrongPhrase)
	require.NoError(t, v.Unlock(t.Context(), Passphrase(secret(canary))))
	require.NoError(t, v.Close())
	_, err = Inspect(dir)
	require.NoError(t, err)
	var got []string
	for _, e := range events {
		require.Equal(t, now, e.Time)
		line := e.Kind + " " + e.Subject
		if e.Err != nil {
			line += " " + e.Err.Error()
		}
		require.NotContains(t, line, canary)
		if e.Kind != eventWarning { // memory that cannot be locked
			got = append(got, line)
		}
	}
	require.Equal(t, []string{
		"unlock new", "write github", "read github", `read nothing vault: not found: secret "nothing"`, "key m/74'/0'/0'/3'", "key m/74'/0'/0'/3'",
		"rotate secrets", "rotate identity", "slot prompt", "delete github", "lock ", "unlock slots vault: no slot opens",
		"unlock phrase vault: wrong phrase or passphrase", "unlock prompt", "lock ",
	}, got)
}

// TestEventsMayUseTheVault: no lock is held while somebody is told.
func TestEventsMayUseTheVault(t *testing.T) {
	var v *Vault
	dir := filepath.Join(t.TempDir(), "v")
	o := &Options{Events: func(e Event) {
		if v != nil && e.Kind != eventWarning {
			v.Status()
			v.List()
			if e.Kind == eventUnlock && e.Err == nil {
				require.NoError(t, v.Put("unlocked", "x", secret("1")))
			}
			if e.Kind == eventRead {
				v.Lock()
			}
		}
	}}
	v, err := Create(dir, phrase(t, about), Secret{}, o)
	require.NoError(t, err)
	defer v.Close()
	v.Lock()
	require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
	require.Len(t, v.List(), 1)
	s := must(v.Get("unlocked", "x"))
	require.ErrorIs(t, s.Use(func([]byte) error { return nil }), ErrLocked)
}

func TestOptionsAreChecked(t *testing.T) {
	for _, work := range []int{-1, 1, 14, 21} {
		o := &Options{ScryptLog: work}
		_, err := New(phrase(t, about), Secret{}, o)
		require.ErrorIs(t, err, ErrMalformed)
		_, err = Create(filepath.Join(t.TempDir(), "v"), phrase(t, about), Secret{}, o)
		require.ErrorIs(t, err, ErrMalformed)
		_, err = Open(t.TempDir(), o)
		require.ErrorIs(t, err, ErrMalformed)
	}
}

// TestSeedHandOver: a process that takes over has the keys before it has the
// folder, and the folder once the other lets go.
func TestSeedHandOver(t *testing.T) {
	v, dir := folderVault(t, nil)
	require.NoError(t, v.Put("a", "b", secret(canary)))
	_, _, err := v.RotateIdentity()
	require.NoError(t, err)
	over := NewSecret([]byte(reveal(t, must(v.ExportSeed())))) // through a pipe
	next, err := FromSeed(over, nil)
	require.NoError(t, err)
	defer next.Close()
	require.Equal(t, public(must(v.Identity(1))), public(must(next.Identity(1))))
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, v.Close())
	v, err = Open(dir, nil)
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.UnlockSeed(over))
	require.True(t, reveal(t, must(v.Get("a", "b"))) == canary)
	require.Equal(t, uint32(1), v.IdentityIndex())
	_, err = FromSeed(NewSecret(make([]byte, 32)), nil)
	require.ErrorIs(t, err, ErrMalformed)
}

func TestCreateAndOpenErrors(t *testing.T) {
	v, dir := folderVault(t, nil)
	_, err := Create(dir, phrase(t, legal), Secret{}, nil)
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, v.Close())
	_, err = Create(dir, phrase(t, legal), Secret{}, nil)
	require.ErrorIs(t, err, ErrExists)
	require.NotNil(t, reopen(t, dir, nil), "it is as it was")
	for _, missing := range []string{filepath.Join(dir, "none"), t.TempDir()} {
		_, err = Open(missing, nil)
		require.True(t, errors.Is(err, ErrNotFound) || errors.Is(err, ErrMalformed), "%v", err) // TempDir is 0755
		_, err = Inspect(missing)
		require.Error(t, err)
	}
	_, err = Create(filepath.Join(dir, "no", "parent"), phrase(t, about), Secret{}, nil)
	require.Error(t, err)
	_, err = Create(filepath.Join(t.TempDir(), "v"), Phrase{}, Secret{}, nil)
	require.Error(t, err)
	require.ErrorIs(t, v.Unlock(context.Background()), ErrLocked)
}

// TestClockMayBeWrong by 30 years either way.
func TestClockMayBeWrong(t *testing.T) {
	for _, years := range []int{-30, 30} {
		v, dir := folderVault(t, &Options{Now: func() time.Time { return time.Now().AddDate(years, 0, 0) }})
		require.NoError(t, v.Put("a", "b", secret(canary)))
		require.NoError(t, v.Close())
		require.True(t, reveal(t, must(reopen(t, dir, nil).Get("a", "b"))) == canary)
	}
}
