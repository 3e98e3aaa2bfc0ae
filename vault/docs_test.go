package vault

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDocsThreatsToTheVault: every test that docs/security.md names for the vault
// is here.
func TestDocsThreatsToTheVault(t *testing.T) {
	var code strings.Builder
	for _, name := range must(filepath.Glob("*_test.go")) {
		code.Write(must(os.ReadFile(name)))
	}
	_, section, found := strings.Cut(string(must(os.ReadFile("../docs/security.md"))), "\n## The vault\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, id := range []string{"V1", "V2", "V3", "V4", "V5", "V6", "V7", "V8"} {
		row := regexp.MustCompile(`(?m)^\| ` + id + ` \|.*$`).FindString(section)
		names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(row, -1)
		require.NotEmpty(t, names, id)
		for _, n := range names {
			require.Contains(t, code.String(), "\nfunc "+n[1]+"(t *testing.T) {", id)
		}
	}
}
