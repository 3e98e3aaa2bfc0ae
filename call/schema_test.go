package call

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type base struct {
	ID string `json:"id"`
}

type nested struct {
	base
	Named  base              `json:"named"`
	List   []int             `json:"list"`
	Map    map[string]*uint8 `json:"map,omitempty"`
	Opt    *string           `json:"opt,omitzero"`
	Raw    json.RawMessage   `json:"raw"`
	Bytes  []byte            `json:"bytes"`
	When   time.Time         `json:"when"`
	Any    any               `json:"any"`
	Pair   [2]bool           `json:"pair"`
	N      int64             `json:"n,string"`
	Secret Secret            `json:"secret"`
	Skip   int               `json:"-"`
	hidden int
	Plain  float64
}

// TestInferredSchema: the schema of a type is what encoding/json makes of it.
func TestInferredSchema(t *testing.T) {
	_ = nested{hidden: 1}
	text, sh, err := inferSchema(reflect.TypeFor[nested]())
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"object","properties":{
		"id":{"type":"string"},
		"named":{"type":"object","properties":{"id":{"type":"string"}},"required":["id"],"additionalProperties":false},
		"list":{"type":["null","array"],"items":{"type":"integer"}},
		"map":{"type":["null","object"],"additionalProperties":{"type":["null","integer"],"minimum":0}},
		"opt":{"type":["null","string"]},
		"raw":{},"bytes":{"type":"string","contentEncoding":"base64"},
		"when":{"type":"string","format":"date-time"},
		"any":{},"pair":{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":2},
		"n":{"type":"string"},"secret":{"type":"string"},"Plain":{"type":"number"}},
		"required":["id","named","list","raw","bytes","when","any","pair","n","secret","Plain"],"additionalProperties":false}`, string(text))
	good := `{"id":"a","named":{"id":"b"},"list":null,"raw":1,"bytes":"","when":"","any":null,"pair":[true,false],"n":"1","secret":"","Plain":1}`
	require.Nil(t, sh.check([]byte(good)))
	for _, tt := range []struct{ input, path string }{
		{`{"named":{"id":"b"}}`, "/id"}, {`{"id":null,"named":{"id":"b"}}`, "/id"}, {`{"id":"a","named":{}}`, "/named/id"},
		{`{"id":"a","named":null}`, "/named"}, {`{"id":"a","n\u0061med":{}}`, "/named/id"},
	} {
		e := sh.check([]byte(tt.input))
		require.NotNil(t, e, tt.input)
		var details struct{ Path string }
		require.NoError(t, json.Unmarshal(e.Details, &details))
		require.Equal(t, tt.path, details.Path, tt.input)
	}
}

type loop struct{ Next *loop }

func TestTypesWithoutASchema(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[loop](), reflect.TypeFor[chan int](), reflect.TypeFor[func()](), reflect.TypeFor[map[bool]int](), reflect.TypeFor[[]loop]()} {
		_, _, err := inferSchema(typ)
		require.Error(t, err, typ)
	}
	var reg Registry
	require.ErrorContains(t, reg.Register(Operation{Name: "x/loop", Func: QueryFunc(add1[loop])}), "Func.Input")
}
