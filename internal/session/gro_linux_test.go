package session

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
)

// A merged batch is split into the datagrams that were sent, an empty one and
// several senders among them.
func TestMergedDatagramsAreSplit(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	conn, ok := receiveGRO(pc)
	if !ok {
		t.Skip("this kernel does not merge datagrams: TestReceivePathsAgree has the other path")
	}
	batch := conn.(interface {
		ReadBatch([]ipv4.Message, int) (int, error)
	})
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1500)}, OOB: make([]byte, 128)}
	}
	require.NoError(t, pc.SetReadDeadline(time.Now().Add(10*time.Second)))
	var senders [3]net.Conn
	for i := range senders {
		senders[i], err = net.Dial("udp", pc.LocalAddr().String())
		require.NoError(t, err)
		defer senders[i].Close()
	}
	// A sender alone, several that take turns, then one alone again.
	for round, turns := range []int{1, 3, 3, 1, 2, 1} {
		for again := range 30 {
			var want, got []string
			for i, size := range []int{1200, 1200, 1200, 0, 700, 1200, 2} {
				from := senders[i%turns]
				data := bytes.Repeat([]byte{byte(round), byte(again), byte(i)}, 400)[:size]
				_, err := from.Write(data)
				require.NoError(t, err)
				if size > 0 {
					want = append(want, fmt.Sprintf("%v %x", from.LocalAddr(), data))
				}
			}
			for len(got) < len(want) {
				n, err := batch.ReadBatch(ms, 0)
				require.NoError(t, err)
				require.Positive(t, n, "the library takes no empty batch")
				for _, m := range ms[:n] {
					got = append(got, fmt.Sprintf("%v %x", m.Addr, m.Buffers[0][:m.N]))
				}
			}
			require.Equal(t, want, got)
		}
	}
}
