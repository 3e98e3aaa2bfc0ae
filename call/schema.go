package call

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	infer "github.com/google/jsonschema-go/jsonschema"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// inferSchema makes the JSON Schema of a Go type, and the shape that checks
// what decoding into the type does not: members that must be there, and nulls.
func inferSchema(t reflect.Type) (json.RawMessage, *shape, error) {
	anything := func() *infer.Schema { return &infer.Schema{} }
	opts := &infer.ForOptions{TypeSchemas: map[reflect.Type]*infer.Schema{
		reflect.TypeFor[[]byte]():          {Type: "string", ContentEncoding: "base64"},
		reflect.TypeFor[json.RawMessage](): anything(),
		reflect.TypeFor[jsontext.Value]():  anything(),
		reflect.TypeFor[Secret]():          {Type: "string"},
	}}
	s, err := infer.ForType(t, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("no schema can be inferred of %s, set Func.Input and Func.Output: %w", t, err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, nil, fmt.Errorf("schema of %s: %w", t, err)
	}
	sh := newShape(s)
	if sh.trivial() {
		sh = &shape{null: true}
	}
	return text, sh, nil
}

// A shape is what an input must have beyond what its Go type asks for.
type shape struct {
	null     bool // null is allowed
	required []string
	members  map[string]*member
	rest     *shape // of members without a name of their own, and of a list's items
	object   bool   // an object without members will do
}

// A member is a named part of an object.
type member struct {
	*shape
	bit uint64 // 1 << its place in required; 0: optional
}

func newShape(s *infer.Schema) *shape {
	if s == nil {
		return &shape{null: true}
	}
	types := s.Types
	if s.Type != "" {
		types = []string{s.Type}
	}
	sh := &shape{null: len(types) == 0 || slices.Contains(types, "null"), object: slices.Contains(types, "object")}
	if len(s.Required) <= 64 {
		sh.required = s.Required
	} else {
		sh.required = s.Required[:64]
	}
	if len(s.Properties) > 0 {
		sh.members = make(map[string]*member, len(s.Properties))
		for name, p := range s.Properties {
			m := &member{shape: newShape(p)}
			if i := slices.Index(sh.required, name); i >= 0 {
				m.bit = 1 << i
			}
			sh.members[name] = m
		}
	}
	switch {
	case s.Items != nil:
		sh.rest = newShape(s.Items)
	case s.AdditionalProperties != nil && s.AdditionalProperties.Not == nil:
		sh.rest = newShape(s.AdditionalProperties)
	}
	if sh.rest != nil && sh.rest.trivial() {
		sh.rest = nil
	}
	return sh
}

// trivial reports whether everything passes.
func (sh *shape) trivial() bool {
	if !sh.null || len(sh.required) > 0 || sh.rest != nil {
		return false
	}
	for _, m := range sh.members {
		if !m.trivial() {
			return false
		}
	}
	return true
}

// A walker reads tokens of a text that has been checked.
type walker struct {
	r   bytes.Reader
	dec *jsontext.Decoder
}

var walkers = sync.Pool{New: func() any {
	w := new(walker)
	w.dec = jsontext.NewDecoder(&w.r)
	return w
}}

// walkOptions trust the text: it has been checked.
var walkOptions = jsonv2.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// check walks over data, one value that strictjson has checked.
func (sh *shape) check(data []byte) *Error {
	if sh.null && len(sh.required) == 0 && sh.members == nil && sh.rest == nil {
		return nil
	}
	w := walkers.Get().(*walker)
	w.r.Reset(data)
	w.dec.Reset(&w.r, walkOptions)
	err := sh.walk(w.dec)
	w.r.Reset(nil)
	walkers.Put(w)
	return err
}

func (sh *shape) walk(d *jsontext.Decoder) *Error {
	switch d.PeekKind() {
	case 'n':
		if !sh.null {
			return inputError(string(d.StackPointer()), "type", "not null")
		}
	case '{':
		if len(sh.members) > 0 || sh.rest != nil || len(sh.required) > 0 {
			return sh.walkObject(d)
		}
	case '[':
		if sh.rest != nil {
			return sh.walkArray(d)
		}
	}
	if err := d.SkipValue(); err != nil {
		return inputError(string(d.StackPointer()), "syntax", "").because(err)
	}
	return nil
}

func (sh *shape) walkObject(d *jsontext.Decoder) *Error {
	if _, err := d.ReadToken(); err != nil {
		return inputError("", "syntax", "").because(err)
	}
	var seen uint64
	for d.PeekKind() == '"' {
		name, err := d.ReadValue()
		if err != nil {
			return inputError("", "syntax", "").because(err)
		}
		next := sh.rest
		if m := sh.member(name); m != nil {
			seen |= m.bit
			next = m.shape
		}
		if next == nil {
			next = &anyShape
		}
		if err := next.walk(d); err != nil {
			return err
		}
	}
	at := string(d.StackPointer())
	if _, err := d.ReadToken(); err != nil {
		return inputError("", "syntax", "").because(err)
	}
	if want := uint64(1)<<len(sh.required) - 1; seen&want != want {
		for i, name := range sh.required {
			if seen&(1<<i) == 0 {
				return inputError(parentPointer(at)+"/"+escapePointer(name), "required", "a member")
			}
		}
	}
	return nil
}

// anyShape passes everything.
var anyShape = shape{null: true}

// member finds the member of a name as it stands in the text, with its quotes.
func (sh *shape) member(quoted []byte) *member {
	if len(sh.members) == 0 {
		return nil
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return sh.members[string(quoted[1:len(quoted)-1])]
	}
	name, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return nil
	}
	return sh.members[string(name)]
}

func (sh *shape) walkArray(d *jsontext.Decoder) *Error {
	if _, err := d.ReadToken(); err != nil {
		return inputError("", "syntax", "").because(err)
	}
	for k := d.PeekKind(); k != ']' && k != 0; k = d.PeekKind() {
		if err := sh.rest.walk(d); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return inputError("", "syntax", "").because(err)
	}
	return nil
}

// parentPointer is the pointer of the object whose last member is at.
func parentPointer(at string) string {
	if i := strings.LastIndexByte(at, '/'); i >= 0 {
		return at[:i]
	}
	return ""
}

// escapePointer is a name as a token of a JSON Pointer (RFC 6901, section 3).
func escapePointer(name string) string { return pointerEscapes.Replace(name) }

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")
