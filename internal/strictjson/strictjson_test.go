package strictjson

import (
	stdjson "encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// decoders are both functions of the package.
var decoders = map[string]func([]byte, any) error{"Decode": Decode, "DecodeExact": DecodeExact}

// accepted reports whether both functions take text as v, and that they agree.
func accepted[T any](t *testing.T, text string) (v T, err error) {
	t.Helper()
	err = Decode([]byte(text), &v)
	var again T
	require.Equal(t, err == nil, DecodeExact([]byte(text), &again) == nil, "they differ in unknown members only")
	if err == nil {
		require.Equal(t, v, again)
	}
	return v, err
}

// refusedByChoice are the cases that JSONTestSuite leaves to the parser or that
// the grammar allows, and that one reader could read differently from another.
var refusedByChoice = map[string]string{
	"y_object_duplicated_key.json":           "duplicate name",
	"y_object_duplicated_key_and_value.json": "duplicate name",
	"i_structure_500_nested_arrays.json":     "depth",
}

func TestDecodeJSONTestSuite(t *testing.T) {
	files, err := filepath.Glob("testdata/jsontestsuite/*.json")
	require.NoError(t, err)
	require.Len(t, files, 318)
	for _, file := range files {
		name := filepath.Base(file)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, err = accepted[any](t, string(text))
		switch {
		case refusedByChoice[name] != "":
			require.Error(t, err, name)
		case strings.HasPrefix(name, "y_"):
			require.NoError(t, err, name)
		case strings.HasPrefix(name, "n_"):
			require.Error(t, err, name)
		case strings.HasPrefix(name, "i_string"), strings.HasPrefix(name, "i_object_key"), strings.Contains(name, "BOM"):
			require.Error(t, err, "%s is not valid UTF-8 or not valid UTF-16", name)
		}
	}
}

// An envelope is what the tests decode into.
type envelope struct {
	ID    string             `json:"id"`
	N     int8               `json:"n"`
	Input stdjson.RawMessage `json:"input"`
	Value jsontext.Value     `json:"value"`
	Inner struct {
		Name string         `json:"name"`
		Any  any            `json:"any"`
		Map  map[string]int `json:"map"`
	} `json:"inner"`
	Pair  [2]int     `json:"pair"`
	Bytes []byte     `json:"bytes"`
	Time  time.Time  `json:"time"`
	Addr  netip.Addr `json:"addr"`
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct{ name, text string }{
		{"nothing", ``},
		{"white space", ` `},
		{"a byte order mark", "\xef\xbb\xbf{}"},
		{"two values", `{}{}`},
		{"a trailing comma", `{},`},
		{"a trailing NUL", "{}\x00"},
		{"a trailing line of text", "{}\nx"},
		{"a comment", `{"n":1/**/}`},
		{"a trailing comma inside", `{"n":1,}`},
		{"NaN", `{"inner":{"any":NaN}}`},
		{"a plus sign", `{"n":+1}`},
		{"a leading zero", `{"n":01}`},
		{"single quotes", `{'n':1}`},
		{"a control character in a string", "{\"id\":\"a\nb\"}"},
		{"a duplicate", `{"id":"a","id":"b"}`},
		{"a duplicate with the same value", `{"id":"a","id":"a"}`},
		{"a duplicate in another spelling", `{"id":"a","\u0069d":"b"}`},
		{"a duplicate one level down", `{"inner":{"name":"a","name":"b"}}`},
		{"a duplicate in a map", `{"inner":{"map":{"a":1,"a":2}}}`},
		{"a duplicate in any", `{"inner":{"any":[{"a":{"b":1,"b":2}}]}}`},
		{"a duplicate in raw JSON", `{"input":{"a":[{"b":1,"b":2}]}}`},
		{"a duplicate in a raw value", `{"value":{"a":[{"b":1,"b":2}]}}`},
		{"a duplicate of an unknown member", `{"x":1,"x":1}`},
		{"a duplicate inside an unknown member", `{"x":[{"b":1,"b":2}]}`},
		{"not UTF-8", "{\"id\":\"\xff\"}"},
		{"not UTF-8 in a name", "{\"\xff\":1}"},
		{"not UTF-8 in raw JSON", "{\"input\":[\"\xff\"]}"},
		{"not UTF-8 in an unknown member", "{\"x\":[\"\xff\"]}"},
		{"an overlong slash", "{\"id\":\"\xc0\xaf\"}"},
		{"an encoded surrogate", "{\"id\":\"\xed\xa0\x80\"}"},
		{"a high surrogate", `{"id":"\ud800"}`},
		{"a low surrogate", `{"id":"\udc00"}`},
		{"surrogates in the wrong order", `{"id":"\udc00\ud800"}`},
		{"a surrogate in a name", `{"inner":{"map":{"\ud800":1}}}`},
		{"a surrogate in raw JSON", `{"input":"\ud800"}`},
		{"a surrogate in an unknown member", `{"x":"\ud800x"}`},
		{"a number out of range", `{"n":128}`},
		{"a fraction for an integer", `{"n":1.5}`},
		{"a float out of range", `{"inner":{"any":1e999}}`},
		{"a string for a number", `{"n":"1"}`},
		{"too few elements", `{"pair":[1]}`},
		{"too many elements", `{"pair":[1,2,3]}`},
		{"base64 with a line break", `{"bytes":"YWJj\r\nYWJj"}`},
		{"base64 without padding", `{"bytes":"YQ"}`},
		{"base64 of the URL alphabet", `{"bytes":"-_-_"}`},
		{"a time with a comma", `{"time":"2026-01-02T03:04:05,5Z"}`},
		{"an address that is none", `{"addr":"127.1"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, decode := range decoders {
				var e envelope
				require.Error(t, decode([]byte(tt.text), &e), name)
			}
		})
	}
}

func TestDecodeAccepts(t *testing.T) {
	e, err := accepted[envelope](t, ` {"id":"\ud83d\ude42","n":-128,"input":{"a": [1]},"value":[null],"pair":[1,2],
		"inner":{"name":"","any":[{"a":1},{"a":2}],"map":{"a":1,"A":2}},"bytes":"YQ==","time":"2026-01-02T03:04:05.5Z","addr":"::1"} `+"\r\n\t")
	require.NoError(t, err)
	require.Equal(t, "🙂", e.ID)
	require.Equal(t, int8(-128), e.N)
	require.JSONEq(t, `{"a":[1]}`, string(e.Input))
	require.Equal(t, `[null]`, string(e.Value))
	require.Equal(t, map[string]int{"a": 1, "A": 2}, e.Inner.Map)
	require.Equal(t, [2]int{1, 2}, e.Pair)
	require.Equal(t, []byte("a"), e.Bytes)
	require.Equal(t, netip.IPv6Loopback(), e.Addr)
}

// TestDecodeUnknownMembers: the one difference between the two functions. A
// name in other letters is another name.
func TestDecodeUnknownMembers(t *testing.T) {
	for _, name := range []string{"x", "ID", "Id", "iD", "id ", "i_d", "\u0131d", "İd", "", "Inner"} {
		text, err := stdjson.Marshal(map[string]any{"id": "a", name: "b"})
		require.NoError(t, err)
		var e envelope
		require.NoError(t, Decode(text, &e), name)
		require.Equal(t, "a", e.ID, name)
		err = DecodeExact(text, &e)
		require.ErrorIs(t, err, json.ErrUnknownName, name)
	}
	var e envelope
	require.ErrorIs(t, DecodeExact([]byte(`{"inner":{"x":1}}`), &e), json.ErrUnknownName, "at any depth")
	require.NoError(t, DecodeExact([]byte(`{"inner":{"any":{"x":1},"map":{"x":1}},"input":{"x":1}}`), &e), "where there are no fields")
}

func TestDecodeDepth(t *testing.T) {
	tests := []struct {
		name, open, shut string
		most             int // how often open fits
	}{
		{"arrays", `[`, `]`, MaxDepth},
		{"objects", `{"a":`, `}`, MaxDepth},
		{"both", `[{"a":`, `}]`, MaxDepth / 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nested := func(n int) string { return strings.Repeat(tt.open, n) + "1" + strings.Repeat(tt.shut, n) }
			_, err := accepted[any](t, nested(tt.most))
			require.NoError(t, err)
			_, err = accepted[any](t, nested(tt.most+1))
			require.ErrorIs(t, err, errDepth)
			_, err = accepted[stdjson.RawMessage](t, nested(tt.most+1))
			require.ErrorIs(t, err, errDepth, "inside raw JSON too")
		})
	}
}

func TestDecodeDepthCountsBracketsOutsideStrings(t *testing.T) {
	many := strings.Repeat("[{", 1000)
	for _, text := range []string{
		`[` + strings.Repeat(`[],{},`, 1000) + `1]`, // beside each other
		`"` + many + `"`, `"\"` + many + `"`, `"\\\"` + many + `"`, `["\\","` + many + `"]`, `{"` + many + `":1}`,
	} {
		_, err := accepted[any](t, text)
		require.NoError(t, err, "%.12s", text)
	}
	for _, text := range []string{`"\\"` + many, `"\\\\"` + many, `""` + many, `["",` + many} {
		_, err := accepted[any](t, text)
		require.ErrorIs(t, err, errDepth, "%.12s", text)
	}
	_, err := accepted[any](t, strings.Repeat("]", 100)+strings.Repeat("[", 100))
	require.Error(t, err, "the parser stops before the scan is wrong")
}

func TestDecodeIntoNothing(t *testing.T) {
	var p *envelope
	for _, v := range []any{nil, p, envelope{}, 5} {
		require.Error(t, Decode([]byte(`{}`), v))
	}
}

func TestDecodeErrorSaysWhereAndShowsNoValue(t *testing.T) {
	const secret = "hunter2"
	tests := []struct{ name, text, want string }{
		{"type", `{"n":"hunter2"}`, `strictjson: at "/n", byte 5: a string that does not fit`},
		{"range", `{"n":1234567}`, `strictjson: at "/n", byte 5: a number out of range`},
		{"address", `{"addr":"hunter2"}`, `strictjson: at "/addr", byte 8: a string that does not fit`},
		{"duplicate", `{"inner":{"name":"hunter2","name":"hunter2"}}`, `strictjson: at "/inner/name", byte 27: a second member of this name`},
		{"unknown", `{"id":"hunter2","x":"hunter2"}`, `strictjson: at "/x", byte 16: unknown member`},
		{"end", `{"id":"hunter2`, `strictjson: at "/id", byte 14: unexpected end of the text`},
		{"syntax", `{"id":hunter2}`, `strictjson: at "/id", byte 6: not JSON`},
		{"rest", `{"id":"hunter2"} hunter2`, `strictjson: byte 17: not JSON`},
		{"depth", strings.Repeat("[", 65), `strictjson: byte 64: nested deeper than 64`},
		{"a name of the peer's", "{\"a\x1b\":\"\u202e\"}", `strictjson: byte 3: not JSON`},
		{"an escaped name of the peer's", `{"a\u001b\u202e":1}`, `strictjson: at "/a\x1b\u202e", byte 1: unknown member`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e envelope
			err := DecodeExact([]byte(tt.text), &e)
			require.EqualError(t, err, tt.want)
			require.NotContains(t, err.Error(), secret)
		})
	}
	err := Decode([]byte(`{"inner":{"map":{"`+strings.Repeat("é", 1000)+`":"x"}}}`), new(envelope))
	require.Less(t, len(err.Error()), 256, "a long name is cut")
	se, ok := errors.AsType[*json.SemanticError](err)
	require.True(t, ok)
	require.Equal(t, 4, strings.Count(string(se.JSONPointer), "/")+1, "the pointer is whole: %d bytes", len(se.JSONPointer))
}

func TestDepthScanAllocatesNothing(t *testing.T) {
	text := []byte(`{"a":[1,2,{"b":"c\"d"}],"e":"` + strings.Repeat("x", 1000) + `"}`)
	require.Zero(t, testing.AllocsPerRun(100, func() { tooDeep(text) }))
}

// A run of backslashes is looked at once, not once for every quote behind it.
func TestDepthScanIsLinear(t *testing.T) {
	text := []byte(`"` + strings.Repeat(`\"`, 1<<20) + strings.Repeat(`\\`, 1<<20))
	require.Equal(t, -1, tooDeep(text))
	require.Equal(t, len(text), stringEnd(text, 1))
}

func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/jsontestsuite/*.json")
	require.NoError(f, err)
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && len(text) < 4<<10 {
			f.Add(text)
		}
	}
	f.Add([]byte(`{"id":"a","n":1,"input":{"a":[{"b":1}]},"inner":{"any":[{}],"map":{"x":1}}}`))
	f.Add([]byte(`{"id":"a","ID":"b","\u0069d":"c"}`))
	f.Add([]byte(strings.Repeat(`[{"a":`, 32) + `"\\\""` + strings.Repeat("}]", 32)))
	f.Fuzz(func(t *testing.T, text []byte) {
		var e envelope
		exact := DecodeExact(text, &e) == nil
		require.True(t, !exact || Decode(text, new(envelope)) == nil, "exact is narrower")

		var v, again any
		if err := Decode(text, &v); err != nil {
			require.False(t, exact)
			require.Less(t, len(err.Error()), 256)
			return
		}
		require.True(t, stdjson.Valid(text), "whatever we accept is JSON to everybody")
		canonical, err := json.Marshal(v, json.Deterministic(true))
		require.NoError(t, err)
		require.NoError(t, DecodeExact(canonical, &again))
		require.Equal(t, v, again)
	})
}

func BenchmarkDecode(b *testing.B) {
	small := []byte(`{"id":"0198f0c2-7d9b-7d3f-a5be-cc10a1b2c3d4","n":1,"input":{"a":[1,2,3],"b":"text"},"inner":{"name":"x"}}`)
	large := []byte(`{"input":[` + strings.Repeat(`{"name":"abcdefgh","value":[1,2,3],"text":"a\"b"},`, 10000) + `1]}`)
	for name, text := range map[string][]byte{"small": small, "large": large} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var e envelope
				if err := Decode(text, &e); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/scan", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tooDeep(text)
			}
		})
	}
}
