// Vault-node is a node whose keys come from twelve words: a vault with a slot for
// a passphrase, and a new process that gets the passphrase by a file descriptor,
// as from a service manager, and serves. Who has only the words knows whom to
// expect there: go run ./examples/vault-node
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/vault"
)

const (
	alpn  = "example.com/greeting/1"
	words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
)

// serve is the new process: it never sees the words.
func serve(ctx context.Context, dir string, credential io.Reader) {
	v := must(vault.Open(dir, nil))
	defer v.Close()
	must(0, v.Unlock(ctx, must(vault.ParseIdentities(credential))...))
	ep := must(alknet.Listen(ctx, "127.0.0.1:0", &alknet.Config{Key: must(v.Identity(v.IdentityIndex()))}))
	router := &alknet.Router{}
	must(0, router.Register(alknet.Service{ALPN: alpn, Handler: alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
		_, err := io.WriteString(s, "hello from the vault's node\n")
		return err
	})}))
	go router.Serve(ep)
	host := fmt.Appendf(nil, "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20%s", must(v.SSHHostKey(0)).Public())
	fmt.Fprintf(os.Stderr, "SSH host key: ssh-ed25519 %s\n", base64.StdEncoding.EncodeToString(host))
	fmt.Println(ep.Addr().HostPort)
	io.Copy(io.Discard, os.Stdin) // until the other process has seen enough
	must(0, router.Shutdown(ctx))
}

func main() {
	ctx := context.Background()
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		serve(ctx, os.Args[2], os.NewFile(3, "credential"))
		return
	}
	parent, p := must(os.MkdirTemp("", "vault-node")), must(vault.ParsePhrase(words))
	defer os.RemoveAll(parent)
	v := must(vault.Create(filepath.Join(parent, "vault"), p, vault.Secret{}, nil))
	to := vault.PassphraseRecipient(vault.NewSecret([]byte("correct horse")), nil)
	read, write, err := os.Pipe()
	must(write.WriteString("correct horse\n"))
	must(0, errors.Join(v.Seal("prompt", to), v.Close(), err, write.Close()))
	node := exec.CommandContext(ctx, must(os.Executable()), "serve", filepath.Join(parent, "vault"))
	node.ExtraFiles, node.Stderr = []*os.File{read}, os.Stderr
	stdin, stdout, addr := must(node.StdinPipe()), must(node.StdoutPipe()), ""
	must(0, node.Start())
	must(fmt.Fscan(stdout, &addr))

	key := must(must(vault.New(p, vault.Secret{}, nil)).Identity(0)) // another machine, with nothing but the words
	peer := must(alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})).ID()
	conn := must(must(alknet.NewEndpoint(nil, nil, nil)).Dial(ctx, alknet.Addr{HostPort: addr, Peer: peer}, alpn))
	stream := must(conn.OpenStream(ctx))
	must(0, stream.CloseWrite()) // a stream begins with what is sent on it
	fmt.Printf("identity: %x\npeer: %v\n%s", key.Public(), peer, must(io.ReadAll(stream)))
	must(0, errors.Join(conn.Close(), stdin.Close(), node.Wait()))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
