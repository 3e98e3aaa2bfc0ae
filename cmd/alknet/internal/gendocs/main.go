// Gendocs writes docs/cli and the man pages from the command tree; a test compares.
//
//	go run ./cmd/alknet/internal/gendocs DOCS MAN
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra/doc"

	"github.com/alkdev/alknet/cmd/alknet/internal/cli"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gendocs DOCS MAN")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func generate(markdown, man string) error {
	for _, dir := range []string{markdown, man} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := schemas(filepath.Join(markdown, "schema")); err != nil {
		return err
	}
	root := cli.Command()
	if err := doc.GenMarkdownTree(root, markdown); err != nil {
		return err
	}
	date := cli.DocsDate()
	return doc.GenManTree(root, &doc.GenManHeader{Title: "ALKNET", Section: "1", Source: "alknet", Manual: "alknet", Date: &date}, man)
}

// schemas writes what --json prints, a file a shape.
func schemas(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range cli.Documents() {
		var b bytes.Buffer
		if err := json.Indent(&b, d.Schema, "", "  "); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		b.WriteByte('\n')
		if err := os.WriteFile(filepath.Join(dir, d.Name+".json"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
