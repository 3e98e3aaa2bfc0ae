package mux

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The control messages: a type octet, then unsigned varints (encoding/binary).
const (
	msgStreams = 1 // max: you may have opened so many streams in all
	msgStop    = 2 // stream, code: I no longer read this stream
	msgReset   = 3 // stream, code: I reset this stream; yamux's own frame follows
	msgClose   = 4 // code, length, that many octets of reason: I close the connection
)

// maxReason bounds the reason of a close, in bytes: a longer one is cut when it
// is sent and an error when it arrives.
const maxReason = 256

// maxCode is the largest error code: QUIC's limit, so that codes survive a
// change of transport.
const maxCode = 1<<62 - 1

// errControl is a control stream that does not keep to the protocol.
var errControl = errors.New("mux: malformed control message")

// A message is one control message.
type message struct {
	kind   byte
	stream uint32
	n      uint64 // code, or the number of streams
	reason string
}

// appendTo appends the encoding of m to b.
func (m message) appendTo(b []byte) []byte {
	b = append(b, m.kind)
	switch m.kind {
	case msgStop, msgReset:
		b = binary.AppendUvarint(b, uint64(m.stream))
		b = binary.AppendUvarint(b, m.n)
	case msgClose:
		reason := m.reason[:min(len(m.reason), maxReason)]
		b = binary.AppendUvarint(b, m.n)
		b = binary.AppendUvarint(b, uint64(len(reason)))
		b = append(b, reason...)
	default:
		b = binary.AppendUvarint(b, m.n)
	}
	return b
}

// readMessage reads one message. An end between messages is io.EOF.
func readMessage(r *bufio.Reader) (message, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return message{}, err
	}
	m := message{kind: kind}
	switch kind {
	case msgStreams:
		m.n, err = readUvarint(r)
	case msgStop, msgReset:
		var id uint64
		if id, err = readUvarint(r); err != nil {
			break
		}
		if id > 1<<32-1 {
			return message{}, fmt.Errorf("%w: stream %d", errControl, id)
		}
		m.stream = uint32(id)
		m.n, err = readUvarint(r)
	case msgClose:
		if m.n, err = readUvarint(r); err == nil {
			m.reason, err = readReason(r)
		}
	default:
		return message{}, fmt.Errorf("%w: type %d", errControl, kind)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}

func readReason(r *bufio.Reader) (string, error) {
	size, err := readUvarint(r)
	if err != nil {
		return "", err
	}
	if size > maxReason {
		return "", fmt.Errorf("%w: reason of %d bytes", errControl, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	return string(b), nil
}

// readUvarint reads a varint of at most maxCode in its shortest form.
func readUvarint(r *bufio.Reader) (uint64, error) {
	var v uint64
	for shift := 0; shift < 63; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		v |= uint64(c&0x7f) << shift
		if c >= 0x80 {
			continue
		}
		if v > maxCode || (c == 0 && shift > 0) {
			break
		}
		return v, nil
	}
	return 0, fmt.Errorf("%w: number out of range or not in its shortest form", errControl)
}
