package main

import (
	"fmt"
	h "github.com/alkdev/alknet/bench/internal/harness"
	"strings"
)

// a stream request is {"stream":N,"size":S}
func streamReq(p []byte) (items, size int, ok bool) {
	if len(p) < 10 || string(p[:10]) != `{"stream":` {
		return
	}
	_, err := fmt.Sscanf(string(p), `{"stream":%d,"size":%d}`, &items, &size)
	return items, size, err == nil
}
func streamReqBytes(items, size int) []byte {
	return fmt.Appendf(nil, `{"stream":%d,"size":%d}`, items, size)
}

// sendItems sends items frames. With coalescing the producer gathers up to
// 32 KiB before it hands the batch to the stream and always ends with a flush:
// a producer that never pauses, the best case of flush-on-idle. Without
// ("-direct") it is one Write per item.
func sendItems(w *cw, cd codec, id uint64, items, size int) {
	p := h.JSONPayload(size)
	if w.direct {
		for range items {
			w.frame(func(b []byte) []byte { return cd.item(b, id, p) })
		}
		return
	}
	per := max(1, 32<<10/(size+64))
	for i := 0; i < items; i += per {
		n := min(per, items-i)
		w.frameN(n, func(b []byte) []byte { return cd.item(b, id, p) })
	}
}

func (c *cw) frameN(n int, f func(b []byte) []byte) {
	c.mu.Lock()
	c.buf = c.buf[:0]
	for range n {
		o := len(c.buf)
		c.buf = append(c.buf, 0, 0, 0, 0)
		c.buf = f(c.buf)
		k := len(c.buf) - o - 4
		c.buf[o], c.buf[o+1], c.buf[o+2], c.buf[o+3] = byte(k>>24), byte(k>>16), byte(k>>8), byte(k)
	}
	c.w.Write(c.buf)
	c.buf = c.buf[:0]
	c.mu.Unlock()
}

func (m *muxClient) stream(items, size int) error {
	got := 0
	done := make(chan error, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.mu.Unlock()
	m.onItem = func(i uint64, p []byte) bool {
		if i != id {
			return false
		}
		if len(p) != size {
			select {
			case done <- fmt.Errorf("item of %d bytes, want %d", len(p), size):
			default:
			}
		}
		got++
		if got == items {
			done <- nil
		}
		return true
	}
	m.w.frame(func(b []byte) []byte { return m.cd.req(b, id, streamReqBytes(items, size)) })
	return <-done
}

func isMux(proto string) bool { return strings.Contains(proto, "-mux") }
