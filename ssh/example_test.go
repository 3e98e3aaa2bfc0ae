package ssh_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"os/exec"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

// A function as a command: no shell, and no scope but what it asks for itself.
func ExampleHandler() {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	h := &ssh.Handler{
		Node: key,
		Commands: map[string]ssh.CommandFunc{"greet": func(_ context.Context, id *alknet.Identity, cmd *exec.Cmd) int {
			fmt.Fprintf(cmd.Stdout, "hello %s: %q\n", id.ID, cmd.Args)
			return 3
		}},
	}
	client, server := alknet.Pipe(ssh.ALPN, alknet.Identity{ID: "bob"}, alknet.Identity{})
	served := make(chan error)
	go func() { served <- h.ServeConn(context.Background(), server) }()

	ctx := context.Background()
	stream, err := client.OpenStream(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := ssh.NewClient(ctx, stream, &ssh.ClientConfig{Peer: alknet.PeerID(key.Public().(ed25519.PublicKey))})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Run(ctx, &ssh.Cmd{Line: "greet 'the world'", Stdout: os.Stdout}))
	fmt.Println(c.Run(ctx, &ssh.Cmd{Line: "id"}))
	_ = c.Close()
	_ = client.Close()
	<-served
	// Output:
	// hello bob: ["greet" "the world"]
	// ssh: the command ended with status 3
	// ssh: refused by the server: exec: "denied: needs scope ssh:shell"
}

// What known_hosts needs to know of a peer is its id.
func ExampleKnownHosts() {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	fmt.Print(ssh.KnownHosts(alknet.PeerID(key.Public().(ed25519.PublicKey)), "node"))
	// Output:
	// @cert-authority node ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop
}
