package alknet_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/policy"
)

// TestDocsCallThreats: every threat to calls has its row, and the tests and the
// rows of the conformance table that it names exist.
func TestDocsCallThreats(t *testing.T) {
	tests, err := policy.Tests(os.DirFS("."))
	require.NoError(t, err)
	fuzz, err := policy.FuzzTargets(os.DirFS("."))
	require.NoError(t, err)
	suite, err := os.ReadFile("call/calltest/calltest.go")
	require.NoError(t, err)
	known := strings.Join(tests, "\n") + "\n" + strings.Join(fuzz, "\n") + "\n"
	rows := tableRows(t, section(t, "docs/security.md", "Threats to calls"))
	require.Len(t, rows, 10)
	for i, row := range rows {
		require.Equal(t, "C"+strconv.Itoa(i+1), row[0])
		names := quoted(row[3])
		require.NotEmpty(t, names)
		for _, name := range names {
			test, part, _ := strings.Cut(name, "/")
			require.True(t, strings.Contains(known, "call."+test+"\n") || strings.Contains(known, "delegation."+test+"\n"), "threat %s: no test %s", row[0], test)
			if part != "" {
				require.True(t, strings.Contains(string(suite), `{"`+part+`", `), "threat %s: no row %s", row[0], part)
			}
		}
	}
}
