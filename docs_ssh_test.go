package alknet_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/policy"
)

// TestDocsThreatsOfSSH: every threat to the packages below ssh has its row, and
// the tests that a row names exist.
func TestDocsThreatsOfSSH(t *testing.T) {
	tests, err := policy.Tests(os.DirFS("."))
	require.NoError(t, err)
	rows := tableRows(t, section(t, "docs/security.md", "Threats to SSH, tunnels and SOCKS"))
	require.Len(t, rows, 8)
	for i, row := range rows {
		require.Equal(t, "S"+strconv.Itoa(i+1), row[0])
		names := quoted(row[2])
		require.NotEmpty(t, names)
		for _, name := range names {
			require.Contains(t, tests, name, "threat %s", row[0])
		}
	}
}
