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
