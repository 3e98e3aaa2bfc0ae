// Package printable makes text that a peer chose fit for a log, a terminal or
// an error.
package printable

import (
	"fmt"
	"log/slog"
	"strconv"
	"unicode"
	"unicode/utf8"
)

const (
	maxBytes = 128 // of a result, with its quotes and the mark
	mark     = "…" // follows the closing quote of a text that was cut
	maxMarks = 2   // combining marks on one letter, as Thai and Vietnamese need

	// noLetter is a count of marks: there is nothing that a mark may stand on.
	noLetter = maxMarks + 1
)

// Quote returns s in double quotes, in at most 128 bytes. It escapes as Go
// does: control characters (ESC, CR, LF among them), line and paragraph
// separators, marks that change the direction of text, characters without a
// shape, bytes that are not UTF-8, and what would combine with a quote. A text
// that does not fit is cut between characters, and an ellipsis follows the
// closing quote: `"abc"…`. [strconv.Unquote] of a result without the ellipsis
// is s; with it, it is the beginning of s.
func Quote(s string) string {
	if len(s) <= maxBytes-2 && plain(s) {
		return `"` + s + `"`
	}
	var buf, esc [maxBytes]byte
	b := append(buf[:0], '"')
	safe := 1 // how much of b may stay if the rest does not fit
	marks := noLetter
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		show := false
		show, marks = visible(r, marks)
		part := esc[:0]
		switch {
		case r == utf8.RuneError && size == 1:
			part = append(part, `\x`...)
			part = append(part, "0123456789abcdef"[s[i]>>4], "0123456789abcdef"[s[i]&15])
		case r == '"' || r == '\\':
			part = append(part, '\\', byte(r))
		case show:
			part = append(part, s[i:i+size]...)
		default:
			part = escape(part, r)
		}
		if len(b)+len(part)+1 > maxBytes {
			return string(b[:safe]) + `"` + mark
		}
		b = append(b, part...)
		if len(b)+1+len(mark) <= maxBytes {
			safe = len(b)
		}
		i += size
	}
	return string(append(b, '"'))
}

// plain reports whether every byte of s is printable ASCII that needs no escape.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// escape appends r as strconv.Quote writes what it does not print.
func escape(b []byte, r rune) []byte {
	b = strconv.AppendQuoteRuneToASCII(b, r)
	copy(b, b[1:])
	return b[:len(b)-2] // without the single quotes
}

// visible reports whether r shows itself and changes nothing around it. marks is
// how many combining marks already stand on the letter before r, and then on r.
func visible(r rune, marks int) (show bool, after int) {
	switch {
	case r == utf8.RuneError, !unicode.IsPrint(r), blank(r):
		return false, noLetter
	case unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.Me):
		return false, noLetter
	case unicode.Is(unicode.Mn, r):
		return marks < maxMarks, marks + 1
	case unicode.Is(unicode.Mc, r): // has a width, and may stand before its letter
		if marks >= noLetter {
			return false, noLetter
		}
		return true, 0
	case unicode.IsLetter(r):
		return true, 0
	}
	return true, noLetter
}

// blank reports whether r is one of the characters without a shape that no
// property of Unicode tells from those that have one.
func blank(r rune) bool {
	switch r {
	case '\u2800', // Braille without dots
		'\ufffc',     // stands for an object
		'\U00013441', // a blank hieroglyph
		'\U00013442', // and half of one
		'\U00016fe4', // Khitan filler
		'\U0001d159': // null note head
		return true
	}
	return false
}

// Text is a peer's text that every logger and formatter shows as [Quote] does.
// Its own bytes are those of the string: encoding/json writes them.
type Text string

// String is Quote.
func (t Text) String() string { return Quote(string(t)) }

// LogValue is Quote.
func (t Text) LogValue() slog.Value { return slog.StringValue(Quote(string(t))) }

// Format is Quote for every verb; width and precision do nothing.
func (t Text) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte(Quote(string(t)))) // a State has nowhere to report an error
}
