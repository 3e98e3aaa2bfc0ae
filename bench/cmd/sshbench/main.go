// Sshbench is the Go side of ssh.sh: servers and clients of alknet's SSH,
// tunnel and SOCKS, to be measured beside OpenSSH. Loopback only.
//
//	sshbench serve -ssh ADDR -node ADDR -hostkey FILE -auth FILE   prints the node's address
//	sshbench front -node ADDR -over QUIC|Mux -listen ADDR -socks ADDR -to ADDR
//	sshbench source -listen ADDR          sends as many bytes as the 8 that it reads say
//	sshbench pull -to ADDR [-socks ADDR] -n BYTES
//	sshbench conns -to ADDR -key FILE -n COUNT
//	sshbench table FILE                   lines "round what seconds amount"
package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strings"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
	"github.com/alkdev/alknet/ssh/tunnel"
)

var (
	sshAddr   = flag.String("ssh", "", "address of the SSH listener")
	node      = flag.String("node", "", "address of the node")
	over      = flag.String("over", "QUIC", "transport")
	hostKey   = flag.String("hostkey", "", "file")
	auth      = flag.String("auth", "", "file of authorized keys")
	key       = flag.String("key", "", "file of the client's key")
	listen    = flag.String("listen", "", "address to listen on")
	socksAddr = flag.String("socks", "", "address of a SOCKS proxy")
	to        = flag.String("to", "", "address to connect to")
	n         = flag.Int64("n", 1, "bytes or connections")
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: sshbench serve|front|source|pull|conns|table …")
	}
	mode := os.Args[1]
	must(flag.CommandLine.Parse(os.Args[2:]))
	switch mode {
	case "serve":
		serve()
	case "front":
		front()
	case "source":
		source()
	case "pull":
		pull()
	case "conns":
		conns()
	case "table":
		table(flag.Arg(0))
	}
}

var scopes = []string{ssh.ScopeShell, forward.ScopeDial, forward.ScopeListen}

func everybody(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
	return alknet.Identity{ID: "bench", Scopes: scopes}, nil
}

// serve is an SSH listener and a node, with one policy.
func serve() {
	gate := &forward.Gate{MaxFlows: -1}
	policy, err := forward.ParsePolicy("allow * dial tcp *:* in 127.0.0.0/8")
	must(err)
	gate.SetPolicy(policy)
	h := &ssh.Handler{
		HostKeys: []crypto.Signer{readKey(*hostKey)}, Accounts: ssh.OwnAccount, Gate: gate,
		Limits: ssh.Limits{MaxPenalty: -1, MaxStartupsPerAddr: -1},
		Users: &ssh.Users{
			AuthorizedKeys: func() ([]byte, error) { return os.ReadFile(*auth) },
			Identity: func(context.Context, string) (alknet.Identity, error) {
				return alknet.Identity{ID: "bench", Scopes: scopes}, nil
			},
		},
	}
	ep, err := alknet.Listen(context.Background(), *node, nil)
	must(err)
	router := &alknet.Router{Authenticate: everybody}
	must(router.Register(ssh.Service(h)))
	must(router.Register(tunnel.Service(&tunnel.Handler{Gate: gate})))
	l, err := net.Listen("tcp", *sshAddr)
	must(err)
	go func() { must(router.Serve(ep)) }()
	fmt.Println(ep.Addr())
	must(h.Serve(l))
}

func readKey(file string) crypto.Signer {
	text, err := os.ReadFile(file)
	must(err)
	key, err := xssh.ParseRawPrivateKey(text)
	must(err)
	return key.(crypto.Signer)
}

// front is a local forward and a SOCKS proxy over one tunnel.
func front() {
	addr, err := alknet.ParseAddr(*node)
	must(err)
	addr.Over = map[string]alknet.Transport{"QUIC": alknet.QUIC, "Mux": alknet.Mux}[*over]
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	must(err)
	target := *to
	k := &forward.Keeper{
		Connect:  func(ctx context.Context) (forward.Link, error) { return tunnel.Dial(ctx, ep, addr) },
		Forwards: []forward.Forward{{Network: "tcp", Listen: *listen, TargetNetwork: "tcp", Target: target}},
	}
	s := &socks.Server{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		link, err := k.Link(ctx)
		if err != nil {
			return nil, err
		}
		return link.DialContext(ctx, network, address)
	}}
	l, err := net.Listen("tcp", *socksAddr)
	must(err)
	go func() { must(s.Serve(l)) }()
	must(k.Run(context.Background()))
}

// source sends what is asked for.
func source() {
	l, err := net.Listen("tcp", *listen)
	must(err)
	block := make([]byte, 1<<20)
	for {
		nc, err := l.Accept()
		must(err)
		go func() {
			defer func() { _ = nc.Close() }()
			var want uint64
			if binary.Read(nc, binary.BigEndian, &want) != nil {
				return
			}
			for want > 0 {
				m, err := nc.Write(block[:min(want, uint64(len(block)))])
				if err != nil {
					return
				}
				want -= uint64(m)
			}
		}()
	}
}

// pull asks a source for bytes and drops them.
func pull() {
	dial := net.Dial
	if *socksAddr != "" {
		d, err := proxy.SOCKS5("tcp", *socksAddr, nil, proxy.Direct)
		must(err)
		dial = d.Dial
	}
	nc, err := dial("tcp", *to)
	must(err)
	must(binary.Write(nc, binary.BigEndian, uint64(*n)))
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{nc}, make([]byte, 256<<10))
	must(err)
	if got != *n {
		log.Fatalf("%d bytes of %d", got, *n)
	}
}

// conns logs in again and again, one at a time.
func conns() {
	signer, err := xssh.NewSignerFromSigner(readKey(*key))
	must(err)
	for range *n {
		c, err := xssh.Dial("tcp", *to, &xssh.ClientConfig{
			User: "root", Auth: []xssh.AuthMethod{xssh.PublicKeys(signer)}, HostKeyCallback: xssh.InsecureIgnoreHostKey(),
		})
		must(err)
		must(c.Close())
	}
}

// table prints medians, and the median of the ratios to the first row of a group
// within a round. A name is "group/who".
func table(file string) {
	f, err := os.Open(file)
	must(err)
	defer func() { _ = f.Close() }()
	rates := make(map[string]map[int]float64)
	var order []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		var round int
		var what string
		var seconds, amount float64
		if _, err := fmt.Sscan(scan.Text(), &round, &what, &seconds, &amount); err != nil {
			continue
		}
		if rates[what] == nil {
			rates[what] = make(map[int]float64)
			order = append(order, what)
		}
		rates[what][round] = amount / seconds
	}
	slices.SortStableFunc(order, func(a, b string) int { return strings.Compare(group(a), group(b)) })
	fmt.Println("| what | who | rounds | a second | ÷ peer |\n|---|---|---|---|---|")
	base := make(map[string]string)
	for _, what := range order {
		g := group(what)
		if base[g] == "" {
			base[g] = what
		}
		var values, ratios []float64
		for round, v := range rates[what] {
			values = append(values, v)
			if peer := rates[base[g]][round]; peer > 0 {
				ratios = append(ratios, v/peer)
			}
		}
		fmt.Printf("| %s | %s | %d | %.0f (%.0f–%.0f) | %.2f |\n", g, strings.TrimPrefix(what, g+"/"), len(values), median(values),
			slices.Min(values), slices.Max(values), median(ratios))
	}
}

func group(what string) string { return what[:strings.LastIndexByte(what, '/')] }

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
