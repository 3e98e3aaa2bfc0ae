// Vault-node makes a node whose keys come from twelve words: a vault in a folder
// with a slot for a passphrase, and a new process that gets the passphrase by a
// file descriptor, as from a service manager, and serves with the vault's
// identity. A client that has only the words knows whom to expect:
// go run ./examples/vault-node
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/vault"
)

const (
	alpn  = "example.com/greeting/1"
	words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
)

// serve is the new process: it never sees the words.
func serve(ctx context.Context, dir string, credential io.Reader) error {
	v := must(vault.Open(dir, nil))
	defer v.Close()
	if err := v.Unlock(ctx, must(vault.ParseIdentities(credential))...); err != nil {
		return err
	}
	ep, err := alknet.Listen(ctx, "127.0.0.1:0", &alknet.Config{Key: must(v.Identity(v.IdentityIndex()))})
	if err != nil {
		return err
	}
	router := &alknet.Router{}
	err = router.Register(alknet.Service{ALPN: alpn, Handler: alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
		_, err := io.WriteString(s, "hello from the vault's node")
		return err
	})})
	go router.Serve(ep)
	fmt.Println(ep.Addr().HostPort)
	_, copyErr := io.Copy(io.Discard, os.Stdin) // until the other process ends
	return errors.Join(err, copyErr, router.Shutdown(ctx))
}

// seal makes the vault, and a way in without the words.
func seal(dir string, p vault.Phrase, passphrase string) error {
	v := must(vault.Create(dir, p, vault.Secret{}, nil))
	host := fmt.Appendf(nil, "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20%s", must(v.SSHHostKey(0)).Public())
	fmt.Printf("SSH host key: ssh-ed25519 %s\n", base64.StdEncoding.EncodeToString(host))
	to := vault.PassphraseRecipient(vault.NewSecret([]byte(passphrase)), nil)
	return errors.Join(v.Seal("prompt", to), v.Close())
}

func main() {
	ctx := context.Background()
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		check(serve(ctx, os.Args[2], os.NewFile(3, "credential")))
		return
	}
	dir := filepath.Join(must(os.MkdirTemp("", "vault-node")), "vault")
	defer os.RemoveAll(filepath.Dir(dir))
	p := must(vault.ParsePhrase(words))
	check(seal(dir, p, "correct horse"))

	read, write, err := os.Pipe()
	check(err)
	node := exec.CommandContext(ctx, must(os.Executable()), "serve", dir)
	node.ExtraFiles, node.Stderr = []*os.File{read}, os.Stderr
	stdin, stdout := must(node.StdinPipe()), must(node.StdoutPipe())
	check(node.Start())
	must(io.WriteString(write, "correct horse\n"))
	check(write.Close())
	addr := strings.TrimSpace(must(bufio.NewReader(stdout).ReadString('\n')))

	fromWords := must(vault.New(p, vault.Secret{}, nil)) // another machine, with nothing but the words
	defer fromWords.Close()
	key := must(fromWords.Identity(0))
	peer := must(alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})).ID()
	fmt.Printf("identity: %x\npeer: %v\n", key.Public(), peer)
	conn := must(must(alknet.NewEndpoint(nil, nil, nil)).Dial(ctx, alknet.Addr{HostPort: addr, Peer: peer}, alpn))
	stream := must(conn.OpenStream(ctx))
	check(stream.CloseWrite()) // a stream begins with what is sent on it
	fmt.Printf("%s\n", must(io.ReadAll(stream)))
	check(errors.Join(conn.Close(), stdin.Close(), node.Wait()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}
