package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

const schema = `{"type":"object","properties":{"n":{"type":"integer"},"s":{"type":"string"},"b":{"type":["boolean","null"]},"any":{},"list":{"type":"array"}}}`

func readNothing(string) ([]byte, error) { return nil, errors.New("no files here") }

func TestBuildInput(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string // empty: an error
	}{
		{"nothing", nil, `{}`},
		{"typed", []string{"n=3", "s=3", "b=true"}, `{"n":3,"s":"3","b":true}`},
		{"a string that looks like JSON stays one", []string{`s={"a":1}`}, `{"s":"{\"a\":1}"}`},
		{"anything may be JSON or text", []string{"any=[1]", "other=word"}, `{"any":[1],"other":"word"}`},
		{"JSON", []string{`list:=[1,"x"]`, "s:=null"}, `{"list":[1,"x"],"s":null}`},
		{"the whole input", []string{":=[1]"}, `[1]`},
		{"a word for a number", []string{"n=three"}, ""},
		{"no JSON", []string{"n:=three"}, ""},
		{"twice", []string{"n=1", "n=2"}, ""},
		{"no key", []string{"=1", "n=2"}, ""},
		{"no value", []string{"n"}, ""},
		{"a file that is not there", []string{"s=@x"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := buildInput(json.RawMessage(schema), tt.args, readNothing)
			if tt.want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.JSONEq(t, tt.want, string(got))
		})
	}
}

func TestBuildInputOfAnOperationWithoutSchema(t *testing.T) {
	got, err := buildInput(nil, nil, readNothing)
	require.NoError(t, err)
	require.Equal(t, "null", string(got))
}

func FuzzCallArgs(f *testing.F) {
	f.Add("n=3\ns=x")
	f.Add(":=[1]")
	f.Add("a:={\"b\":[]}\nany=1")
	f.Add("s=@x")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := buildInput(json.RawMessage(schema), strings.Split(text, "\n"), readNothing)
		if err == nil && !json.Valid(got) {
			t.Fatalf("not JSON: %q", got)
		}
		if err != nil && fault.Of(err).Exit == fault.OK {
			t.Fatal("an error without a status")
		}
	})
}

func TestEscapeJSONReachesNoTerminalRaw(t *testing.T) {
	in := []byte("{\"a\":\"\u202e\u0085\x7f\",\n \"b\":1}")
	out := escapeJSON(in)
	require.JSONEq(t, string(in), out)
	require.NotContains(t, out, "\u202e")
	require.NotContains(t, out, "\x7f")
	require.NotContains(t, out, "\n")
}

func TestHostNames(t *testing.T) {
	require.Equal(t, []string{"home"}, hostNames("ssh", []string{"-p", "22", "-v", "me@home", "ls", "other"}))
	require.Equal(t, []string{"home"}, hostNames("ssh", []string{"home.alk"}))
	require.Equal(t, []string{"a", "b"}, hostNames("scp", []string{"-r", "a:x", "me@b:", "./c:d", "file"}))
	require.Empty(t, hostNames("ssh", []string{"-V"}))
	for _, bad := range []string{"-oProxyCommand=x", "a b", "a;b", "$(x)", "A", "", strings.Repeat("a", 64), "a\u202e"} {
		require.False(t, validHost(bad), bad)
	}
}
