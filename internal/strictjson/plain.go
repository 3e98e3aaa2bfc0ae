package strictjson

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// plain reports whether data is one JSON value of the plain kind: no white space
// between tokens, no escapes, ASCII only, few members an object, no name twice.
// Nearly all that programs send is of that kind, and this scan costs less
// than half of the library's. False says nothing: the library decides. A fuzz target holds it
// to that.
func plain(data []byte) bool {
	s := scanner{b: data}
	return s.value(0) && s.i == len(data)
}

// maxPlainMembers bounds the names that are compared with each other.
const maxPlainMembers = 16

// A scanner reads b from i on.
type scanner struct {
	b []byte
	i int
}

// next is the byte at i; 0 at the end.
func (s *scanner) next() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// take skips c, if it is next.
func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) value(depth int) bool {
	switch c := s.next(); c {
	case '"':
		return s.text()
	case '{':
		return depth < MaxDepth && s.object(depth+1)
	case '[':
		return depth < MaxDepth && s.array(depth+1)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

func (s *scanner) array(depth int) bool {
	s.i++
	if s.take(']') {
		return true
	}
	for {
		if !s.value(depth) {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) object(depth int) bool {
	s.i++
	if s.take('}') {
		return true
	}
	var names [maxPlainMembers][]byte
	for n := range names {
		start := s.i
		if s.next() != '"' || !s.text() {
			return false
		}
		name := s.b[start:s.i]
		for _, other := range names[:n] {
			if bytes.Equal(name, other) {
				return false
			}
		}
		names[n] = name
		if !s.take(':') || !s.value(depth) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
	return false
}

// Patterns of eight equal bytes.
const (
	ones   = 0x0101010101010101
	highs  = 0x80 * ones
	quotes = '"' * ones
	slash  = '\\' * ones
	spaces = ' ' * ones
)

// special marks the bytes of eight that end plain text: a quote, a backslash, a
// control character, one beyond ASCII. The lowest mark is right; those above it may
// be of a borrow.
func special(w uint64) uint64 {
	return (w | ((w ^ quotes) - ones) | ((w ^ slash) - ones) | (w - spaces)) & highs
}

// text skips a string without escapes, of printable ASCII and DEL: eight bytes, and
// if that was not all, sixteen at a time.
func (s *scanner) text() bool {
	b, i := s.b, s.i+1
	for len(b)-i >= 8 {
		if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			i += bits.TrailingZeros64(m) / 8
			s.i = i + 1
			return b[i] == '"'
		}
		i += 8
		for len(b)-i >= 16 && special(binary.LittleEndian.Uint64(b[i:]))|special(binary.LittleEndian.Uint64(b[i+8:])) == 0 {
			i += 16
		}
	}
	for ; i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			s.i = i + 1
			return true
		case c < ' ' || c == '\\' || c >= 0x80:
			return false
		}
	}
	return false
}

// digits skips at least one digit.
func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

func (s *scanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if c := s.next(); c == 'e' || c == 'E' {
		s.i++
		if !s.take('+') {
			s.take('-')
		}
		return s.digits()
	}
	return true
}
