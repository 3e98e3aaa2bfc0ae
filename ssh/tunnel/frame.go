package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/alkdev/alknet/ssh/forward"
)

// The bounds of a frame, in bytes (docs/protocol.md, section "Tunnel").
const (
	maxAddress = 512
	maxText    = 256
	headerSize = 8
	answerSize = 7
)

// A kind is what the opener of a stream wants.
type kind uint8

const (
	kindDial     kind = iota + 1 // connect to the address
	kindListen                   // listen on it; the stream is the listener
	kindPublish                  // offer the name; the stream is the offer
	kindAccepted                 // a connection of the listener with this id
)

// networks are the names of the numbers on the wire.
var networks = [...]string{1: "tcp", 2: "unix", 3: "udp", 4: "name"}

// networkNumber is the reverse; 0 for a name that is none.
func networkNumber(name string) uint8 {
	for i, n := range networks {
		if n == name && i > 0 {
			return uint8(i)
		}
	}
	return 0
}

// A header is what the opener of a stream writes first.
type header struct {
	kind    kind
	network uint8
	id      uint32 // of a listener or an offer, chosen by who opens it; else 0
	address string
}

// errFrame is a frame that breaks the grammar.
var errFrame = errors.New("tunnel: malformed frame")

// check refuses what no version of the protocol means.
func (h header) check() error {
	ok := false
	switch h.kind {
	case kindDial:
		ok = h.network >= 1 && h.network <= 4 && h.id == 0
	case kindListen:
		ok = (h.network == 1 || h.network == 2) && h.id != 0
	case kindPublish:
		ok = h.network == 4 && h.id != 0
	case kindAccepted:
		ok = (h.network == 1 || h.network == 2 || h.network == 4) && h.id != 0
	}
	if !ok {
		return fmt.Errorf("%w: kind %d, network %d, id %d", errFrame, h.kind, h.network, h.id)
	}
	return nil
}

// append writes the header.
func (h header) append(b []byte) []byte {
	b = append(b, byte(h.kind), h.network)
	b = binary.BigEndian.AppendUint32(b, h.id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.address)))
	return append(b, h.address...)
}

// readHeader reads a header and not a byte more.
func readHeader(r io.Reader) (header, error) {
	var fixed [headerSize]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return header{}, err
	}
	h := header{kind: kind(fixed[0]), network: fixed[1], id: binary.BigEndian.Uint32(fixed[2:])}
	if err := h.check(); err != nil {
		return header{}, err
	}
	address, err := readText(r, binary.BigEndian.Uint16(fixed[6:]), maxAddress)
	h.address = address
	return h, err
}

func readText(r io.Reader, n uint16, max int) (string, error) {
	if int(n) > max {
		return "", fmt.Errorf("%w: %d bytes, at most %d", errFrame, n, max)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	return string(b), nil
}

// An answer is what the other side writes first.
type answer struct {
	code forward.Code
	id   uint32 // as it was asked for
	text string // the bound address, or why not
}

func (a answer) append(b []byte) []byte {
	text := a.text[:min(len(a.text), maxText)]
	b = append(b, byte(a.code))
	b = binary.BigEndian.AppendUint32(b, a.id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

func readAnswer(r io.Reader) (answer, error) {
	var fixed [answerSize]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return answer{}, err
	}
	a := answer{code: forward.Code(fixed[0]), id: binary.BigEndian.Uint32(fixed[1:])}
	if a.code > forward.CodeAddress {
		return answer{}, fmt.Errorf("%w: code %d", errFrame, a.code)
	}
	text, err := readText(r, binary.BigEndian.Uint16(fixed[5:]), maxText)
	a.text = text
	return a, err
}

// maxDatagram is the largest datagram, in bytes: what a length of two fits.
const maxDatagram = 65535

// appendDatagram writes a datagram with its length.
func appendDatagram(b, datagram []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(datagram)))
	return append(b, datagram...)
}

// readDatagram reads one datagram into buf and returns its length; what does not
// fit is dropped, as with a socket.
func readDatagram(r io.Reader, buf []byte) (int, error) {
	var fixed [2]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return 0, err
	}
	size := int(binary.BigEndian.Uint16(fixed[:]))
	n := min(size, len(buf))
	_, err := io.ReadFull(r, buf[:n])
	if err == nil {
		_, err = io.CopyN(io.Discard, r, int64(size-n))
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
