package call_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/calltest"
	"github.com/alkdev/alknet/call/codes"
)

// A flooder announces everything and then sends items without end, whatever
// credit it has.
func flooder(ctx context.Context, conn *alknet.Conn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			return nil
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			flood(s)
		}()
	}
}

func flood(s *alknet.Stream) {
	write := func(body string) bool {
		_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
		return err == nil
	}
	for {
		var head [4]byte
		if _, err := io.ReadFull(s, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(s, body); err != nil {
			return
		}
		_, rest, _ := strings.Cut(string(body), `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		if strings.Contains(string(body), "/services/hello") {
			write(`{"type":"call.responded","id":"` + id + `","payload":{"output":{"v":1,"features":["mux","credit","raw","resume"],"instance":"evil","window":1}}}`)
			continue
		}
		pad := strings.Repeat("x", 1000)
		for i := 1; write(fmt.Sprintf(`{"type":"call.responded","id":"%s","payload":{"seq":%d,"output":"%s"}}`, id, i, pad)); i++ {
		}
		return
	}
}

// TestItemsBeyondTheWindow: a callee that ignores credit costs no memory.
func TestItemsBeyondTheWindow(t *testing.T) {
	eachCarrier(t, func(t *testing.T, connect calltest.Connect) {
		c := call.NewClient(connect(t, alknet.HandlerFunc(flooder), alice), nil)
		defer c.Close()
		require.NoError(t, c.Settled(t.Context()))
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s, err := c.Open(t.Context(), "x/flood", call.Options{Type: call.Subscription})
		require.NoError(t, err)
		require.NoError(t, s.Send([]byte("1"), false))
		for n := 0; ; n++ { // what came within the window, and then the end
			if _, _, err = s.Recv(); err != nil {
				break
			}
			if n == 0 {
				<-time.After(300 * time.Millisecond) // it floods meanwhile
			}
			require.Less(t, n, 100_000)
		}
		requireCode(t, codes.ResourceExhausted, err)
		runtime.ReadMemStats(&after)
		require.Less(t, int64(after.HeapInuse)-int64(before.HeapInuse), int64(32<<20))
	})
}
