// Package printable makes text that a peer chose fit for a log or a terminal.
package printable

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is how much of a text is shown, in bytes after escaping, without the quotes.
const maxText = 126

// more stands for what was cut off.
const more = "…"

// Quote returns s in double quotes, at most 128 bytes in all: control
// characters, ESC, CR, LF, marks that change the direction of text, invisible
// characters and bytes that are not UTF-8 are escaped, and a text that is too
// long ends in an ellipsis.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		part := s[:size]
		switch {
		case r == utf8.RuneError && size == 1:
			part = fmt.Sprintf(`\x%02x`, s[0])
		case r == '"' || r == '\\':
			part = `\` + part
		case !visible(r):
			part = strings.Trim(strconv.QuoteRuneToASCII(r), "'")
		}
		left := maxText + 1 - b.Len() - len(part)
		if left < 0 || left < len(more) && len(s) > size {
			b.WriteString(more)
			break
		}
		b.WriteString(part)
		s = s[size:]
	}
	b.WriteByte('"')
	return b.String()
}

// visible reports whether r shows itself and changes nothing around it.
func visible(r rune) bool {
	if r == ' ' {
		return true
	}
	return unicode.IsPrint(r) && !unicode.Is(unicode.Mn, r) && !unicode.Is(unicode.Me, r) && r != utf8.RuneError
}

// Text is a peer's text that every logger and formatter shows as Quote does.
type Text string

// String is Quote.
func (t Text) String() string { return Quote(string(t)) }

// LogValue is Quote.
func (t Text) LogValue() slog.Value { return slog.StringValue(Quote(string(t))) }

// Format is Quote, for every verb.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Quote(string(t)))) }
