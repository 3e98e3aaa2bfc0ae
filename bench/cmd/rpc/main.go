// rpc measures unary calls and server streaming of several RPC stacks, client
// and server in two processes on loopback, TLS 1.3 everywhere.
//
//	rpc unary  -proto P -size 100 -conc 1 -n 20000
//	rpc stream -proto P -size 100 -n 200000
//	rpc tables FILE    # of the lines that the other two printed, round after round
package main

import (
	"flag"
	"fmt"
	h "github.com/alkdev/alknet/bench/internal/harness"
	"os"
)

type peer struct {
	serve  func(proto string) (addr string)
	dial   func(proto, addr string, conc int) (call func([]byte) ([]byte, error), stream func(items, size int) error)
	prefix string
}

func find(proto string) peer {
	best := peer{}
	for _, p := range peers {
		if len(proto) >= len(p.prefix) && proto[:len(p.prefix)] == p.prefix && len(p.prefix) > len(best.prefix) {
			best = p
		}
	}
	if best.serve == nil {
		h.Must(fmt.Errorf("no proto %q", proto))
	}
	return best
}

func main() {
	mode := os.Args[1]
	if mode == "tables" {
		h.Must(tables(os.Args[2]))
		return
	}
	fs := flag.NewFlagSet(mode, flag.ExitOnError)
	proto := fs.String("proto", "", "")
	size := fs.Int("size", 100, "")
	conc := fs.Int("conc", 1, "")
	n := fs.Int("n", 20000, "")
	warm := fs.Int("warm", 0, "")
	fs.Parse(os.Args[2:])
	p := find(*proto)
	switch mode {
	case "server":
		h.ServeLoop(p.serve(*proto))
	case "unary":
		c := h.Spawn("server", "-proto", *proto)
		defer c.Close()
		call, _ := p.dial(*proto, c.Addr, *conc)
		if *warm == 0 {
			*warm = *n / 5
		}
		h.RunUnary(fmt.Sprintf("unary/%s/%dB/c%d", *proto, *size, *conc), c, call, *size, *conc, *n, *warm)
	case "stream":
		c := h.Spawn("server", "-proto", *proto)
		defer c.Close()
		_, stream := p.dial(*proto, c.Addr, 1)
		if stream == nil {
			h.Must(fmt.Errorf("%s has no stream", *proto))
		}
		h.Must(stream(*n/20+1, *size)) // warm
		h.RunTransfer(fmt.Sprintf("stream/%s/%dB", *proto, *size), c, *n, *size, func() error { return stream(*n, *size) })
	}
}
