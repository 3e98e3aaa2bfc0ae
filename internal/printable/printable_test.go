package printable

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestQuoteShowsWhatIsHarmless(t *testing.T) {
	for _, s := range []string{
		"", "a", "fs/put", "Ünïcödé", "日本語", "שלום", "emoji 🙂", "'single'", "`back`", "a/b?c=d&e", "ไม่ที่", "Tiếng Việt",
		"Tie\u0302\u0301ng Vie\u0323\u0302t", "हिन्दी", "हाँ", "…", strings.Repeat("x", 126),
	} {
		require.Equal(t, `"`+s+`"`, Quote(s))
	}
}

func TestQuoteEscapes(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"quote", `a"b`, `"a\"b"`},
		{"backslash", `a\b`, `"a\\b"`},
		{"NUL", "a\x00b", `"a\x00b"`},
		{"line feed", "a\nb", `"a\nb"`},
		{"carriage return", "a\r\nb", `"a\r\nb"`},
		{"tab", "a\tb", `"a\tb"`},
		{"escape sequence", "\x1b[2J\x1b]0;title\a", `"\x1b[2J\x1b]0;title\a"`},
		{"delete", "\x7f", `"\x7f"`},
		{"C1: CSI", "\u009b31m", `"\u009b31m"`},
		{"C1: next line", "\u0085", `"\u0085"`},
		{"not UTF-8", "a\xff\xc3(", `"a\xff\xc3("`},
		{"overlong", "\xc0\xaf", `"\xc0\xaf"`},
		{"surrogate half", "\xed\xa0\x80", `"\xed\xa0\x80"`},
		{"replacement character", "\ufffd", `"\ufffd"`},
		{"right-to-left override", "a\u202etxt.exe", `"a\u202etxt.exe"`},
		{"zero width joiner", "a\u200db", `"a\u200db"`},
		{"zero width space", "a\u200bb", `"a\u200bb"`},
		{"byte order mark", "\ufeffa", `"\ufeffa"`},
		{"soft hyphen", "a\u00adb", `"a\u00adb"`},
		{"line separator", "a\u2028b\u2029c", `"a\u2028b\u2029c"`},
		{"no-break space", "a\u00a0b", `"a\u00a0b"`},
		{"ideographic space", "a\u3000b", `"a\u3000b"`},
		{"Hangul filler", "a\u3164b\u115f\u1160\uffa0", `"a\u3164b\u115f\u1160\uffa0"`},
		{"grapheme joiner", "a\u034fb", `"a\u034fb"`},
		{"variation selector", "a\ufe0fb", `"a\ufe0fb"`},
		{"variation selector, supplement", "a\U000e0100b", `"a\U000e0100b"`},
		{"tag characters", "a\U000e0041b", `"a\U000e0041b"`},
		{"blank Braille", "a\u2800b", `"a\u2800b"`},
		{"object replacement", "a\ufffcb", `"a\ufffcb"`},
		{"blank hieroglyphs", "a\U00013441\U00013442b", `"a\U00013441\U00013442b"`},
		{"null note head", "a\U0001d159b", `"a\U0001d159b"`},
		{"Khitan filler", "a\U00016fe4b", `"a\U00016fe4b"`},
		{"private use", "a\ue000b", `"a\ue000b"`},
		{"not a character", "a\uffffb", `"a\uffffb"`},
		{"mark on the quote", "\u0301a", `"\u0301a"`},
		{"mark on a space", "a \u0301", `"a \u0301"`},
		{"mark on an escape", "\n\u0301", `"\n\u0301"`},
		{"spacing mark on the quote", "\u093fa", `"\u093fa"`},
		{"spacing mark on a digit", "1\u0903", `"1\u0903"`},
		{"spacing mark on an escape", "क\u0301\u0302\u0303\u093e", `"क` + "\u0301\u0302" + `\u0303\u093e"`},
		{"too many marks", "a\u0301\u0302\u0303\u0304", `"a` + "\u0301\u0302" + `\u0303\u0304"`},
		{"enclosing mark", "a\u20dd", `"a\u20dd"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, Quote(tt.in))
			back, err := strconv.Unquote(Quote(tt.in))
			require.NoError(t, err)
			require.Equal(t, tt.in, back)
		})
	}
}

// Every mark that changes the direction of text, and every one without a width.
func TestQuoteEscapesAllOfAKind(t *testing.T) {
	var hostile []rune
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if unicode.In(r, unicode.Bidi_Control, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector,
			unicode.Other_Default_Ignorable_Code_Point) || unicode.Is(unicode.Zs, r) && r != ' ' {
			hostile = append(hostile, r)
		}
	}
	for _, r := range []rune{0x61c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069} {
		require.Contains(t, hostile, r)
	}
	for _, r := range hostile {
		require.Equal(t, `"a`+strings.Trim(strconv.QuoteRuneToASCII(r), "'")+`b"`, Quote("a"+string(r)+"b"))
	}
}

func TestQuoteCutsBetweenCharacters(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"the longest that fits", strings.Repeat("x", 126), `"` + strings.Repeat("x", 126) + `"`},
		{"one more", strings.Repeat("x", 127), `"` + strings.Repeat("x", 123) + `"…`},
		{"64 KiB", strings.Repeat("x", 64<<10), `"` + strings.Repeat("x", 123) + `"…`},
		{"two bytes a character", strings.Repeat("é", 64), `"` + strings.Repeat("é", 61) + `"…`},
		{"four bytes a character", strings.Repeat("🙂", 32), `"` + strings.Repeat("🙂", 30) + `"…`},
		{"escapes", strings.Repeat("\u202e", 22), `"` + strings.Repeat(`\u202e`, 20) + `"…`},
		{"escapes that fit", strings.Repeat("\u202e", 21), `"` + strings.Repeat(`\u202e`, 21) + `"`},
		{"an escape at the end", strings.Repeat("x", 125) + "\x00", `"` + strings.Repeat("x", 123) + `"…`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, Quote(tt.in))
			require.LessOrEqual(t, len(Quote(tt.in)), maxBytes)
		})
	}
}

// A text of a peer's own ellipsis does not look as if it was cut.
func TestQuoteMarkIsOutsideTheQuotes(t *testing.T) {
	require.Equal(t, `"a…"`, Quote("a…"))
	require.True(t, strings.HasSuffix(Quote(strings.Repeat("a", 200)), `"…`))
}

func TestTextIsQuotedEverywhere(t *testing.T) {
	const in, want = "a\x1b[31m\nlevel=ERROR\u202e", `"a\x1b[31m\nlevel=ERROR\u202e"`
	text := Text(in)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%10s", "%.2s"} {
		require.Equal(t, want, fmt.Sprintf(verb, text), verb)
		require.Equal(t, "["+want+"]", fmt.Sprintf("["+verb+"]", text), verb)
	}
	require.Equal(t, want, text.String())
	require.Equal(t, "{"+want+"}", fmt.Sprintf("%v", struct{ T Text }{text}))
	require.Equal(t, "x: "+want, fmt.Errorf("x: %v", text).Error())

	var buf bytes.Buffer
	slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "peer", text)
	require.Contains(t, buf.String(), "peer="+strconv.Quote(want))
	require.Equal(t, 1, strings.Count(buf.String(), "\n"), "a log line is one line")

	buf.Reset()
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", slog.Any("peer", text))
	var line struct{ Peer string }
	require.NoError(t, json.Unmarshal(buf.Bytes(), &line))
	require.Equal(t, want, line.Peer)
}

func TestQuoteCost(t *testing.T) {
	long := strings.Repeat("\x1b", 1<<20)
	for name, s := range map[string]string{"plain": "fs/put", "escaped": "a\nb", "long": long} {
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { Quote(s) }), 1.0, name)
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{
		"", "plain", `"\`, "a\nb\r\x00", "\x1b[2J", "\u202e\u2066\u200f\u061c", "\u2028\u2029", "\xff\xc3", "\xed\xa0\x80", "e\u0301\u0302\u0303",
		"\u3164\u115f", "\u093f\u0903", strings.Repeat("é", 70), strings.Repeat("x", 125) + "🙂", "日本語", "\U000e0041\U0010ffff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := Quote(s)
		require.LessOrEqual(t, len(q), maxBytes)
		require.True(t, utf8.ValidString(q))
		for _, r := range q {
			require.True(t, unicode.IsPrint(r), "%q in %q", r, q)
			require.False(t, unicode.In(r, unicode.Bidi_Control, unicode.Other_Default_Ignorable_Code_Point), "%q in %q", r, q)
		}
		first, _ := utf8.DecodeRuneInString(q[1:])
		require.False(t, unicode.IsMark(first), "it combines with the quote: %q", q)
		inner, cut := strings.CutSuffix(q, mark)
		back, err := strconv.Unquote(inner)
		require.NoError(t, err)
		if cut {
			require.True(t, strings.HasPrefix(s, back))
			require.Less(t, len(back), len(s))
		} else {
			require.Equal(t, s, back)
		}
	})
}

func BenchmarkQuote(b *testing.B) {
	for name, s := range map[string]string{"plain": "fs/put", "escaped": "a\nb", "long": strings.Repeat("é", 1000)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Quote(s)
			}
		})
	}
}
