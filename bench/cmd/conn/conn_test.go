package main

import (
	"context"
	"io"
	"testing"
)

// These benchmarks run both ends in one process, for a quick look: what they
// say is less sharp than run.sh, where each end has a process of its own.

// started is a stack whose server runs for the rest of the process.
func started(b *testing.B, name string) stack {
	b.Helper()
	st, err := newStack(name)
	if err != nil {
		b.Fatal(err)
	}
	hello, err := st.serve()
	if err != nil {
		b.Fatal(err)
	}
	if err := st.client(hello, false); err != nil {
		b.Fatal(err)
	}
	return st
}

// dialled is a connection of a stack that is closed with the benchmark.
func dialled(b *testing.B, name string) conn {
	b.Helper()
	c, err := started(b, name).dial(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.close)
	return c
}

func open(b *testing.B, c conn) io.ReadWriteCloser {
	b.Helper()
	s, err := c.open(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkBulk(b *testing.B) {
	const size = 8 << 20
	for _, name := range []string{"tls", "quic", "alknet-quic", "alknet-mux", "alknet-raw"} {
		b.Run(name, func(b *testing.B) {
			s := open(b, dialled(b, name))
			b.SetBytes(size)
			for b.Loop() {
				if err := fetch(s, size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHandshake(b *testing.B) {
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			st := started(b, name)
			for b.Loop() {
				c, err := st.dial(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				if c.resumed() {
					b.Fatal("a session was resumed")
				}
				if err := echo(open(b, c)); err != nil {
					b.Fatal(err)
				}
				c.close()
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	for _, name := range []string{"quic", "alknet-quic", "alknet-mux"} {
		b.Run(name, func(b *testing.B) {
			c := dialled(b, name)
			for b.Loop() {
				s := open(b, c)
				if err := echo(s); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
