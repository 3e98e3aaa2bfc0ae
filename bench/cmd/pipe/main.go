// Pipe measures `alknet pipe` beside the same copy through the library: bytes from
// a pipe to a peer that discards them and answers with their number. The peer is a
// process of its own on loopback.
//
//	go build -o /tmp/alknet ../cmd/alknet && go run ./cmd/pipe -alknet /tmp/alknet -mib 1024 -rounds 5
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet"
)

const alpn = "example.com/sink"

func main() {
	server := flag.Bool("server", false, "be the peer")
	program := flag.String("alknet", "", "the program")
	mib := flag.Int64("mib", 1024, "how much")
	rounds := flag.Int("rounds", 5, "how often, in turn")
	flag.Parse()
	var err error
	if *server {
		err = serve(os.Stdout, os.Stdin)
	} else {
		err = measure(*program, *mib<<20, *rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pipe:", err)
		os.Exit(1)
	}
}

// serve discards what comes until in ends.
func serve(out io.Writer, in io.Reader) error {
	ctx := context.Background()
	ep, err := alknet.Listen(ctx, "127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	var r alknet.Router
	if err := r.Register(alknet.Service{ALPN: alpn, Handler: alknet.StreamFunc(sink)}); err != nil {
		return err
	}
	go func() { _ = r.Serve(ep) }()
	fmt.Fprintln(out, ep.Addr())
	_, _ = io.Copy(io.Discard, in)
	return errors.Join(r.Close(), ep.Close())
}

func sink(_ context.Context, s *alknet.Stream) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 64<<10))
	if err != nil {
		return err
	}
	if err := binary.Write(s, binary.BigEndian, n); err != nil {
		return err
	}
	return s.CloseWrite()
}

func measure(program string, size int64, rounds int) error {
	dir, err := os.MkdirTemp("", "alknet-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command(program, "--dir", dir, "init", "--dev", "-q").CombinedOutput(); err != nil {
		return fmt.Errorf("init: %w: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	peer := exec.Command(self, "-server")
	stdin, err := peer.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := peer.StdoutPipe()
	if err != nil {
		return err
	}
	if err := peer.Start(); err != nil {
		return err
	}
	defer func() { _ = stdin.Close(); _ = peer.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return err
	}
	text, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	to, err := alknet.ParseAddr(text)
	if err != nil {
		return err
	}
	var ratios []float64
	for i := range rounds {
		lib, err := library(to, size)
		if err != nil {
			return fmt.Errorf("library: %w", err)
		}
		cli, err := command(program, dir, text, size)
		if err != nil {
			return fmt.Errorf("alknet pipe: %w", err)
		}
		ratio := lib.Seconds() / cli.Seconds()
		ratios = append(ratios, ratio)
		fmt.Printf("round %d: library %.0f MiB/s, alknet pipe %.0f MiB/s, ratio %.2f\n", i+1, rate(size, lib), rate(size, cli), ratio)
	}
	slices.Sort(ratios)
	fmt.Printf("median ratio %.2f (%.2f to %.2f)\n", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
	return nil
}

func rate(size int64, d time.Duration) float64 { return float64(size) / (1 << 20) / d.Seconds() }

// zeros writes size zero bytes to a pipe, as another program would.
func zeros(size int64) (*os.File, *exec.Cmd, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command("head", "-c", fmt.Sprint(size), "/dev/zero")
	cmd.Stdout = w
	err = cmd.Start()
	return r, cmd, errors.Join(err, w.Close())
}

func library(to alknet.Addr, size int64) (time.Duration, error) {
	begin := time.Now()
	ctx := context.Background()
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	if err != nil {
		return 0, err
	}
	defer ep.Close()
	in, head, err := zeros(size)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	conn, err := ep.Dial(ctx, to, alpn)
	if err != nil {
		return 0, err
	}
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{in}, make([]byte, 64<<10)); err != nil {
		return 0, err
	}
	if err := s.CloseWrite(); err != nil {
		return 0, err
	}
	if err := check(s, size); err != nil {
		return 0, err
	}
	return time.Since(begin), head.Wait()
}

// check reads the peer's answer.
func check(r io.Reader, size int64) error {
	var n int64
	if err := binary.Read(r, binary.BigEndian, &n); err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%d bytes arrived of %d", n, size)
	}
	return nil
}

// command does the same with the program, its start and its key included.
func command(program, dir, to string, size int64) (time.Duration, error) {
	begin := time.Now()
	in, head, err := zeros(size)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	cmd := exec.Command(program, "--dir", dir, "--direct", "pipe", to, alpn)
	cmd.Stdin, cmd.Stderr = in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	took := time.Since(begin)
	return took, errors.Join(check(strings.NewReader(string(out)), size), head.Wait())
}
