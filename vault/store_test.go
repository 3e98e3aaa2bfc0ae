package vault

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// copyFolder copies a vault's folder, with its modes.
func copyFolder(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, filepath.WalkDir(from, func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := must(filepath.Rel(from, name))
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	}))
	return to
}

// tryFolder opens a folder and unlocks it with the phrase about.
func tryFolder(t testing.TB, dir string, o *Options) (*Vault, error) {
	t.Helper()
	v, err := Open(dir, o)
	if err != nil {
		return nil, err
	}
	if err := v.UnlockPhrase(phrase(t, about), Secret{}); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// refused requires that a folder does not open, with a typed error.
func refused(t testing.TB, dir, what string) {
	t.Helper()
	v, err := tryFolder(t, dir, nil)
	if err == nil {
		v.Close()
	}
	require.True(t, errors.Is(err, ErrDecrypt) || errors.Is(err, ErrMalformed) || errors.Is(err, ErrWrongPhrase), "%s: %v", what, err)
}

// filled is a closed folder with two secrets and a slot.
func filled(t testing.TB) string {
	t.Helper()
	v, dir := folderVault(t, nil)
	require.NoError(t, v.Put("github", "http-token", secret(canary)))
	require.NoError(t, v.Put("gitlab", "http-token", secret(canary+"2")))
	sealQuick(t, v, "prompt", "pw")
	require.NoError(t, v.Close())
	return dir
}

// TestFolderEveryByteCounts: each byte of each file flipped, and each file cut
// at every length, is a typed error, and the folder is whole again with the file.
func TestFolderEveryByteCounts(t *testing.T) {
	dir := filled(t)
	for _, name := range []string{stateName, storeName} {
		path := filepath.Join(dir, name)
		data := must(os.ReadFile(path))
		step := 1
		if testing.Short() {
			step = 7
		}
		for i := 0; i < len(data); i += step {
			spoiled := bytes.Clone(data)
			spoiled[i] ^= 1 << (i % 8)
			require.NoError(t, os.WriteFile(path, spoiled, 0o600))
			refused(t, dir, fmt.Sprintf("%s: byte %d", name, i))
			require.NoError(t, os.WriteFile(path, data[:i], 0o600))
			refused(t, dir, fmt.Sprintf("%s: cut at %d", name, i))
		}
		require.NoError(t, os.WriteFile(path, append(bytes.Clone(data), '\n'), 0o600))
		refused(t, dir, name+": longer")
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	v := reopen(t, dir, nil)
	require.True(t, reveal(t, must(v.Get("github", "http-token"))) == canary, "nothing was lost")
}

func TestSlotEveryByteCounts(t *testing.T) {
	dir := filled(t)
	path := filepath.Join(dir, "slots", "x.age")
	v := reopen(t, dir, nil)
	id := must(age25519())
	require.NoError(t, v.Seal("x", id.Recipient()))
	v.Lock()
	data := must(os.ReadFile(path))
	for i := range data {
		for _, spoiled := range [][]byte{append(append(bytes.Clone(data[:i]), data[i]^1<<(i%8)), data[i+1:]...), data[:i]} {
			require.NoError(t, os.WriteFile(path, spoiled, 0o600))
			require.ErrorIs(t, v.Unlock(t.Context(), id), ErrNoSlot, "byte %d", i)
		}
	}
	require.NoError(t, os.WriteFile(path, data, 0o600))
	require.NoError(t, v.Unlock(t.Context(), id))
}

// edit changes secrets.json as somebody could who knows its form but not the keys.
func edit(t *testing.T, dir string, change func(st *store)) {
	t.Helper()
	path := filepath.Join(dir, storeName)
	st, err := parseStore(storeName, must(os.ReadFile(path)))
	require.NoError(t, err)
	change(st)
	require.NoError(t, os.WriteFile(path, must(encodeFile(st)), 0o600))
}

// TestStoreRefusesSwapsAndRollbacks: whoever can write the folder but does not
// have the keys can take secrets away, but not exchange, add or put back any.
func TestStoreRefusesSwapsAndRollbacks(t *testing.T) {
	dir := filled(t)
	old := must(parseStore(storeName, must(os.ReadFile(filepath.Join(dir, storeName)))))
	oldFile := must(os.ReadFile(filepath.Join(dir, storeName)))
	oldState := must(os.ReadFile(filepath.Join(dir, stateName)))
	v := reopen(t, dir, nil)
	require.NoError(t, v.Put("github", "http-token", secret("new")))
	must(v.Rotate())
	require.NoError(t, v.Close())

	for name, change := range map[string]func(st *store){
		"old record":      func(st *store) { st.Records[0] = old.Records[0] },
		"old data":        func(st *store) { st.Records[0].Data = old.Records[0].Data },
		"all old records": func(st *store) { st.Records = old.Records },
		"swapped":         func(st *store) { st.Records[0], st.Records[1] = st.Records[1], st.Records[0] },
		"swapped with their names": func(st *store) {
			st.Records[0], st.Records[1] = st.Records[1], st.Records[0]
			st.Records[0].Name, st.Records[1].Name = st.Records[1].Name, st.Records[0].Name
		},
		"swapped data":  func(st *store) { st.Records[0].Data, st.Records[1].Data = st.Records[1].Data, st.Records[0].Data },
		"one removed":   func(st *store) { st.Records = st.Records[:1] },
		"all removed":   func(st *store) { st.Records = []EncryptedData{} },
		"one twice":     func(st *store) { st.Records = append(st.Records, st.Records[1]) },
		"renamed":       func(st *store) { st.Records[0].Name = "gith" },
		"other purpose": func(st *store) { st.Records[0].Purpose = "x" },
		"generation":    func(st *store) { st.Records[0].Generation++ },
		"key version":   func(st *store) { st.Records[0].KeyVersion-- },
		"change":        func(st *store) { st.Change++ },
		"old mac":       func(st *store) { st.MAC = old.MAC },
		"no mac":        func(st *store) { st.MAC = []byte{} },
		"version":       func(st *store) { st.Version = 2 },
		"envelope 0": func(st *store) {
			st.Records[0] = EncryptedData{KeyVersion: 2, IV: make([]byte, 12), Salt: []byte{}, Data: make([]byte, 16)}
		},
	} {
		spoiled := copyFolder(t, dir)
		edit(t, spoiled, change)
		refused(t, spoiled, name)
	}
	for name, data := range map[string]map[string][]byte{
		"old secrets.json":                 {storeName: oldFile},
		"old vault.json, older than a key": {stateName: oldState},
		"secrets.json of another vault":    {storeName: otherStore(t)},
		"vault.json of another vault":      {stateName: otherState(t)},
		"both of another vault":            {stateName: otherState(t), storeName: otherStore(t)},
	} {
		spoiled := copyFolder(t, dir)
		for file, content := range data {
			require.NoError(t, os.WriteFile(filepath.Join(spoiled, file), content, 0o600))
		}
		refused(t, spoiled, name)
	}
	gone := copyFolder(t, dir)
	require.NoError(t, os.Remove(filepath.Join(gone, storeName)))
	refused(t, gone, "secrets.json missing")
	v = reopen(t, dir, nil)
	require.Equal(t, "new", reveal(t, must(v.Get("github", "http-token"))))
}

func otherFolder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "other")
	v := must(Create(dir, phrase(t, legal), Secret{}, nil))
	for range 9 {
		require.NoError(t, v.Put("github", "http-token", secret("planted")))
	}
	require.NoError(t, v.Close())
	return dir
}

func otherStore(t testing.TB) []byte {
	return must(os.ReadFile(filepath.Join(otherFolder(t), storeName)))
}
func otherState(t testing.TB) []byte {
	return must(os.ReadFile(filepath.Join(otherFolder(t), stateName)))
}

// TestRecoverIsAskedFor: an older secrets.json is offered and never taken in silence.
func TestRecoverIsAskedFor(t *testing.T) {
	dir := filled(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, storeName), []byte("{"), 0o600))
	_, err := tryFolder(t, dir, nil)
	require.ErrorIs(t, err, ErrMalformed)
	broken := copyFolder(t, dir)
	edit2 := must(os.ReadFile(filepath.Join(dir, oldName)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, storeName), edit2, 0o600))
	_, err = tryFolder(t, dir, nil)
	require.ErrorIs(t, err, ErrDecrypt, "an older one")
	require.Contains(t, err.Error(), "Options.Recover takes it")

	for name, dir := range map[string]string{"broken": broken, "older": dir} {
		var warned []error
		o := &Options{Recover: true, Events: func(e Event) {
			if e.Kind == eventWarning && e.Subject == storeName {
				warned = append(warned, e.Err)
			}
		}}
		v, err := tryFolder(t, dir, o)
		require.NoError(t, err, name)
		require.Len(t, warned, 1)
		require.True(t, reveal(t, must(v.Get("github", "http-token"))) == canary, "the one before the last change")
		require.Len(t, v.List(), 1)
		require.NoError(t, v.Close())
		v, err = tryFolder(t, dir, nil)
		require.NoError(t, err, "it is the right one now")
		require.NoError(t, v.Close())
	}
	for _, name := range []string{storeName, oldName} {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	refused(t, dir, "none left")
	v, err := tryFolder(t, dir, &Options{Recover: true})
	require.NoError(t, err)
	require.Empty(t, v.List())
	require.NoError(t, v.Close())
}

// TestLostStateNeedsRecover: without vault.json nothing says whose vault it is.
func TestLostStateNeedsRecover(t *testing.T) {
	dir := filled(t)
	v := reopen(t, dir, nil)
	must(v.Rotate())
	require.NoError(t, v.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, stateName)))
	v, err := Open(dir, nil)
	require.NoError(t, err)
	require.ErrorIs(t, v.UnlockPhrase(phrase(t, about), Secret{}), ErrNotFound)
	require.ErrorIs(t, v.CheckPhrase(phrase(t, about), Secret{}), ErrNotFound)
	err = v.Unlock(t.Context(), Passphrase(secret("pw")))
	require.ErrorIs(t, err, ErrNoSlot)
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, v.Close())

	v, err = Open(dir, &Options{Recover: true})
	require.NoError(t, err)
	require.NoError(t, v.Unlock(t.Context(), Passphrase(secret("pw"))))
	require.True(t, reveal(t, must(v.Get("github", "http-token"))) == canary)
	require.Equal(t, uint32(3), v.Status().KeyVersion)
	require.NoError(t, v.Close())
	v = reopen(t, dir, nil)
	require.NoError(t, v.CheckPhrase(phrase(t, about), Secret{}))

	// A planted slot of another vault does not take the folder over.
	id := must(age25519())
	planter := must(Create(filepath.Join(t.TempDir(), "o"), phrase(t, legal), Secret{}, nil))
	require.NoError(t, planter.Seal("planted", id.Recipient()))
	planted := must(os.ReadFile(filepath.Join(planter.root.Name(), slotFile("planted"))))
	require.NoError(t, planter.Close())
	require.NoError(t, v.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, slotFile("planted")), planted, 0o600))
	require.NoError(t, os.Remove(filepath.Join(dir, stateName)))
	before := must(os.ReadFile(filepath.Join(dir, storeName)))
	v, err = Open(dir, &Options{Recover: true})
	require.NoError(t, err)
	require.ErrorIs(t, v.Unlock(t.Context(), id), ErrDecrypt)
	require.Equal(t, before, must(os.ReadFile(filepath.Join(dir, storeName))), "and destroys nothing")
	require.NoError(t, v.Unlock(t.Context(), Passphrase(secret("pw"))))
	require.NoError(t, v.Close())
}

// TestFolderOfOthersIsRefused, with the line that mends it.
func TestFolderOfOthersIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits")
	}
	dir := filled(t)
	for name, mode := range map[string]iofs.FileMode{"": 0o750, "slots": 0o701, stateName: 0o640, storeName: 0o602, "slots/prompt.age": 0o644} {
		path := filepath.Join(dir, name)
		before := must(os.Stat(path)).Mode()
		require.NoError(t, os.Chmod(path, mode))
		v, err := Open(dir, nil)
		if name == "slots/prompt.age" {
			require.NoError(t, err)
			err = v.Unlock(t.Context(), Passphrase(secret("pw")))
			require.NoError(t, v.Close())
		}
		require.ErrorIs(t, err, ErrMalformed, name)
		require.Regexp(t, `chmod [67]00 \S*`+name, err.Error())
		require.NoError(t, os.Chmod(path, before))
	}
	for _, name := range []string{stateName, storeName} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.Rename(path, path+".moved"))
		require.NoError(t, os.Symlink(name+".moved", path))
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, ErrMalformed, "a link")
		require.NoError(t, os.Rename(path+".moved", path))
	}
	require.NoError(t, reopen(t, dir, nil).Close())
	for _, d := range []string{dir, filepath.Join(dir, "slots")} {
		for _, e := range must(os.ReadDir(d)) {
			require.Zero(t, must(e.Info()).Mode().Perm()&0o077, e.Name())
		}
	}
}

func TestPutGetListDeleteRotate(t *testing.T) {
	for name, make := range map[string]func() *Vault{
		"folder": func() *Vault { v, _ := folderVault(t, nil); return v },
		"memory": func() *Vault { return inMemoryVault(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			v := make()
			require.Empty(t, v.List())
			require.NoError(t, v.Put("b", "x", secret("1")))
			require.NoError(t, v.Put("a", "y", Secret{}))
			require.NoError(t, v.Put("b", "z", secret("2")))
			require.Equal(t, []SecretInfo{{Name: "a", Purpose: "y", KeyVersion: 2, Generation: 2}, {Name: "b", Purpose: "z", KeyVersion: 2, Generation: 3}}, v.List())
			_, err := v.Get("b", "x")
			require.ErrorIs(t, err, ErrDecrypt, "another purpose")
			_, err = v.Get("c", "x")
			require.ErrorIs(t, err, ErrNotFound)
			require.ErrorIs(t, v.Delete("c"), ErrNotFound)
			for _, bad := range []string{"", "a\n", "é", strings.Repeat("x", 201)} {
				require.ErrorIs(t, v.Put(bad, "x", Secret{}), ErrMalformed)
				require.ErrorIs(t, v.Put("x", bad, Secret{}), ErrMalformed)
			}
			require.ErrorIs(t, v.Put("big", "x", NewSecret(slices.Repeat([]byte{1}, maxDataBytes-tagBytes+1))), ErrMalformed)
			require.NoError(t, v.Put("big", "x", NewSecret(slices.Repeat([]byte{1}, maxDataBytes-tagBytes))))
			require.NoError(t, v.Delete("big"))
			dead := secret("x")
			dead.Destroy()
			require.ErrorIs(t, v.Put("dead", "x", dead), ErrLocked)
			n, err := v.Rotate()
			require.NoError(t, err)
			require.Equal(t, 2, n)
			for _, info := range v.List() {
				require.Equal(t, uint32(3), info.KeyVersion)
			}
			require.Equal(t, "2", reveal(t, must(v.Get("b", "z"))))
			require.Empty(t, reveal(t, must(v.Get("a", "y"))))
		})
	}
}

// TestRotationIsFinishedByTheNextChange, after one that was interrupted.
func TestRotationIsFinishedByTheNextChange(t *testing.T) {
	for name, next := range map[string]func(v *Vault) error{
		"Put":    func(v *Vault) error { return v.Put("c", "x", secret("3")) },
		"Rotate": func(v *Vault) error { _, err := v.Rotate(); return err },
	} {
		v, dir := folderVault(t, nil)
		require.NoError(t, v.Put("a", "x", secret("1")))
		require.NoError(t, v.Put("b", "x", secret("2")))
		require.NoError(t, v.change(func(s *session, next *contents) error { // the first half of Rotate
			next.state.KeyVersion++
			return v.saveState(s, next)
		}))
		require.NoError(t, v.Close())
		v = reopen(t, dir, nil)
		require.Equal(t, "1", reveal(t, must(v.Get("a", "x"))))
		require.NoError(t, next(v), name)
		for _, info := range v.List() {
			require.Equal(t, v.Status().KeyVersion, info.KeyVersion, name)
		}
		require.Equal(t, "2", reveal(t, must(v.Get("b", "x"))))
	}
}

func TestStoreManyAtOnce(t *testing.T) {
	v, dir := folderVault(t, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprint("s", i)
			for n := range 5 {
				text := fmt.Sprint(i, n)
				require.NoError(t, v.Put(name, "x", secret(text)))
				require.Equal(t, text, reveal(t, must(v.Get(name, "x"))))
				v.List()
				v.Status()
			}
		})
	}
	wg.Go(func() { must(v.Rotate()) })
	wg.Wait()
	require.NoError(t, v.Close())
	v = reopen(t, dir, nil)
	require.Len(t, v.List(), 8)
	require.Equal(t, "3 4", reveal(t, must(v.Get("s3", "x"))))
}

// TestStoreModel: a vault behaves like a map, over locks and new processes.
func TestStoreModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		parent, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		dir := filepath.Join(parent, "v")
		v := must(Create(dir, phrase(t, about), Secret{}, nil))
		defer func() { v.Close() }()
		model := make(map[string][2]string)
		name := rapid.SampledFrom([]string{"a", "b", "c d", "~"})
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				n, p, s := name.Draw(rt, "name"), rapid.StringMatching("[a-z]{1,3}").Draw(rt, "purpose"), rapid.String().Draw(rt, "secret")
				require.NoError(rt, v.Put(n, p, secret(s)))
				model[n] = [2]string{p, s}
			},
			"delete": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				_, there := model[n]
				require.Equal(rt, there, v.Delete(n) == nil)
				delete(model, n)
			},
			"rotate": func(rt *rapid.T) {
				n, err := v.Rotate()
				require.NoError(rt, err)
				require.Equal(rt, len(model), n)
			},
			"lock": func(rt *rapid.T) {
				v.Lock()
				require.NoError(rt, v.UnlockPhrase(phrase(t, about), Secret{}))
			},
			"reopen": func(rt *rapid.T) {
				require.NoError(rt, v.Close())
				v = must(tryFolder(t, dir, nil))
			},
			"": func(rt *rapid.T) {
				require.Len(rt, v.List(), len(model))
				for n, want := range model {
					got, err := v.Get(n, want[0])
					require.NoError(rt, err)
					require.True(rt, got.Equal(secret(want[1])))
				}
			},
		})
	})
}

// TestReleaseFixtures: a folder of each format that was released opens.
func TestReleaseFixtures(t *testing.T) {
	dir := copyFolder(t, "testdata/release-1")
	v, err := Open(dir, nil)
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Unlock(t.Context(), Passphrase(secret("release fixture"))))
	require.NoError(t, v.CheckPhrase(phrase(t, about), Secret{}))
	require.Equal(t, uint32(1), v.IdentityIndex())
	require.Equal(t, []SecretInfo{{Name: "github", Purpose: "http-token", KeyVersion: 3, Generation: 2}}, v.List())
	require.Equal(t, vectorText, reveal(t, must(v.Get("github", "http-token"))))
	require.NoError(t, v.Put("more", "x", secret("y")))
}
