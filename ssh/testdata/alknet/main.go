// Alknet is as much of the program as a stock ssh client needs: "pipe PEERID
// ALPN" is its ProxyCommand, "ssh known-hosts NAME" its KnownHostsCommand. The
// lines of the file "peers" beside it are PEERID HOST:PORT TRANSPORT; "key" has
// the 64 hexadecimal digits of its key.
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
)

func main() {
	if len(os.Args) < 4 {
		log.Fatal("usage: alknet pipe PEERID ALPN | alknet ssh known-hosts NAME")
	}
	signal.Ignore(syscall.SIGHUP) // ssh sends it when it is done: the end of input closes the connection
	peer, err := alknet.ParsePeerID(strings.TrimSuffix(os.Args[len(os.Args)-1], ".alk"))
	if os.Args[1] == "pipe" {
		peer, err = alknet.ParsePeerID(strings.TrimSuffix(os.Args[2], ".alk"))
		must(err)
		must(pipe(context.Background(), peer, os.Args[3]))
		return
	}
	must(err)
	fmt.Print(ssh.KnownHosts(peer, peer.String(), peer.String()+".alk"))
}

// pipe connects standard input and output to a stream of the peer.
func pipe(ctx context.Context, peer alknet.PeerID, alpn string) error {
	seed, err := hex.DecodeString(strings.TrimSpace(beside("key")))
	must(err)
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: ed25519.NewKeyFromSeed(seed)})
	must(err)
	for line := range strings.Lines(beside("peers")) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != peer.String() {
			continue
		}
		over := map[string]alknet.Transport{"QUIC": alknet.QUIC, "Mux": alknet.Mux}[f[2]]
		conn, err := ep.Dial(ctx, alknet.Addr{HostPort: f[1], Peer: peer, Over: over}, alpn)
		must(err)
		s, err := conn.OpenStream(ctx)
		must(err)
		go func() {
			_, _ = io.Copy(s, os.Stdin)
			_ = s.CloseWrite()
		}()
		_, err = io.Copy(os.Stdout, s)
		_ = s.Close()
		_ = conn.Close()
		return err
	}
	return fmt.Errorf("no peer %v", peer)
}

// beside reads a file that lies beside the program.
func beside(name string) string {
	self, err := os.Executable()
	must(err)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(self), name))
	must(err)
	return string(text)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
