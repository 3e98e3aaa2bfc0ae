// Gendocs writes docs/cli and the man pages from the command tree; a test compares.
//
//	go run ./cmd/alknet/internal/gendocs DOCS MAN
package main

import (
	"fmt"
	"os"

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
	root := cli.Command()
	if err := doc.GenMarkdownTree(root, markdown); err != nil {
		return err
	}
	date := cli.DocsDate()
	return doc.GenManTree(root, &doc.GenManHeader{Title: "ALKNET", Section: "1", Source: "alknet", Manual: "alknet", Date: &date}, man)
}
