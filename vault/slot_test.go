package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	agetest "c2sp.org/CCTV/age"
	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// sshPair is an SSH key as age takes it.
func sshPair(t *testing.T) (age.Recipient, age.Identity) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	to, err := agessh.NewEd25519Recipient(must(xssh.NewPublicKey(public)))
	require.NoError(t, err)
	id, err := agessh.NewEd25519Identity(private)
	require.NoError(t, err)
	return to, id
}

func TestSlotKinds(t *testing.T) {
	v, dir := folderVault(t, nil)
	classic, hybrid := must(age25519()), must(age.GenerateHybridIdentity())
	sshTo, sshID := sshPair(t)
	for name, slot := range map[string]struct {
		kind string
		to   age.Recipient
		id   age.Identity
	}{
		"prompt": {"scrypt", PassphraseRecipient(secret("pw"), quickScrypt()), Passphrase(secret("pw"))},
		"server": {"X25519", classic.Recipient(), classic},
		"pq":     {"mlkem768x25519", hybrid.Recipient(), hybrid},
		"ssh":    {"ssh-ed25519", sshTo, sshID},
	} {
		require.NoError(t, v.Seal(name, slot.to))
		v.Lock()
		require.NoError(t, v.Unlock(t.Context(), slot.id), name)
		got := v.Status().Slots
		require.Equal(t, name, got[len(got)-1].Name)
		require.Equal(t, []string{slot.kind}, got[len(got)-1].Kinds)
		require.WithinDuration(t, time.Now(), got[len(got)-1].Created, time.Minute)
		require.NoError(t, v.CheckPhrase(phrase(t, about), Secret{}))
		require.NoError(t, v.RemoveSlot(name))
		v.Lock()
		require.ErrorIs(t, v.Unlock(t.Context(), slot.id), ErrNoSlot, "it is gone")
		require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}))
	}
	require.NoError(t, v.Seal("two", classic.Recipient(), sshTo))
	require.Equal(t, []string{"X25519", "ssh-ed25519"}, v.Status().Slots[0].Kinds)
	for name, to := range map[string][]age.Recipient{
		"none":                          nil,
		"passphrase and another":        {PassphraseRecipient(secret("pw"), quickScrypt()), classic.Recipient()},
		"post-quantum and classic":      {hybrid.Recipient(), classic.Recipient()},
		"empty passphrase":              {PassphraseRecipient(Secret{}, quickScrypt())},
		"destroyed passphrase":          {PassphraseRecipient(destroyed(), quickScrypt())},
		"work below the least, by type": {weakScrypt(t)},
		"work out of range":             {PassphraseRecipient(secret("pw"), &Options{ScryptLog: 21})},
	} {
		require.Error(t, v.Seal("bad", to...), name)
	}
	_, err := os.Stat(filepath.Join(dir, "slots", "bad.age"))
	require.ErrorIs(t, err, iofs.ErrNotExist)
	require.Error(t, inMemoryVault(t, nil).Seal("x", classic.Recipient()))
}

func destroyed() Secret {
	s := secret("x")
	s.Destroy()
	return s
}

func weakScrypt(t *testing.T) age.Recipient {
	r, err := age.NewScryptRecipient("pw")
	require.NoError(t, err)
	r.SetWorkFactor(minScryptLog - 1)
	return r
}

// TestSlotsThatDoNotOpenLookAlike: a wrong passphrase, a foreign key and a slot
// of another vault are one error.
func TestSlotsThatDoNotOpenLookAlike(t *testing.T) {
	v, dir := folderVault(t, nil)
	sealQuick(t, v, "prompt", "pw")
	id := must(age25519())
	other := must(Create(filepath.Join(t.TempDir(), "o"), phrase(t, legal), Secret{}, nil))
	defer other.Close()
	require.NoError(t, other.Seal("planted", id.Recipient()))
	planted := must(os.ReadFile(filepath.Join(other.root.Name(), "slots", "planted.age")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "slots", "planted.age"), planted, 0o600))
	v.Lock()
	for name, id := range map[string]age.Identity{
		"wrong passphrase": Passphrase(secret("pW")), "empty passphrase": Passphrase(Secret{}),
		"foreign key": must(age25519()), "slot of another vault": id,
	} {
		err := v.Unlock(t.Context(), id)
		require.Equal(t, ErrNoSlot, err, name)
		_, err = v.Identity(0)
		require.ErrorIs(t, err, ErrLocked)
	}
	require.Equal(t, ErrNoSlot, v.Unlock(t.Context()))
	require.NoError(t, v.Unlock(t.Context(), must(age25519()), id, Passphrase(secret("pw"))), "one of many is enough")
}

// TestSlotThatAsksForTooMuchWork is refused before the work.
func TestSlotThatAsksForTooMuchWork(t *testing.T) {
	v, dir := folderVault(t, nil)
	sealQuick(t, v, "prompt", "pw")
	path := filepath.Join(dir, "slots", "prompt.age")
	data := must(os.ReadFile(path))
	require.NoError(t, os.WriteFile(path, bytes.Replace(data, []byte(" 15\n"), []byte(" 21\n"), 1), 0o600))
	v.Lock()
	scrypt := must(age.NewScryptIdentity("pw")) // whose own limit is 2^22
	for _, id := range []age.Identity{Passphrase(secret("pw")), scrypt} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := v.Unlock(t.Context(), id)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, ErrNoSlot)
		require.ErrorIs(t, err, ErrMalformed)
		require.Contains(t, err.Error(), "2^21")
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
	}
	require.NoError(t, os.WriteFile(path, data, 0o600))
	require.NoError(t, v.Unlock(t.Context(), scrypt))
}

// TestSlotReadsAgeTestKit: the scrypt files of the age project.
func TestSlotReadsAgeTestKit(t *testing.T) {
	root := must(os.OpenRoot(t.TempDir()))
	defer root.Close()
	require.NoError(t, root.Mkdir(slotsName, 0o700))
	n := 0
	for _, e := range must(iofs.ReadDir(agetest.Vectors, ".")) {
		if !strings.HasPrefix(e.Name(), "scrypt") {
			continue
		}
		data := must(iofs.ReadFile(agetest.Vectors, e.Name()))
		head, file, found := bytes.Cut(data, []byte("\n\n"))
		require.True(t, found)
		fields := make(map[string]string)
		for line := range strings.Lines(string(head)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			fields[key] = value
		}
		require.NoError(t, root.WriteFile(slotFile("kit"), file, 0o600))
		f, err := trySlot(root, "kit", Passphrase(secret(fields["passphrase"])), anyCheck)
		require.Nil(t, f, "none holds a seed")
		switch fields["expect"] {
		case "success":
			require.ErrorIs(t, err, ErrMalformed)
			require.Contains(t, err.Error(), "not the content of a slot", e.Name())
		case "no match":
			require.NoError(t, err, e.Name())
		default:
			require.Error(t, err, e.Name())
			require.NotContains(t, err.Error(), "not the content of a slot", e.Name())
		}
		n++
	}
	require.Greater(t, n, 20)
}

func TestRemoveSlotKeepsTheLast(t *testing.T) {
	v, dir := folderVault(t, nil)
	sealQuick(t, v, "a", "1")
	id := must(age25519())
	require.NoError(t, v.Seal("b", id.Recipient()))
	require.NoError(t, v.RemoveSlot("a"))
	require.ErrorIs(t, v.RemoveSlot("b"), ErrLastSlot)
	require.ErrorIs(t, v.RemoveSlot("c"), ErrNotFound)
	require.ErrorIs(t, v.CheckPhrase(phrase(t, legal), Secret{}), ErrWrongPhrase)
	require.ErrorIs(t, v.RemoveSlot("b"), ErrLastSlot, "a wrong phrase shows nothing")
	require.NoError(t, v.CheckPhrase(phrase(t, about), Secret{}))
	require.NoError(t, v.RemoveSlot("b"))
	require.NoError(t, v.Close())
	v = reopen(t, dir, nil)
	require.NoError(t, v.Seal("b", id.Recipient()))
	require.NoError(t, v.RemoveSlot("b"), "by UnlockPhrase")
}

func TestSlotNames(t *testing.T) {
	v, dir := folderVault(t, nil)
	id := must(age25519())
	for _, bad := range []string{"", ".", "..", "-a", "_a", ".a", "A", "a/b", `a\b`, "../a", "a b", "é", "a\x00", strings.Repeat("a", maxSlotName+1)} {
		require.ErrorIs(t, v.Seal(bad, id.Recipient()), ErrMalformed, "%q", bad)
		require.ErrorIs(t, v.RemoveSlot(bad), ErrMalformed, "%q", bad)
	}
	for i := range maxSlots {
		require.NoError(t, v.Seal(fmt.Sprint("s", i), id.Recipient()))
	}
	require.ErrorIs(t, v.Seal("more", id.Recipient()), ErrMalformed)
	require.NoError(t, v.Seal("s0", id.Recipient()), "in place of one")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "slots", "README"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "slots", "s0.age"), []byte("no age file"), 0o600))
	require.Nil(t, v.Status().Slots[0].Kinds)
	require.Len(t, v.Status().Slots, maxSlots)
	v.Lock()
	require.NoError(t, v.Unlock(t.Context(), id), "what is broken does not disturb the others")
}

// TestSlotsComeAndGoUnderLoad: nobody sees a half slot or a vault that does not open.
func TestSlotsComeAndGoUnderLoad(t *testing.T) {
	v, _ := folderVault(t, nil)
	id := must(age25519())
	require.NoError(t, v.Seal("stays", id.Recipient()))
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			name := fmt.Sprint("w", w)
			for range 10 {
				require.NoError(t, v.Seal(name, id.Recipient()))
				require.NoError(t, v.RemoveSlot(name))
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			require.NoError(t, v.Put("a", "b", secret(canary)))
			must(must(v.Identity(0)).Sign(nil, nil, nil))
			for _, s := range v.Status().Slots {
				require.NotEqual(t, []string{}, s.Kinds)
			}
		}
	})
	wg.Wait()
	require.Len(t, v.Status().Slots, 1)
	v.Lock()
	require.NoError(t, v.Unlock(t.Context(), id))
}

// A waiter is a plugin that waits for a touch.
type waiter struct{ touched chan struct{} }

func (w waiter) Unwrap([]*age.Stanza) ([]byte, error) {
	<-w.touched
	return nil, age.ErrIncorrectIdentity
}

// A function is an identity.
type identityFunc func([]*age.Stanza) ([]byte, error)

func (f identityFunc) Unwrap(s []*age.Stanza) ([]byte, error) { return f(s) }

func TestUnlockReturnsWhenItsContextEnds(t *testing.T) {
	v, _ := folderVault(t, nil)
	require.NoError(t, v.Seal("a", must(age25519()).Recipient()))
	v.Lock()
	synctest.Test(t, func(t *testing.T) {
		w := waiter{newChan()}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, v.Unlock(ctx, w), context.DeadlineExceeded)
		require.ErrorIs(t, v.Unlock(ctx, w), context.DeadlineExceeded, "before any work")
		close(w.touched)
	})
	require.NoError(t, v.UnlockPhrase(phrase(t, about), Secret{}), "no lock is held meanwhile")
}

func TestUnlockSurvivesIdentities(t *testing.T) {
	v, _ := folderVault(t, nil)
	good := must(age25519())
	require.NoError(t, v.Seal("a", good.Recipient()))
	v.Lock()
	err := v.Unlock(t.Context(), identityFunc(func([]*age.Stanza) ([]byte, error) { panic(canary) }))
	require.ErrorIs(t, err, ErrNoSlot)
	require.NotContains(t, err.Error(), canary)
	err = v.Unlock(t.Context(), identityFunc(func([]*age.Stanza) ([]byte, error) { runtime.Goexit(); return nil, nil }))
	require.ErrorIs(t, err, ErrNoSlot)
	broken := errors.New("no such card")
	failing := identityFunc(func([]*age.Stanza) ([]byte, error) { return nil, broken })
	err = v.Unlock(t.Context(), failing)
	require.ErrorIs(t, err, ErrNoSlot)
	require.ErrorIs(t, err, broken)
	require.Contains(t, err.Error(), "slot a")
	wrong := identityFunc(func([]*age.Stanza) ([]byte, error) { return make([]byte, 16), nil })
	require.ErrorIs(t, v.Unlock(t.Context(), wrong), ErrNoSlot)
	require.NoError(t, v.Unlock(t.Context(), failing, wrong, good))
}

// TestUnlockOfManyAtOnce: one wins, the others hear that it is done.
func TestUnlockOfManyAtOnce(t *testing.T) {
	v, _ := folderVault(t, nil)
	id := must(age25519())
	require.NoError(t, v.Seal("a", id.Recipient()))
	v.Lock()
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		wg.Go(func() { errs <- v.Unlock(t.Context(), id) })
	}
	wg.Wait()
	close(errs)
	won := 0
	for err := range errs {
		if err == nil {
			won++
		} else {
			require.ErrorIs(t, err, ErrUnlocked)
		}
	}
	require.Equal(t, 1, won)
}

func TestParseIdentities(t *testing.T) {
	classic, hybrid := must(age25519()), must(age.GenerateHybridIdentity())
	ids, err := ParseIdentities(strings.NewReader("# created: today\n\n" + classic.String() + "\r\n" + hybrid.String() + "\n"))
	require.NoError(t, err)
	require.Len(t, ids, 2)
	for text, passphrase := range map[string]string{
		"pw": "pw", "pw\n": "pw", "pw\r\n": "pw", " p w ": " p w ", "#pw": "#pw", "é ": "é ",
	} {
		ids, err := ParseIdentities(strings.NewReader(text))
		require.NoError(t, err)
		require.Len(t, ids, 1)
		got, ok := ids[0].(*passphraseIdentity)
		require.True(t, ok)
		require.True(t, got.secret.Equal(secret(passphrase)), "%q", text)
	}
	for name, text := range map[string]string{
		"empty": "", "empty line": "\n", "two lines": "a\nb", "two ends": "a\n\n", "NUL": "a\x00", "not UTF-8": "\xff", "too long": strings.Repeat("a", maxCredential+1),
		"broken key": "# x\n" + classic.String()[:50], "key and more": classic.String() + "\npassphrase",
	} {
		ids, err := ParseIdentities(strings.NewReader(text))
		require.ErrorIs(t, err, ErrMalformed, name)
		require.Nil(t, ids)
		require.NotContains(t, err.Error(), classic.String()[20:50])
	}
	_, err = ParseIdentities(iotestErr{})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }
