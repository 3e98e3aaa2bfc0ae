package alknet_test

import (
	"bytes"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/policy"
)

// documents are the Markdown files of the repository.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := make(map[string]string)
	require.NoError(t, filepath.WalkDir(".", func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := d.Name(); d.IsDir() && (base == "node_modules" || base == "testdata" || len(base) > 1 && base[0] == '.') {
			return filepath.SkipDir
		}
		if filepath.Ext(name) == ".md" {
			b, err := os.ReadFile(name)
			docs[filepath.ToSlash(name)] = string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
			return err
		}
		return nil
	}))
	return docs
}

// section is the text below a heading of a document, up to the next one.
func section(t *testing.T, doc, heading string) string {
	t.Helper()
	_, after, found := strings.Cut("\n"+documents(t)[doc], "\n## "+heading+"\n")
	require.True(t, found, "%s has no section %q", doc, heading)
	text, _, _ := strings.Cut(after, "\n## ")
	return text
}

// tableRows are the cells of the only table in a text, without its two head lines.
func tableRows(t *testing.T, text string) [][]string {
	t.Helper()
	var rows [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	require.GreaterOrEqual(t, len(rows), 2, "no table in %q", text)
	return rows[2:]
}

// quoted are the `names` in a cell.
func quoted(cell string) []string {
	var names []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		names = append(names, m[1])
	}
	return names
}

// TestDocsReadmeCode: the Go in README.md is a piece of examples/echo, as it stands there.
func TestDocsReadmeCode(t *testing.T) {
	src, err := os.ReadFile("examples/echo/main.go")
	require.NoError(t, err)
	program := strings.ReplaceAll(string(src), "\r\n", "\n")
	blocks := regexp.MustCompile("(?s)\n```go\n(.*?\n)```\n").FindAllStringSubmatch(documents(t)["README.md"], -1)
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		require.Contains(t, program, "\n"+b[1], "this block of README.md is not in examples/echo/main.go")
	}
}

// TestDocsReadmeCommands: what README.md tells a reader to run exists.
func TestDocsReadmeCommands(t *testing.T) {
	readme := documents(t)["README.md"]
	require.Contains(t, readme, "$ go test ./...\n")
	for _, m := range regexp.MustCompile(`(?m)^\$ go run (\S+)`).FindAllStringSubmatch(readme, -1) {
		require.FileExists(t, filepath.Join(m[1], "main.go"))
	}
}

// TestDocsLinks: a relative link leads to a file, and to a heading of it.
func TestDocsLinks(t *testing.T) {
	docs := documents(t)
	for name, text := range docs {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
				_, err := os.Stat(target)
				require.NoError(t, err, "%s links to %s", name, m[1])
			}
			if anchor != "" {
				require.Contains(t, anchors(docs[target]), anchor, "%s links to %s", name, m[1])
			}
		}
	}
}

// anchors are the fragments of the headings of a document.
func anchors(text string) []string {
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		plain := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		list = append(list, strings.ReplaceAll(plain, " ", "-"))
	}
	return list
}

// TestDocsLength: short documents are read.
func TestDocsLength(t *testing.T) {
	limits := []struct {
		match string
		lines int
	}{
		{"README.md", 150}, {"CONTRIBUTING.md", 80}, {"SECURITY.md", 15}, {"docs/adr/*.md", 40},
		{"docs/architecture.md", 120}, {"docs/security.md", 180}, {"docs/performance.md", 240}, {"docs/operations.md", 240},
	}
	for name, text := range documents(t) {
		for _, l := range limits {
			if ok, _ := path.Match(l.match, name); ok {
				require.LessOrEqual(t, strings.Count(text, "\n"), l.lines, name)
			}
		}
	}
}

// TestDocsPackages: the packages of docs/architecture.md exist, and README.md
// calls nothing planned that does.
func TestDocsPackages(t *testing.T) {
	for _, row := range tableRows(t, section(t, "docs/architecture.md", "Packages")) {
		for _, dir := range quoted(row[0]) {
			require.DirExists(t, dir)
		}
	}
	for _, row := range tableRows(t, section(t, "README.md", "What is here")) {
		require.Contains(t, []string{"works", "partial", "planned"}, row[3])
		for _, dir := range quoted(row[0]) {
			if dir == "alknet" {
				dir = "."
			}
			goFiles, err := filepath.Glob(filepath.Join(dir, "*.go"))
			require.NoError(t, err)
			require.Equal(t, row[3] == "planned", len(goFiles) == 0, "status of %s", dir)
		}
	}
}

// TestDocsErrorCodes compares the table of codes with the constants.
func TestDocsErrorCodes(t *testing.T) {
	codes := map[string]alknet.ErrorCode{
		"CodeOK": alknet.CodeOK, "CodeInternal": alknet.CodeInternal, "CodeRefused": alknet.CodeRefused,
		"CodeUnauthenticated": alknet.CodeUnauthenticated, "CodeRevoked": alknet.CodeRevoked, "CodeLimit": alknet.CodeLimit,
		"CodeShutdown": alknet.CodeShutdown, "CodeProtocol": alknet.CodeProtocol,
	}
	rows := tableRows(t, section(t, "docs/protocol.md", "Error codes"))
	require.Len(t, rows, len(codes))
	for _, row := range rows {
		code, known := codes[strings.Trim(row[1], "`")]
		require.True(t, known, "%s is no constant", row[1])
		value, err := strconv.ParseUint(row[0], 0, 64)
		require.NoError(t, err)
		require.Equal(t, code, alknet.ErrorCode(value), row[1])
		require.Equal(t, row[3] == "yes", code.Retryable(), row[1])
	}
	consts, err := policy.Constants(os.DirFS("."), "Code")
	require.NoError(t, err)
	for _, c := range consts {
		if c.Dir == "." {
			require.Contains(t, codes, c.Name, "a code that docs/protocol.md lacks")
		}
	}
}

// TestDocsALPNs compares the registry with the ALPN constants of all packages.
func TestDocsALPNs(t *testing.T) {
	served := make(map[string]string) // name → package
	consts, err := policy.Constants(os.DirFS("."), "ALPN")
	require.NoError(t, err)
	for _, c := range consts {
		require.NotEmpty(t, c.Value, "%s.%s is a string literal", c.Dir, c.Name)
		served[c.Value] = c.Dir
	}
	listed := make(map[string]bool)
	for _, row := range tableRows(t, section(t, "docs/protocol.md", "ALPNs")) {
		alpn := strings.Trim(row[0], "`")
		require.False(t, listed[alpn], "%s is listed twice", alpn)
		listed[alpn] = true
		require.Contains(t, []string{"served", "reserved"}, row[4], alpn)
		if row[4] == "served" {
			require.Equal(t, row[1], served[alpn], "package of %s", alpn)
		} else {
			require.NotContains(t, served, alpn, "it has a constant: the registry calls it reserved")
		}
	}
	for alpn, dir := range served {
		require.True(t, listed[alpn], "%s of package %s is not in the registry", alpn, dir)
	}
}

// TestDocsFuzzTargets compares the table of fuzz targets with the code, both ways.
func TestDocsFuzzTargets(t *testing.T) {
	inCode, err := policy.FuzzTargets(os.DirFS("."))
	require.NoError(t, err)
	var inTable []string
	for _, row := range tableRows(t, section(t, "docs/security.md", "Fuzz targets")) {
		dir := strings.Trim(row[0], "`")
		if dir == "root" {
			dir = "."
		}
		for _, name := range quoted(row[1]) {
			inTable = append(inTable, dir+"."+name)
		}
	}
	slices.Sort(inTable)
	require.Equal(t, inCode, inTable)
}

// TestDocsThreats: every threat to the core has its row, and the tests that a
// row names exist.
func TestDocsThreats(t *testing.T) {
	tests, err := policy.Tests(os.DirFS("."))
	require.NoError(t, err)
	rows := tableRows(t, section(t, "docs/security.md", "Threats and their tests"))
	for i, row := range rows {
		require.Equal(t, "E"+strconv.Itoa(i+1), row[0])
		names := quoted(row[2])
		require.Equal(t, row[2] == "open", len(names) == 0, "%s names its tests, or says that it is open", row[0])
		for _, name := range names {
			if !strings.Contains(name, ".") {
				name = ".." + name
			}
			require.Contains(t, tests, name, "threat %s", row[0])
		}
	}
	require.Len(t, rows, 13)
}

// TestDocsSayNothingOfOneMachine: documents are about the project alone.
func TestDocsSayNothingOfOneMachine(t *testing.T) {
	wd, err := os.Getwd()
	require.NoError(t, err)
	for name, text := range documents(t) {
		require.NotContains(t, text, wd, name)
	}
}
