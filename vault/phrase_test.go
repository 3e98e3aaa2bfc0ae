package vault

import (
	"encoding/hex"
	stdjson "encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tyler-smith/go-bip39"
	"github.com/tyler-smith/go-bip39/wordlists"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// readVectors decodes a file of testdata/vectors.
func readVectors[T any](t testing.TB, name string) T {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors/" + name + ".json")
	require.NoError(t, err)
	var v T
	require.NoError(t, stdjson.Unmarshal(data, &v))
	return v
}

// seedHex is the seed of a phrase in hex.
func seedHex(t testing.TB, p Phrase, passphrase string) string {
	t.Helper()
	var seed [seedBytes]byte
	require.NoError(t, seedOf(p, secret(passphrase), &seed))
	return hex.EncodeToString(seed[:])
}

// phraseText is the words of a phrase.
func phraseText(t testing.TB, p Phrase) string {
	t.Helper()
	var text string
	require.NoError(t, p.Words(func(words []string) error {
		text = strings.Join(words, " ")
		return nil
	}))
	return text
}

func TestPhraseVectors(t *testing.T) {
	all := readVectors[map[string][][4]string](t, "bip39")
	require.Len(t, all, 12)
	require.Len(t, all["english"], 24)
	for _, v := range all["english"] {
		p := phrase(t, v[1])
		require.Equal(t, v[1], phraseText(t, p))
		require.Equal(t, v[2], seedHex(t, p, "TREZOR"))
	}
	for language, list := range all {
		for i, v := range list {
			var seed [seedBytes]byte
			require.NoError(t, stretch([]byte(v[1]), []byte("TREZOR"), &seed))
			require.Equal(t, v[2], hex.EncodeToString(seed[:]), "%s %d", language, i)
			require.NoError(t, stretch(norm.NFC.Bytes([]byte(v[1])), []byte("TREZOR"), &seed))
			require.Equal(t, v[2], hex.EncodeToString(seed[:]), "%s %d composed", language, i)
		}
	}
}

// Whatever a person types for the same words is the same seed.
func TestPhraseAnyCaseSpacingAndForm(t *testing.T) {
	want := seedHex(t, phrase(t, about), "")
	words := strings.Fields(about)
	for name, text := range map[string]string{
		"double space":   strings.Join(words, "  "),
		"upper case":     strings.ToUpper(about),
		"lines":          "\n" + strings.Join(words, "\r\n") + "\n",
		"ideographic":    strings.Join(words, "\u3000"),
		"no-break space": strings.Join(words, "\u00a0"),
		"full width":     strings.ReplaceAll(about, "about", "ａｂｏｕｔ"),
	} {
		require.Equal(t, want, seedHex(t, phrase(t, text), ""), name)
	}
	require.Equal(t, seedHex(t, phrase(t, about), "é"), seedHex(t, phrase(t, about), "e\u0301"))
	require.NotEqual(t, want, seedHex(t, phrase(t, about), " "), "a passphrase is taken as it is")
}

func TestPhraseErrorsSayWhichWord(t *testing.T) {
	with := func(at int, word string) string {
		words := strings.Fields(about)
		words[at-1] = word
		return strings.Join(words, " ")
	}
	tests := []struct {
		name, text string
		want       PhraseError
	}{
		{"letter missing", with(3, "abandn"), PhraseError{Word: 3, Near: []string{"abandon"}}},
		{"letter too many", with(12, "abouut"), PhraseError{Word: 12, Near: []string{"about"}}},
		{"four letters right", with(1, "abanxyz"), PhraseError{Word: 1, Near: []string{"abandon"}}},
		{"nothing near", with(7, "xyzzyx"), PhraseError{Word: 7}},
		{"first of two", with(2, "qqqqq") + " qqqqq", PhraseError{Word: 2}},
		{"three near at most", with(1, "pa"), PhraseError{Word: 1}},
		{"not UTF-8", with(4, "\xff"), PhraseError{Word: 4}},
		{"another language", with(5, "ábaco"), PhraseError{Word: 5}},
		{"checksum", with(12, "abandon"), PhraseError{Checksum: true}},
		{"exchanged", "legal winner thank year wave sausage worth useful legal winner yellow thank", PhraseError{Checksum: true}},
		{"11 words", strings.TrimPrefix(about, "abandon "), PhraseError{}},
		{"13 words", about + " about", PhraseError{}},
		{"empty", "", PhraseError{}},
		{"too long", strings.Repeat("abandon ", 1000), PhraseError{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePhrase(tt.text)
			var got *PhraseError
			require.ErrorAs(t, err, &got)
			if tt.want.Near == nil {
				require.LessOrEqual(t, len(got.Near), maxNear)
				tt.want.Near = got.Near
			}
			require.Equal(t, tt.want, *got)
			for _, w := range append(strings.Fields(tt.text), got.Near...) {
				if len(w) > 6 {
					require.NotContains(t, err.Error(), w)
				}
			}
			_, err = New(p, Secret{}, nil)
			require.Error(t, err, "what was refused opens nothing")
		})
	}
}

func TestPhraseNew(t *testing.T) {
	seen := make(map[string]bool)
	for _, n := range []int{12, 15, 18, 21, 24} {
		p, err := NewPhrase(n)
		require.NoError(t, err)
		text := phraseText(t, p)
		require.Len(t, strings.Fields(text), n)
		require.Equal(t, seedHex(t, p, "x"), seedHex(t, phrase(t, text), "x"))
		require.False(t, seen[text])
		seen[text] = true
		p.Destroy()
		require.ErrorIs(t, p.Words(func([]string) error { return nil }), ErrLocked)
	}
	for _, n := range []int{-12, 0, 11, 13, 27, 1 << 30} {
		_, err := NewPhrase(n)
		require.ErrorIs(t, err, ErrMalformed)
	}
}

func TestPhrasePassphraseBounds(t *testing.T) {
	p := phrase(t, about)
	var seed [seedBytes]byte
	for _, bad := range []string{"\xff", "a\x00b", strings.Repeat("x", maxPassphrase+1)} {
		require.ErrorIs(t, seedOf(p, secret(bad), &seed), ErrMalformed)
	}
	require.NoError(t, seedOf(p, secret(strings.Repeat("x", maxPassphrase)), &seed))
	var perr *PhraseError
	require.ErrorAs(t, seedOf(Phrase{}, Secret{}, &seed), &perr, "the zero phrase")
}

// The library's list is a variable of the whole program.
func TestPhraseRefusesAReplacedWordList(t *testing.T) {
	other := slices.Clone(wordlists.English)
	other[0], other[1] = other[1], other[0]
	bip39.SetWordList(other)
	defer bip39.SetWordList(wordlists.English)
	_, err := ParsePhrase(about)
	require.ErrorIs(t, err, errWordList)
	_, err = NewPhrase(12)
	require.ErrorIs(t, err, errWordList)
}

func TestPhraseNearIsOneEdit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.SampledFrom(wordlists.English).Draw(t, "word")
		at := rapid.IntRange(0, len(w)-1).Draw(t, "at")
		c := rapid.StringMatching("[a-z]").Draw(t, "letter")
		for _, typed := range []string{w[:at] + w[at+1:], w[:at] + c + w[at:], w[:at] + c + w[at+1:]} {
			if typed != w {
				require.True(t, oneEdit(typed, w))
				require.True(t, oneEdit(w, typed))
			}
		}
		require.False(t, oneEdit(w, w))
		require.False(t, oneEdit(w, w+"xy"))
	})
}

func FuzzMnemonic(f *testing.F) {
	for _, s := range []string{about, legal, "", "abandon", strings.ToUpper(about), "\u3000" + about, "ａbandon é \xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePhrase(s)
		if err != nil {
			var perr *PhraseError
			require.ErrorAs(t, err, &perr)
			return
		}
		text := phraseText(t, p)
		require.True(t, bip39.IsMnemonicValid(text))
		require.Equal(t, text, phraseText(t, phrase(t, text)))
		require.Equal(t, strings.Join(strings.Fields(strings.ToLower(norm.NFKD.String(s))), " "), text)
	})
}
