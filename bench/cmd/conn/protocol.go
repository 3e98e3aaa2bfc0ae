package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// A stream's protocol: 'e' asks for one byte back; 'b' and eight bytes of size
// ask for that many bytes.

// serveStream answers requests on s until it ends.
func serveStream(s io.ReadWriter) error {
	b := make([]byte, 9)
	for {
		if _, err := io.ReadFull(s, b[:1]); err != nil {
			return nil
		}
		if b[0] == 'e' {
			if _, err := s.Write(b[:1]); err != nil {
				return err
			}
			continue
		}
		if _, err := io.ReadFull(s, b[1:]); err != nil {
			return err
		}
		left := int64(binary.BigEndian.Uint64(b[1:]))
		buf := make([]byte, 64<<10)
		for left > 0 {
			n, err := s.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				return err
			}
			left -= int64(n)
		}
	}
}

// echo asks for one byte.
func echo(s io.ReadWriter) error {
	b := []byte{'e'}
	if _, err := s.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(s, b)
	return err
}

// fetch asks for n bytes and drops them.
func fetch(s io.ReadWriter, n int64) error {
	if _, err := s.Write(binary.BigEndian.AppendUint64([]byte{'b'}, uint64(n))); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for n > 0 {
		k, err := s.Read(buf[:min(n, int64(len(buf)))])
		if n -= int64(k); err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// A conn is a connection of any stack: streams are opened until it is closed.
type conn interface {
	open(ctx context.Context) (io.ReadWriteCloser, error)
	resumed() bool
	close()
}

// A stack is one way to carry streams.
type stack interface {
	// serve starts a server and returns where it is reached.
	serve() (hello string, err error)
	// client prepares dialling; resume says whether sessions are kept.
	client(hello string, resume bool) error
	dial(ctx context.Context) (conn, error)
}

var errStack = fmt.Errorf("unknown stack; known: %v", names)

var names = []string{"tls", "quic", "quic-verify", "quic-mtls", "alknet-quic", "alknet-mux", "alknet-raw"}

func newStack(name string) (stack, error) {
	switch name {
	case "tls":
		return &tlsStack{}, nil
	case "quic":
		return &quicStack{}, nil
	case "quic-verify":
		return &quicStack{verify: true}, nil
	case "quic-mtls":
		return &quicStack{mutual: true}, nil
	case "alknet-quic", "alknet-mux", "alknet-raw":
		return &alknetStack{name: name}, nil
	}
	return nil, errStack
}
