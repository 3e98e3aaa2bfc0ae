package call

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	infer "github.com/google/jsonschema-go/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet/internal/strictjson"
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

// A schema is a JSON Schema that inputs are checked against.
type schema struct{ s *jsonschema.Schema }

// compileSchema compiles a schema that an operation brings. It loads nothing.
func compileSchema(text json.RawMessage) (*schema, error) {
	if err := guardSchema(text); err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // the default one reads files
	if err := c.AddResource("alknet:schema", doc); err != nil {
		return nil, err
	}
	s, err := c.Compile("alknet:schema")
	if err != nil {
		return nil, err
	}
	return &schema{s}, nil
}

// check validates one value that strictjson has checked.
func (s *schema) check(data []byte) *Error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return inputError("", "syntax", "").because(err)
	}
	err = s.s.Validate(v)
	if err == nil {
		return nil
	}
	ve, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return inputError("", "schema", "").because(err)
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
func schemaError(path string, ve *jsonschema.ValidationError) *Error {
	switch k := ve.ErrorKind.(type) {
	case *kind.Type:
		return inputError(path, "type", strings.Join(k.Want, " or "))
	case *kind.Required:
		return inputError(path+"/"+escapePointer(k.Missing[0]), "required", "a member")
	case *kind.AdditionalProperties:
		return inputError(path+"/"+escapePointer(k.Properties[0]), "unknown member", "")
	}
	problem := "schema"
	if kw := ve.ErrorKind.KeywordPath(); len(kw) > 0 {
		problem = kw[len(kw)-1]
	}
	return inputError(path, problem, "")
}

// The bounds of a schema that comes from a peer, or from an adapter.
const (
	maxSchemaBytes   = 1 << 20
	maxSchemaNodes   = 5000
	maxSchemaDepth   = 32
	maxPatternBytes  = 1 << 10
	maxSchemaRefHops = 64
)

// errSchema is a schema that is refused.
var errSchema = errors.New("schema refused")

// guardSchema refuses schemas that would cost too much: references that leave
// the document or go round without anything between, and sizes over the bounds.
func guardSchema(text json.RawMessage) error {
	if len(text) > maxSchemaBytes {
		return fmt.Errorf("%w: more than %d bytes", errSchema, maxSchemaBytes)
	}
	var doc any
	if err := strictjson.Decode(text, &doc); err != nil {
		return fmt.Errorf("%w: %w", errSchema, err)
	}
	switch doc.(type) {
	case map[string]any, bool:
	default:
		return fmt.Errorf("%w: neither an object nor a boolean", errSchema)
	}
	g := guard{doc: doc}
	return g.visit(doc, 1)
}

// A guard counts what a schema holds.
type guard struct {
	doc   any
	nodes int
}

func (g *guard) visit(v any, depth int) error {
	if g.nodes++; g.nodes > maxSchemaNodes {
		return fmt.Errorf("%w: more than %d nodes", errSchema, maxSchemaNodes)
	}
	if depth > maxSchemaDepth {
		return fmt.Errorf("%w: deeper than %d", errSchema, maxSchemaDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		if err := g.keywords(v); err != nil {
			return err
		}
		for _, child := range v {
			if err := g.visit(child, depth+1); err != nil {
				return err
			}
		}
	case []any:
		for _, child := range v {
			if err := g.visit(child, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// keywords looks at what can reach out of the schema or cost without end.
func (g *guard) keywords(v map[string]any) error {
	for _, name := range [...]string{"$ref", "$dynamicRef", "$recursiveRef"} {
		ref, ok := v[name].(string)
		if !ok {
			continue
		}
		if !strings.HasPrefix(ref, "#") {
			return fmt.Errorf("%w: a reference leaves the document", errSchema)
		}
		if err := g.chase(ref); err != nil {
			return err
		}
	}
	for _, name := range [...]string{"$schema", "$id", "id"} {
		if s, ok := v[name].(string); ok && len(s) > maxPatternBytes {
			return fmt.Errorf("%w: %s is too long", errSchema, name)
		}
	}
	if p, ok := v["pattern"].(string); ok && len(p) > maxPatternBytes {
		return fmt.Errorf("%w: a pattern of more than %d bytes", errSchema, maxPatternBytes)
	}
	if pp, ok := v["patternProperties"].(map[string]any); ok {
		for p := range pp {
			if len(p) > maxPatternBytes {
				return fmt.Errorf("%w: a pattern of more than %d bytes", errSchema, maxPatternBytes)
			}
		}
	}
	return nil
}

// inPlace are the keywords whose schemas judge the same value again: a cycle
// through them alone never ends.
var inPlace = []string{"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "dependentSchemas"}

// chase follows a reference through what judges the same value.
func (g *guard) chase(ref string) error {
	seen := map[string]bool{}
	budget := maxSchemaNodes
	var follow func(ref string) error
	var same func(v any) error
	follow = func(ref string) error {
		if seen[ref] {
			return fmt.Errorf("%w: a cycle made of references alone", errSchema)
		}
		if len(seen) > maxSchemaRefHops {
			return fmt.Errorf("%w: more than %d references in a row", errSchema, maxSchemaRefHops)
		}
		seen[ref] = true
		defer delete(seen, ref)
		target, ok := g.resolve(ref)
		if !ok {
			return nil // an anchor, or nothing: compiling decides
		}
		return same(target)
	}
	same = func(v any) error {
		if budget--; budget < 0 {
			return fmt.Errorf("%w: too many references", errSchema)
		}
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				if err := same(e); err != nil {
					return err
				}
			}
		case map[string]any:
			for _, kw := range inPlace {
				child, ok := v[kw]
				if !ok {
					continue
				}
				if ref, isRef := child.(string); isRef && kw == "$ref" {
					if err := follow(ref); err != nil {
						return err
					}
				} else if err := same(child); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return follow(ref)
}

// resolve finds what a JSON Pointer reference names.
func (g *guard) resolve(ref string) (any, bool) {
	ptr := strings.TrimPrefix(ref, "#")
	at := g.doc
	if ptr == "" {
		return at, true
	}
	if ptr[0] != '/' {
		return nil, false
	}
	for token := range strings.SplitSeq(ptr[1:], "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		switch v := at.(type) {
		case map[string]any:
			at = v[token]
		case []any:
			i := -1
			if _, err := fmt.Sscanf(token, "%d", &i); err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			at = v[i]
		default:
			return nil, false
		}
	}
	return at, at != nil
}
