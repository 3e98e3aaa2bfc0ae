package vault

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStoreLimits: how many secrets there are, how long a file is, what a file is.
func TestStoreLimits(t *testing.T) {
	v := inMemoryVault(t, nil)
	require.NoError(t, v.Put("there", "x", secret("1")))
	full := v.contents.clone()
	for i := range maxSecrets - 1 {
		full.records[fmt.Sprint(i)] = full.records["there"]
	}
	v.replace(full)
	require.ErrorIs(t, v.Put("one more", "x", secret("1")), ErrMalformed)
	require.NoError(t, v.Put("there", "x", secret("2")), "in place of one")
	require.NoError(t, v.Delete("0"))
	require.NoError(t, v.Put("one more", "x", secret("1")))

	dir := filled(t)
	for name, limit := range map[string]int64{stateName: maxStateBytes, storeName: maxStoreBytes} {
		path := filepath.Join(dir, name)
		before := must(os.ReadFile(path))
		require.NoError(t, os.Truncate(path, limit+1)) // a hole
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, ErrMalformed)
		require.ErrorContains(t, err, fmt.Sprint(limit), "before it is read")
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700))
		_, err = Open(dir, nil)
		require.ErrorIs(t, err, ErrMalformed, "a folder in place of a file")
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.WriteFile(path, before, 0o600))
	}
	path := filepath.Join(dir, stateName)
	data := must(os.ReadFile(path))
	for _, index := range []string{"2147483648", "4294967295"} {
		require.NoError(t, os.WriteFile(path, bytes.Replace(data, []byte(`"index": 0`), []byte(`"index": `+index), 1), 0o600))
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, ErrMalformed)
		require.ErrorContains(t, err, "out of range")
	}
}
