package main

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the program may link.
const (
	maxModules     = 70
	maxBinaryBytes = 24_000_000
)

// TestSizeOfProgram builds it for one platform, so that the figures compare.
func TestSizeOfProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program")
	}
	bin := filepath.Join(t.TempDir(), "alknet")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	info, err := buildinfo.ReadFile(bin)
	require.NoError(t, err)
	stat, err := os.Stat(bin)
	require.NoError(t, err)
	t.Logf("%d bytes, %d modules", stat.Size(), len(info.Deps))
	require.LessOrEqual(t, len(info.Deps), maxModules)
	require.LessOrEqual(t, stat.Size(), int64(maxBinaryBytes))
}
