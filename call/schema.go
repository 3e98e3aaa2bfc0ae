package call

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// inferSchema makes the JSON Schema of a Go type, and the shape that checks
// what decoding into the type does not: members that must be there, and nulls.
func inferSchema(t reflect.Type) (json.RawMessage, *shape, error) {
	text, sh, err := (&inference{}).schema(nil, t, false)
	if err != nil {
		return nil, nil, fmt.Errorf("no schema can be inferred of %s, set Func.Input and Func.Output: %w", t, err)
	}
	if sh.trivial() {
		sh = &shape{null: true}
	}
	return text, sh, nil
}

// An inference is the way to a type within a type.
type inference struct{ within []reflect.Type }

// What has no schema.
var (
	errRecursive = errors.New("the type refers to itself")
	errNoJSON    = errors.New("the type has no JSON")
)

// asIs are types whose schema is not that of their kind.
var asIs = map[reflect.Type]string{
	reflect.TypeFor[[]byte]():          `{"type":"string","contentEncoding":"base64"}`,
	reflect.TypeFor[json.RawMessage](): `{}`,
	reflect.TypeFor[jsontext.Value]():  `{}`,
	reflect.TypeFor[Secret]():          `{"type":"string"}`,
	reflect.TypeFor[time.Time]():       `{"type":"string","format":"date-time"}`,
	reflect.TypeFor[json.Number]():     `{"type":"number"}`,
}

// schema appends the schema of t. null: null is a value too.
func (in *inference) schema(b []byte, t reflect.Type, null bool) ([]byte, *shape, error) {
	if text, ok := asIs[t]; ok {
		return append(b, text...), &shape{null: null || text == `{}` || t.Kind() == reflect.Slice}, nil
	}
	if t.Kind() == reflect.Pointer {
		return in.schema(b, t.Elem(), true)
	}
	switch ptr := reflect.PointerTo(t); {
	case implements[json.Marshaler](t, ptr) || implements[json.Unmarshaler](t, ptr):
		return append(b, `{}`...), &shape{null: true}, nil
	case implements[encoding.TextMarshaler](t, ptr):
		return appendType(b, "string", null, ""), &shape{null: null}, nil
	}
	switch k := t.Kind(); k {
	case reflect.Bool:
		return appendType(b, "boolean", null, ""), &shape{null: null}, nil
	case reflect.String:
		return appendType(b, "string", null, ""), &shape{null: null}, nil
	case reflect.Float32, reflect.Float64:
		return appendType(b, "number", null, ""), &shape{null: null}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendType(b, "integer", null, ""), &shape{null: null}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return appendType(b, "integer", null, `,"minimum":0`), &shape{null: null}, nil
	case reflect.Interface:
		return append(b, `{}`...), &shape{null: true}, nil
	case reflect.Slice, reflect.Array, reflect.Map, reflect.Struct:
		if slices.Contains(in.within, t) {
			return nil, nil, errRecursive
		}
		in.within = append(in.within, t)
		defer func() { in.within = in.within[:len(in.within)-1] }()
		if k == reflect.Struct {
			return in.object(b, t, null)
		}
		return in.collection(b, t, null)
	}
	return nil, nil, fmt.Errorf("%w: %s", errNoJSON, t)
}

// implements reports whether a type or the pointer to it has the methods of I.
func implements[I any](t, ptr reflect.Type) bool {
	i := reflect.TypeFor[I]()
	return t.Implements(i) || ptr.Implements(i)
}

// appendType appends a schema that has a type and more.
func appendType(b []byte, typ string, null bool, more string) []byte {
	if null {
		b = append(append(append(b, `{"type":["null","`...), typ...), `"]`...)
	} else {
		b = append(append(append(b, `{"type":"`...), typ...), '"')
	}
	return append(append(b, more...), '}')
}

// collection appends the schema of a list or a map.
func (in *inference) collection(b []byte, t reflect.Type, null bool) ([]byte, *shape, error) {
	elem, esh, err := in.schema(nil, t.Elem(), false)
	if err != nil {
		return nil, nil, err
	}
	sh := &shape{null: null || t.Kind() != reflect.Array}
	if !esh.trivial() {
		sh.rest = esh
	}
	switch t.Kind() {
	case reflect.Map:
		if k := t.Key().Kind(); k != reflect.String && (k < reflect.Int || k > reflect.Uintptr) {
			return nil, nil, fmt.Errorf("%w: %s", errNoJSON, t)
		}
		sh.object = true
		return appendType(b, "object", true, `,"additionalProperties":`+string(elem)), sh, nil
	case reflect.Array:
		n := strconv.Itoa(t.Len())
		return appendType(b, "array", null, `,"items":`+string(elem)+`,"minItems":`+n+`,"maxItems":`+n), sh, nil
	}
	return appendType(b, "array", true, `,"items":`+string(elem)), sh, nil
}

// object appends the schema of a struct: its members, those that must be there,
// and no others.
func (in *inference) object(b []byte, t reflect.Type, null bool) ([]byte, *shape, error) {
	sh := &shape{null: null, object: true, members: make(map[string]*member)}
	var props []byte
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if skipField(t, f, name) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		text, msh, err := in.schema(nil, f.Type, false)
		if strings.Contains(options, "string") {
			text, msh = []byte(`{"type":"string"}`), &shape{}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if len(props) > 0 {
			props = append(props, ',')
		}
		props = append(append(appendString(props, name), ':'), text...)
		m := &member{shape: msh}
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") && len(sh.required) < 64 {
			m.bit = 1 << len(sh.required)
			sh.required = append(sh.required, name)
		}
		sh.members[name] = m
	}
	more := append([]byte(`,"properties":{`), props...)
	more = append(more, '}')
	if len(sh.required) > 0 {
		required, err := json.Marshal(sh.required)
		if err != nil {
			return nil, nil, err
		}
		more = append(append(more, `,"required":`...), required...)
	}
	return appendType(b, "object", null, string(more)+`,"additionalProperties":false`), sh, nil
}

// skipField reports whether a field of t, or of what is embedded in it, is no
// member of its own.
func skipField(t reflect.Type, f reflect.StructField, name string) bool {
	if f.Tag.Get("json") == "-" {
		return true
	}
	for i := 1; i < len(f.Index); i++ { // below an embedded struct that has a name, or is left out
		outer := t.FieldByIndex(f.Index[:i])
		if tag, _, _ := strings.Cut(outer.Tag.Get("json"), ","); tag != "" {
			return true
		}
	}
	if f.Anonymous && name == "" {
		e := f.Type
		if e.Kind() == reflect.Pointer {
			e = e.Elem()
		}
		return e.Kind() == reflect.Struct || !f.IsExported() // its fields are ours
	}
	return !f.IsExported()
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
