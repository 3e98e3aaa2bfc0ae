package alknet_test

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a program that wants the core, or the core and call, may link.
const (
	maxModules     = 12
	maxBinaryBytes = 9_000_000
)

// TestSizeOfExamples builds the examples that stand for the core and for call,
// for one platform so that the figures compare, and counts what was linked.
func TestSizeOfExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds programs")
	}
	for _, name := range []string{"echo", "call"} {
		t.Run(name, func(t *testing.T) {
			dir := "./" + filepath.ToSlash(filepath.Join("examples", name))
			bin := filepath.Join(t.TempDir(), name)
			cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, dir)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)

			info, err := buildinfo.ReadFile(bin)
			require.NoError(t, err)
			var modules []string
			for _, m := range info.Deps {
				modules = append(modules, m.Path+" "+m.Version)
			}
			stat, err := os.Stat(bin)
			require.NoError(t, err)
			t.Logf("%s: %d bytes, %d modules: %v", name, stat.Size(), len(modules), modules)
			require.LessOrEqual(t, len(modules), maxModules, "linked modules: %v", modules)
			require.LessOrEqual(t, stat.Size(), int64(maxBinaryBytes))
		})
	}
}
