package durable

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// openRoot opens a new folder.
func openRoot(t *testing.T) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { dir.Close() })
	return dir
}

// temps are the temporary files below dir.
func temps(t *testing.T, dir *os.Root) []string {
	t.Helper()
	var found []string
	require.NoError(t, iofs.WalkDir(dir.FS(), ".", func(name string, d iofs.DirEntry, err error) error {
		if strings.Contains(name, "tmp") {
			found = append(found, name)
		}
		return err
	}))
	return found
}

func TestWriteFileReplacesTheContent(t *testing.T) {
	dir := openRoot(t)
	require.NoError(t, dir.Mkdir("sub", 0o700))
	for _, name := range []string{"a.json", "sub/b.json", "./c", "sub/../d"} {
		for _, data := range [][]byte{[]byte("first, longer"), []byte("second"), {}, bytes.Repeat([]byte("x"), 1<<20)} {
			require.NoError(t, WriteFile(dir, name, data, 0o600))
			got, err := dir.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, string(data), string(got))
		}
	}
	require.Empty(t, temps(t, dir))
}

func TestWriteFilePermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits")
	}
	dir := openRoot(t)
	for _, perm := range []iofs.FileMode{0o600, 0o400, 0o644, 0o600} { // a read-only file can be replaced as well
		require.NoError(t, WriteFile(dir, "a", nil, perm))
		info, err := dir.Stat("a")
		require.NoError(t, err)
		require.Equal(t, perm, info.Mode())
	}
	require.Error(t, WriteFile(dir, "a", nil, 0o600|iofs.ModeSetuid))
}

func TestWriteFileErrorsLeaveNothing(t *testing.T) {
	dir := openRoot(t)
	require.NoError(t, dir.Mkdir("folder", 0o700))
	require.NoError(t, dir.WriteFile("folder/full", []byte("x"), 0o600))
	for _, name := range []string{"folder", "missing/a", "../outside", "/abs", "", ".", "folder/full/a", "a\x00b"} {
		require.Error(t, WriteFile(dir, name, []byte("new"), 0o600), "%q", name)
	}
	require.Empty(t, temps(t, dir))
	got, err := dir.ReadFile("folder/full")
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
	require.ErrorIs(t, WriteFile(dir, "missing/a", nil, 0o600), iofs.ErrNotExist)
}

// A link is replaced: what it led to, inside of dir or not, is not written.
func TestWriteFileDoesNotFollowALink(t *testing.T) {
	dir := openRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("old"), 0o600))
	if err := os.Symlink(outside, filepath.Join(dir.Name(), "a")); err != nil {
		t.Skip(err)
	}
	require.NoError(t, WriteFile(dir, "a", []byte("new"), 0o600))
	got, err := os.ReadFile(outside)
	require.NoError(t, err)
	require.Equal(t, "old", string(got))
	info, err := dir.Lstat("a")
	require.NoError(t, err)
	require.True(t, info.Mode().IsRegular())
}

// What a crash left behind disturbs neither writers nor readers.
func TestWriteFileBesideAStaleTemp(t *testing.T) {
	dir := openRoot(t)
	require.NoError(t, dir.WriteFile(".tmp-ABCDEFGHIJKLMNOPQRSTUVWXYZ", []byte("torn"), 0))
	require.NoError(t, WriteFile(dir, "a", []byte("whole"), 0o600))
	got, err := dir.ReadFile("a")
	require.NoError(t, err)
	require.Equal(t, "whole", string(got))
	require.Len(t, temps(t, dir), 1)
}

// content is a text that shows whether it is whole.
func content(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d\n", n), 1000+n%50) }

// version is the n of a content; it fails unless the content is whole.
func version(t require.TestingT, data []byte) int {
	var n int
	_, err := fmt.Sscanf(string(data[:min(len(data), 9)]), "%d", &n)
	require.NoError(t, err, "%d bytes", len(data))
	require.True(t, bytes.Equal(content(n), data), "version %d is torn", n)
	return n
}

func TestWriteFileReadersSeeWholeFiles(t *testing.T) {
	dir := openRoot(t)
	require.NoError(t, WriteFile(dir, "a", content(0), 0o600))
	var wg sync.WaitGroup
	errs := make(chan error, 2*100)
	for w := range 2 {
		wg.Go(func() {
			for i := range 100 {
				errs <- WriteFile(dir, "a", content(w*100+i), 0o600)
			}
		})
	}
	donec := make(chan struct{})
	go func() { wg.Wait(); close(errs); close(donec) }()
	for done := false; !done; {
		select {
		case <-donec:
			done = true
		default:
		}
		got, err := dir.ReadFile("a")
		require.NoError(t, err)
		version(t, got)
	}
	for err := range errs {
		require.NoError(t, err)
	}
	require.Empty(t, temps(t, dir))
}

// TestWriteFileModel: a folder behaves like a map from names to the last content.
func TestWriteFileModel(t *testing.T) {
	dir := openRoot(t)
	model := make(map[string]string)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "missing/c", ""}).Draw(t, "name")
		data := rapid.String().Draw(t, "data")
		err := WriteFile(dir, name, []byte(data), 0o600)
		require.Equal(t, len(name) == 1, err == nil)
		if err == nil {
			model[name] = data
		}
		for name, want := range model {
			got, err := dir.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
		}
	})
}

func TestDiscardReportsWhatItCannotRemove(t *testing.T) {
	dir := openRoot(t)
	cause := errors.New("disk full")
	require.Equal(t, cause, discard(dir, "not there", cause))
	require.NoError(t, dir.MkdirAll("temp/full", 0o700))
	err := discard(dir, "temp", cause)
	require.ErrorIs(t, err, cause)
	require.NotEqual(t, cause, err)
}
