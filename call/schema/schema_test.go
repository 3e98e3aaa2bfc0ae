package schema

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/apigolden"
	"github.com/alkdev/alknet/internal/strictjson"
)

func TestAPI(t *testing.T) { apigolden.Check(t) }

// TestInputsAreChecked: INVALID_INPUT names the JSON Pointer.
func TestInputsAreChecked(t *testing.T) {
	text := json.RawMessage(`{"type":"object","properties":{"q":{"type":"array","items":{"type":"object","properties":{"a/b":{"type":"integer","minimum":1}},"required":["a/b"]}}},"additionalProperties":false}`)
	check, err := Check(text)
	require.NoError(t, err)
	var reg call.Registry
	serve := func(_ context.Context, s *call.Stream) error { return s.Send([]byte("1"), false) }
	require.Error(t, reg.Register(call.Operation{Name: "x/y", Func: call.Func{Type: call.Query, Input: text, Serve: serve}}), "a schema that nobody checks")
	require.NoError(t, reg.Register(call.Operation{Name: "x/y", Func: call.Func{Type: call.Query, Input: text, Check: check, Serve: serve}}))
	h := &call.Handler{Registry: &reg}
	for input, want := range map[string]string{
		`{"q":[{"a/b":1}]}`: "", `{}`: "",
		`{"q":[{"a/b":1},{"a/b":"x"}]}`: `{"path":"/q/1/a~1b","problem":"type","want":"integer"}`,
		`{"q":[{}]}`:                    `{"path":"/q/0/a~1b","problem":"required","want":"a member"}`,
		`{"q":[{"a/b":0}]}`:             `{"path":"/q/0/a~1b","problem":"minimum"}`,
		`{"z":1}`:                       `{"path":"/z","problem":"unknown member"}`,
		`7`:                             `{"path":"","problem":"type","want":"object"}`,
	} {
		_, err := call.Call[int](t.Context(), h.As(alknet.Identity{ID: "a"}), "x/y", json.RawMessage(input))
		if want == "" {
			require.NoError(t, err, input)
			continue
		}
		e, ok := errors.AsType[*call.Error](err)
		require.True(t, ok)
		require.Equal(t, codes.InvalidInput, e.Code)
		require.JSONEq(t, want, string(e.Details), input)
		require.False(t, e.MayHaveRun)
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, text := range []string{
		`7`, `{"$ref":"#"}`, `{"$ref":"https://example.com/x"}`, `{"$ref":"file:///etc/passwd"}`, `{"a":1,"a":2}`, `{"type":"wonder"}`,
		`{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#"}]}}}`, `{"pattern":"` + strings.Repeat("a", 2000) + `"}`,
		strings.Repeat(`{"properties":{"a":`, 25) + "{}" + strings.Repeat("}}", 25), `[` + strings.Repeat(`{},`, 6000) + `{}]`,
	} {
		_, err := Check(json.RawMessage(text))
		require.Error(t, err, "%.80s", text)
	}
}

func FuzzSchemaImport(f *testing.F) {
	for _, s := range []string{
		`true`, `{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`, `{"$ref":"#"}`,
		`{"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"$ref":"#/$defs/a"}}}`,
		`{"$ref":"https://example.com/x"}`, `{"pattern":"(a+)+$"}`, `{"$id":"http://x/","$ref":"#/a"}`, `{"$ref":"#/properties/a","properties":{"a":{"properties":{"b":{"$ref":"#"}}}}}`,
		`{"$dynamicRef":"#n","$defs":{"n":{"$dynamicAnchor":"n"}}}`, `{"type":"file:///etc/passwd"}`,
	} {
		f.Add([]byte(s), []byte(`{"a":{"b":[1]}}`))
	}
	f.Fuzz(func(t *testing.T, text, value []byte) {
		if len(text) > 16<<10 || len(value) > 4<<10 {
			return
		}
		check, err := Check(text)
		if err != nil || strictjson.Check(value) != nil {
			return
		}
		begun := time.Now()
		if err := check(value); err != nil {
			e, ok := errors.AsType[*call.Error](err)
			require.True(t, ok)
			require.NoError(t, strictjson.Check(e.Details))
		}
		require.Less(t, time.Since(begun), 5*time.Second)
	})
}
