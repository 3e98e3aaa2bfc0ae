// Package schema checks the inputs of operations whose JSON Schema is written out,
// not inferred from a Go type:
//
//	check, err := schema.Check(text)
//	f := call.Func{Type: call.Query, Input: text, Check: check, Serve: serve}
//
// It is apart from package call because the checker is as large as call itself, and
// most programs infer their schemas.
package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/internal/guard"
)

// Check returns the function that judges inputs by a schema, for [call.Func]. The
// error says what is wrong with the schema: it must not refer to other documents,
// nor to itself without anything in between, and has at most 1 MiB, 5,000 nodes and
// a depth of 32.
func Check(text json.RawMessage) (func(input []byte) error, error) {
	if err := guard.Check(text); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // the default one reads files
	if err := c.AddResource("alknet:schema", doc); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	s, err := c.Compile("alknet:schema")
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return func(input []byte) error { return check(s, input) }, nil
}

// check validates one value that the envelope's decoder has checked.
func check(s *jsonschema.Schema, data []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return invalid("", "syntax", "")
	}
	err = s.Validate(v)
	if err == nil {
		return nil
	}
	ve, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return invalid("", "schema", "")
	}
	for len(ve.Causes) > 0 {
		ve = ve.Causes[0]
	}
	var path strings.Builder
	for _, token := range ve.InstanceLocation {
		path.WriteString("/" + escapePointer(token))
	}
	return schemaError(path.String(), ve)
}

// schemaError says what a keyword wanted.
func schemaError(path string, ve *jsonschema.ValidationError) error {
	switch k := ve.ErrorKind.(type) {
	case *kind.Type:
		return invalid(path, "type", strings.Join(k.Want, " or "))
	case *kind.Required:
		return invalid(path+"/"+escapePointer(k.Missing[0]), "required", "a member")
	case *kind.AdditionalProperties:
		return invalid(path+"/"+escapePointer(k.Properties[0]), "unknown member", "")
	}
	problem := "schema"
	if kw := ve.ErrorKind.KeywordPath(); len(kw) > 0 {
		problem = kw[len(kw)-1]
	}
	return invalid(path, problem, "")
}

// invalid is INVALID_INPUT with where, what, and what was wanted.
func invalid(path, problem, want string) error {
	where := path
	if where == "" {
		where = "the input"
	}
	details, err := json.Marshal(struct {
		Path    string `json:"path"`
		Problem string `json:"problem"`
		Want    string `json:"want,omitempty"`
	}{path, problem, want})
	return &call.Error{Code: codes.InvalidInput, Message: "invalid input at " + where + ": " + problem, Details: details, Err: err}
}

// escapePointer is a name as a token of a JSON Pointer (RFC 6901, section 3).
func escapePointer(name string) string { return pointerEscapes.Replace(name) }

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")
