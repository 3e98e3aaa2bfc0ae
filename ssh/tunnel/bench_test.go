package tunnel

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh/forward"
)

// A kept local forward, from a source to a sink on loopback; all in this process.
func BenchmarkForward(b *testing.B) {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
		b.Run(strings.ToLower(over.String()), func(b *testing.B) {
			source, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			defer source.Close()
			go func() {
				block := make([]byte, 1<<20)
				for {
					c, err := source.Accept()
					if err != nil {
						return
					}
					go func() {
						for {
							if _, err := c.Write(block); err != nil {
								_ = c.Close()
								return
							}
						}
					}()
				}
			}()
			s := newRig(b, over)
			s.policy("allow * dial tcp 127.0.0.1:*")
			c := s.client(bob)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			defer l.Close()
			go func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				flow, err := c.DialContext(context.Background(), "tcp", source.Addr().String())
				if err == nil {
					_, _, _ = forward.Splice(context.Background(), nc, flow)
				}
			}()
			sink, err := net.Dial("tcp", l.Addr().String())
			require.NoError(b, err)
			defer sink.Close()
			const size = 1 << 20
			b.SetBytes(size)
			buf := make([]byte, size)
			for b.Loop() {
				_, err := io.ReadFull(sink, buf)
				require.NoError(b, err)
			}
		})
	}
}
