// Package canary makes secrets for tests that give themselves away: whatever
// form they take in an output, [Find] finds them.
//
//	key := canary.Secret(32)
//	… use it as a secret, collect all output …
//	require.Empty(t, canary.Find(output))
//
// CI searches the logs of its test stages for them too.
package canary

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// mark is in every secret, in each 16 bytes of it. It is spelled in two parts,
// so that this source is none.
var mark = []byte("cAnArY" + "5eCrEt")

// MinBytes is the least that holds a mark and something random, in bytes.
const MinBytes = 16

// Secret returns n new bytes, printable ASCII, that hold the mark in each whole
// 16 bytes. It panics if n is less than [MinBytes]: such a secret could not be found.
func Secret(n int) []byte {
	if n < MinBytes {
		panic("canary: a secret has at least 16 bytes")
	}
	b := []byte(rand.Text() + rand.Text()[:6])
	for len(b) < n {
		b = append(b, rand.Text()...)
	}
	b = b[:n]
	for i := 0; i+MinBytes <= n; i += MinBytes {
		copy(b[i:], mark)
	}
	return b
}

// Find returns the names of the forms in which text holds a secret made by
// [Secret]: "raw", "hex", "base64", "base64url",
// "utf-16", "decimal", "go". Nil: none.
func Find(text []byte) []string {
	var found []string
	for _, f := range forms() {
		if slices.ContainsFunc(f.traces, func(trace []byte) bool { return bytes.Contains(text, trace) }) {
			found = append(found, f.name)
		}
	}
	return found
}

// A form is what a mark looks like in an encoding.
type form struct {
	name   string
	traces [][]byte
}

func forms() []form {
	encoded := hex.EncodeToString(mark)
	return []form{
		{"raw", [][]byte{mark}},
		{"hex", [][]byte{[]byte(encoded), []byte(strings.ToUpper(encoded)), []byte(spaced(encoded))}},
		{"base64", aligned(base64.RawStdEncoding.EncodeToString)},
		{"base64url", aligned(base64.RawURLEncoding.EncodeToString)},
		{"utf-16", [][]byte{wide(binary.LittleEndian), wide(binary.BigEndian)}},
		{"decimal", [][]byte{list("%d", " "), list("%d", ", "), list("%d", ",")}},
		{"go", [][]byte{list("%#x", ", ")}},
	}
}

// aligned is what a mark looks like in base64 after 0, 1 or 2 other bytes,
// without the characters that hold bits of what stands around it.
func aligned(encode func([]byte) string) [][]byte {
	var traces [][]byte
	for before := range 3 {
		s := encode(append(make([]byte, before), mark...))
		traces = append(traces, []byte(s[(before*8+5)/6:(before+len(mark))*8/6]))
	}
	return traces
}

// spaced is hex as a dump has it.
func spaced(encoded string) string {
	var b strings.Builder
	for i := 0; i < len(encoded); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(encoded[i : i+2])
	}
	return b.String()
}

// wide is the mark in UTF-16.
func wide(order binary.AppendByteOrder) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(string(mark))) {
		b = order.AppendUint16(b, u)
	}
	return b
}

// list is what a formatter makes of bytes, such as %v or %#v.
func list(format, separator string) []byte {
	var b []byte
	for i, c := range mark {
		if i > 0 {
			b = append(b, separator...)
		}
		b = fmt.Appendf(b, format, c)
	}
	return b
}
