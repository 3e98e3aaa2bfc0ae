package call

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/alkdev/alknet/internal/budget"
)

// What ends the reading of a stream.
var (
	errFrameLength = errors.New("a frame's length is from 1 to 67,108,864")
	errTruncated   = errors.New("the stream ended inside a frame")
)

// The bounds of a frameReader's buffer: it grows while reads fill it.
const (
	minReadBuffer = 4 << 10
	maxReadBuffer = 64 << 10
	salvageBytes  = 4 << 10 // of a frame over the limit, to tell whose it is
	growStep      = 64 << 10
)

// A deadliner is what a frameReader reads from.
type deadliner interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

// A frameReader reads frames of a 4-byte big-endian length and so many bytes
// (docs/protocol.md, section "Call"). It is used by one goroutine.
type frameReader struct {
	src     deadliner
	timeout time.Duration // of a frame, from its first byte
	mem     *budget.Budget
	buf     []byte
	r, w    int    // buf[r:w] is unread
	late    bool   // a read deadline is set
	first   bool   // that deadline is for the first frame to come
	held    int64  // reserved for the frame that is too large for buf
	big     []byte // where that was read, for the next one
}

// buffered is how many bytes wait to be read.
func (f *frameReader) buffered() int { return f.w - f.r }

// whole reports whether the next frame is buffered.
func (f *frameReader) whole() bool {
	return f.buffered() >= 4 && f.buffered()-4 >= int(binary.BigEndian.Uint32(f.buf[f.r:]))
}

// fill reads until n bytes are buffered; n is at most maxReadBuffer.
func (f *frameReader) fill(n int) error {
	if f.r > 0 && (f.r == f.w || len(f.buf)-f.r < n) {
		f.w = copy(f.buf, f.buf[f.r:f.w])
		f.r = 0
	}
	if len(f.buf) < n || len(f.buf) == f.w {
		size := min(max(2*len(f.buf), minReadBuffer, n), maxReadBuffer)
		grown := make([]byte, size)
		f.w = copy(grown, f.buf[f.r:f.w])
		f.r, f.buf = 0, grown
	}
	for f.buffered() < n {
		m, err := f.src.Read(f.buf[f.w:])
		f.w += m
		if f.buffered() >= n {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// length waits for the next frame and returns the length of its body. io.EOF is
// an end between two frames.
func (f *frameReader) length() (int, error) {
	if f.late && !f.first { // the last frame took its time
		f.late = false
		_ = f.src.SetReadDeadline(time.Time{}) // a stream that has ended says so when it is read
	}
	f.first = false
	if f.buffered() == 0 {
		if err := f.fill(1); err != nil {
			return 0, err
		}
	}
	if f.buffered() < 4 {
		f.hurry(0)
		if err := f.fill(4); err != nil {
			return 0, truncated(err)
		}
	}
	n := binary.BigEndian.Uint32(f.buf[f.r:])
	if n == 0 || n > largestFrameBytes {
		return 0, fmt.Errorf("%w, not %d", errFrameLength, n)
	}
	f.r += 4
	if f.buffered() < int(n) {
		f.hurry(int(n))
	}
	return int(n), nil
}

// hurry bounds the time that the rest of the frame may take.
func (f *frameReader) hurry(n int) {
	f.late = true
	_ = f.src.SetReadDeadline(time.Now().Add(f.timeout + time.Duration(n>>16)*time.Second))
}

// truncated is an end inside of a frame.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return errTruncated
	}
	return err
}

// small returns the body of n bytes where it lies in the buffer, valid until
// the next read. ok is false if it does not fit there: large reads it.
func (f *frameReader) small(n int) (body []byte, ok bool, err error) {
	if n > maxReadBuffer/2 && f.buffered() < n {
		return nil, false, nil
	}
	if f.buffered() < n {
		if err := f.fill(n); err != nil {
			return nil, true, truncated(err)
		}
	}
	body = f.buf[f.r : f.r+n : f.r+n]
	f.r += n
	return body, true, nil
}

// peek returns the first bytes of a body of n bytes, which stay unread.
func (f *frameReader) peek(n int) ([]byte, error) {
	n = min(n, salvageBytes)
	if f.buffered() < n {
		if err := f.fill(n); err != nil {
			return nil, truncated(err)
		}
	}
	return f.buf[f.r : f.r+n], nil
}

// large reads a body of n bytes into memory of its own, which grows by at most
// growStep as bytes arrive and is reserved before it is made. The error is a
// *budget.LimitError if there is no memory for it; the rest is then unread and
// its length returned. release gives the reservation back; the memory is used again
// for the next frame.
func (f *frameReader) large(n int) (body []byte, left int, err error) {
	body = f.big[:0]
	defer func() {
		if cap(body) <= keptBuffer/4 {
			f.big = body
		}
	}()
	for len(body) < n {
		step := min(n-len(body), max(growStep, len(body)/4))
		if err := f.mem.Reserve(int64(step)); err != nil {
			f.release()
			return nil, n - len(body), err
		}
		f.held += int64(step)
		have := len(body)
		body = slices.Grow(body, step)[:have+step]
		for at := have; at < have+step; {
			if f.buffered() > 0 {
				m := copy(body[at:have+step], f.buf[f.r:f.w])
				f.r += m
				at += m
				continue
			}
			m, err := f.src.Read(body[at : have+step])
			if at += m; err != nil && at < have+step {
				return nil, 0, truncated(err)
			}
		}
	}
	return body, 0, nil
}

// release gives back what large has reserved.
func (f *frameReader) release() {
	f.mem.Release(f.held)
	f.held = 0
}

// discard reads n bytes away.
func (f *frameReader) discard(n int) error {
	for n > 0 {
		if f.buffered() == 0 {
			if err := f.fill(1); err != nil {
				return truncated(err)
			}
		}
		m := min(n, f.buffered())
		f.r += m
		n -= m
	}
	return nil
}

// A raw frame carries bytes: a tag, the length of the id, the id, a number and
// the bytes. Its first byte is never that of a JSON object.
const (
	rawOutput = 0x01
	rawInput  = 0x02
)

// isRaw reports whether a frame body is a raw frame.
func isRaw(body []byte) bool {
	switch body[0] {
	case '{', ' ', '\t', '\r', '\n':
		return false
	}
	return true
}

// errRawFrame is a raw frame that is none.
var errRawFrame = errors.New("not a raw frame")

// parseRaw reads a raw frame.
func (ev *event) parseRaw(body []byte) error {
	*ev = event{raw: true}
	switch body[0] {
	case rawOutput:
		ev.typ = evResponded
	case rawInput:
		ev.typ = evItem
	default:
		return errRawFrame
	}
	if len(body) < 2 || len(body) < 2+int(body[1])+8 {
		return errRawFrame
	}
	id := body[2 : 2+int(body[1])]
	if !validID(id) {
		return errRawFrame
	}
	rest := body[2+len(id):]
	ev.id, ev.seq, ev.data = id, binary.BigEndian.Uint64(rest), rest[8:]
	return nil
}

// appendRawFrame appends a raw frame with its length.
func appendRawFrame(b []byte, tag byte, id []byte, seq uint64, data []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, tag, byte(len(id)))
	b = append(b, id...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, data...)
	putLength(b, start)
	return b
}
