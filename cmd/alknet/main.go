// Alknet is a node and the client for it: see "alknet help".
package main

import (
	"context"
	"os"

	"github.com/alkdev/alknet/cmd/alknet/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), &cli.Env{Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}))
}
