package alknet_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/impair"
)

// ledger is a service that answers each stream with the hash of what it sent,
// once it has ended, and counts what it was asked.
func ledger(seen chan<- [32]byte) alknet.StreamFunc {
	return func(_ context.Context, s *alknet.Stream) error {
		b, err := io.ReadAll(s)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		seen <- sum
		_, err = s.Write(sum[:])
		return err
	}
}

// ask sends data on a stream of its own and returns the answer.
func askLedger(ctx context.Context, c *alknet.Conn, data []byte) ([]byte, error) {
	s, err := c.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := s.SetDeadline(d); err != nil {
			return nil, err
		}
	}
	if _, err := s.Write(data); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(s)
}

// On a bad network what is asked is answered once, whole, and before its
// deadline, or the caller hears why not.
func TestImpairedNetworks(t *testing.T) {
	const asked, size = 20, 20_000
	for _, p := range impair.Profiles() {
		p.Up, p.Down, p.Rebind = p.Up/10, p.Down/10, p.Rebind/3 // as often as in a longer test
		for _, over := range []alknet.Transport{alknet.QUIC, alknet.Mux} {
			if over == alknet.Mux && p.Corrupt > 0 {
				continue // TLS on TCP ends a connection whose bytes were changed below it
			}
			if testing.Short() && (p.Loss > 0.1 || p.Corrupt > 0.1) {
				continue // these take seconds
			}
			t.Run(over.String()+" "+p.Name, func(t *testing.T) {
				t.Parallel()
				seen := make(chan [32]byte, 2*asked)
				router := &alknet.Router{}
				require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: over, Handler: ledger(seen)}))
				to := addrOver(serve(t, router, nil), over)
				if over == alknet.QUIC {
					to.HostPort = impair.UDP(t, to.HostPort, p).Addr()
				} else {
					to.HostPort = impair.TCP(t, to.HostPort, p).Addr()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
				defer cancel()
				from := client(t, nil)
				c, err := from.Dial(ctx, to, testALPN)
				for ctx.Err() == nil && err != nil { // a handshake may be lost in 10 s of this; it must say so
					c, err = from.Dial(ctx, to, testALPN)
				}
				require.NoError(t, err)
				defer c.Close()
				var wg sync.WaitGroup
				for range asked {
					wg.Go(func() {
						data := make([]byte, size)
						_, _ = rand.Read(data)
						want := sha256.Sum256(data)
						got, err := askLedger(ctx, c, data)
						if err != nil || !bytes.Equal(want[:], got) {
							t.Errorf("the answer is %x, %v; want %x", got, err, want)
						}
					})
				}
				wg.Wait()
				require.Len(t, seen, asked, "something was asked twice, or never")
				once := make(map[[32]byte]bool)
				for range asked {
					sum := <-seen
					require.False(t, once[sum])
					once[sum] = true
				}
			})
		}
	}
}

// A Mux connection whose bytes are changed on the way ends with an error; what
// arrived before is whole.
func TestCorruptedStreamEndsWithAnError(t *testing.T) {
	seen := make(chan [32]byte, 1)
	router := &alknet.Router{}
	require.NoError(t, router.Register(alknet.Service{ALPN: testALPN, Over: alknet.Mux, Handler: ledger(seen)}))
	to := addrOver(serve(t, router, nil), alknet.Mux)
	relay := impair.TCP(t, to.HostPort, impair.Profile{})
	to.HostPort = relay.Addr()
	c, err := client(t, nil).Dial(t.Context(), to, testALPN)
	require.NoError(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = askLedger(ctx, c, []byte("before"))
	require.NoError(t, err)
	require.Equal(t, sha256.Sum256([]byte("before")), <-seen)
	relay.SetProfile(impair.Profile{Corrupt: 1})
	_, err = askLedger(ctx, c, make([]byte, 100_000))
	require.Error(t, err)
	wantDone(t, c, "nothing more can be believed")
	require.Empty(t, seen)
}
