package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDocsAreGenerated: docs/cli and the man pages are what the command tree says.
//
//	go run ./cmd/alknet/internal/gendocs docs/cli cmd/alknet/packaging/man
func TestDocsAreGenerated(t *testing.T) {
	dir := t.TempDir()
	markdown, man := filepath.Join(dir, "cli"), filepath.Join(dir, "man")
	out, err := exec.CommandContext(t.Context(), "go", "run", "./internal/gendocs", markdown, man).CombinedOutput()
	require.NoError(t, err, "%s", out)
	docs := filepath.Join("..", "..", "docs", "cli")
	for fresh, kept := range map[string]string{markdown: docs, filepath.Join(markdown, "schema"): filepath.Join(docs, "schema"), man: filepath.Join("packaging", "man")} {
		want, err := os.ReadDir(fresh)
		require.NoError(t, err)
		have, err := os.ReadDir(kept)
		require.NoError(t, err)
		require.Len(t, have, len(want), "%s has pages of commands that are not there, or lacks some", kept)
		for _, e := range want {
			if e.IsDir() {
				continue
			}
			a, err := os.ReadFile(filepath.Join(fresh, e.Name()))
			require.NoError(t, err)
			b, err := os.ReadFile(filepath.Join(kept, e.Name()))
			require.NoError(t, err)
			require.Equal(t, string(a), string(b), "%s is not what its command says", e.Name())
		}
	}
}
