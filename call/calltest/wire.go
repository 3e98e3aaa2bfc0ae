package calltest

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// A wire is a connection that is driven by raw bytes.
type wire struct {
	*env
	conn *alknet.Conn
	one  *alknet.Stream // of a Raw connection
}

// wire connects to h without a Client.
func (e *env) wire(h *call.Handler, id alknet.Identity) *wire {
	e.Helper()
	w := &wire{env: e, conn: e.connect(e.T, h, id)}
	e.Cleanup(func() { _ = w.conn.Close() })
	return w
}

// open is a stream for the next request: a new one, or the only one.
func (w *wire) open() *alknet.Stream {
	w.Helper()
	if w.one != nil {
		return w.one
	}
	s, err := w.conn.OpenStream(w.ctx())
	w.ok(err)
	if w.conn.Transport() == alknet.Raw {
		w.one = s
	}
	return s
}

// single reports whether there is one stream only.
func (w *wire) single() bool { return w.conn.Transport() == alknet.Raw }

// frame is a body with its length.
func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// write sends frames at once.
func (w *wire) write(s io.Writer, bodies ...string) {
	w.Helper()
	var b []byte
	for _, body := range bodies {
		b = append(b, frame(body)...)
	}
	_, err := s.Write(b)
	w.ok(err)
}

// read reads the next frame.
func (w *wire) read(s *alknet.Stream) string {
	w.Helper()
	body, err := readFrame(s)
	w.ok(err)
	return body
}

// readFrame reads a frame within patience.
func readFrame(s *alknet.Stream) (string, error) {
	_ = s.SetReadDeadline(time.Now().Add(patience))
	var head [4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return "", err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(s, body)
	return string(body), err
}

// event is a frame, decoded.
type event struct {
	Type    string         `json:"type"`
	ID      string         `json:"id"`
	Payload map[string]any `json:"payload"`
}

// next reads the next event.
func (w *wire) next(s *alknet.Stream) event {
	w.Helper()
	var ev event
	w.ok(json.Unmarshal([]byte(w.read(s)), &ev)) // of a test's own peer
	return ev
}

// errorOf reads the next event, which must be an error of a code.
func (w *wire) errorOf(s *alknet.Stream, id, code string) event {
	w.Helper()
	ev := w.next(s)
	w.same("call.error", ev.Type, "type")
	w.same(id, ev.ID, "id")
	w.same(code, ev.Payload["code"], "code")
	return ev
}

// alive fails unless the connection still serves.
func (w *wire) alive() {
	w.Helper()
	s := w.open()
	w.write(s, `{"type":"call.requested","id":"alive","payload":{"operationId":"/test/echo","input":"alive"}}`)
	w.same(`{"type":"call.responded","id":"alive","payload":{"output":"alive"}}`, w.read(s), "the connection lives")
	w.done(s)
}

// done ends a stream that is not the only one.
func (w *wire) done(s *alknet.Stream) {
	if s != w.one {
		_ = s.Close()
	}
}

// through waits until the peer has read everything that was written on the only
// stream, and skips its answers.
func (w *wire) through() {
	w.Helper()
	if w.one == nil {
		return
	}
	w.write(w.one, `{"type":"call.requested","id":"through","payload":{"operationId":"/services/ping","input":{}}}`)
	for w.next(w.one).ID != "through" {
	}
}
