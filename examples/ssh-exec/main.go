// Ssh-exec runs a function and a shell command on a peer over SSH, without a
// port 22 and without a fingerprint to confirm: go run ./examples/ssh-exec
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

// greet is a command that is a function: it needs no shell.
func greet(_ context.Context, id *alknet.Identity, cmd *exec.Cmd) int {
	fmt.Fprintf(cmd.Stdout, "hello %s, you said %q\n", id.ID, cmd.Args[1:])
	return 0
}

// admit knows every key as alice, who may use a shell.
func admit(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
	return alknet.Identity{ID: "alice", Scopes: []string{ssh.ScopeShell}}, nil
}

func main() {
	ctx := context.Background()
	_, nodeKey, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	server, err := alknet.Listen(ctx, "127.0.0.1:0", &alknet.Config{Key: nodeKey})
	must(err)
	router := &alknet.Router{Authenticate: admit}
	must(router.Register(ssh.Service(&ssh.Handler{
		Node: nodeKey, Accounts: ssh.OwnAccount, Commands: map[string]ssh.CommandFunc{"greet": greet},
	})))
	go router.Serve(server)

	client, err := alknet.NewEndpoint(nil, nil, nil) // it only dials
	must(err)
	c, err := ssh.Dial(ctx, client, server.Addr(), nil)
	must(err)
	for _, line := range []string{"greet 'the whole' world", "echo a shell; exit 3", "greet; echo not a function"} {
		var exit *ssh.ExitError
		err := c.Run(ctx, &ssh.Cmd{Line: line, Stdout: os.Stdout})
		if errors.As(err, &exit) {
			fmt.Println("status", exit.Status)
		} else {
			must(err)
		}
	}
	fmt.Println("stock ssh is reached with:")
	must(ssh.WriteConfig(os.Stdout, "/usr/bin/alknet", map[string]alknet.PeerID{"node": server.ID()}))
	must(c.Close())
	must(router.Shutdown(ctx))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
