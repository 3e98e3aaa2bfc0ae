package strictjson

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// TestCheckAgreesWithDecode: what Check passes is what Decode reads as one value.
func TestCheckAgreesWithDecode(t *testing.T) {
	files, err := filepath.Glob("testdata/jsontestsuite/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	texts := []string{
		`{"a":1,"a":2}`, `{"a":1} {}`, `1},"id":"other"`, `"\ud800"`, "\"\xff\"", ``, ` `, ` {"a":[1]} `,
		strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1),
		strings.Repeat("[],", 2*MaxDepth), "[" + strings.Repeat("[],", 2*MaxDepth) + "1]",
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		texts = append(texts, string(b))
	}
	for _, text := range texts {
		var v jsontext.Value
		require.Equal(t, Decode([]byte(text), &v) == nil, Check([]byte(text)) == nil, "%.200q", text)
	}
}

// TestPlainIsNarrower: what the quick scan passes, the library passes; and it does
// pass what programs send.
func TestPlainIsNarrower(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `""`, `0`, `-1.5e+10`, `true`, `[1,[2,{"a":null}],"x"]`, `{"user":"u-1","seq":12345,"ok":true,"body":"abcdefghijklmnopqrstuvwxyz"}`,
		strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth),
	} {
		require.True(t, plain([]byte(text)), text)
	}
	for _, text := range []string{
		``, ` 1`, `1 `, `01`, `1.`, `.5`, `-`, `+1`, `1e`, `nul`, `truee`, `"a`, `"a\"`, "\"\x1f\"", "\"12345678\x1f\"", "\"\x7f\xff\"", `"ü"`, `[1,]`, `[,1]`, `{"a":1,}`,
		`{"a"1}`, `{"a":1,"a":2}`, `{"aaaaaaaaaaaa":1,"b":{},"aaaaaaaaaaaa":2}`, `{a:1}`, `1},"id":"other"`, `[1}`, `{"a":1]`, `--1`, `1..2`,
		strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1),
	} {
		require.False(t, plain([]byte(text)), "%q", text)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"a":[1,-2.5e3,"text of more than eight bytes",{"b":null}],"c":true}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if plain(text) {
			require.True(t, jsontext.Value(text).IsValid() && tooDeep(text) < 0, "%q", text)
		}
		var v jsontext.Value
		require.Equal(t, Decode(text, &v) == nil, Check(text) == nil, "%q", text)
	})
}

// Any byte anywhere in a text ends it, or does not, whatever is before and behind.
func TestTextEndsWhereItShould(t *testing.T) {
	for _, around := range []string{"a", "!", " ", "\x7f", "#"} {
		for at := range 48 {
			for c := range 256 {
				for _, behind := range []string{"\"", "\x00\"", "\xff\"", strings.Repeat(around, 20) + "\""} {
					b := []byte("\"" + strings.Repeat(around, at) + string([]byte{byte(c)}) + behind)
					s := scanner{b: b}
					got := s.text()
					end := 1
					for b[end] != '"' && b[end] != '\\' && b[end] >= ' ' && b[end] < 0x80 {
						end++
					}
					require.Equal(t, b[end] == '"', got, "%q", b)
					if got {
						require.Equal(t, end+1, s.i, "%q", b)
					}
				}
			}
		}
	}
}
