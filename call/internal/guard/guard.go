// Package guard judges JSON Schemas that come from elsewhere before anybody spends
// time on them.
package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/alkdev/alknet/internal/strictjson"
)

// The bounds of a schema that comes from a peer, or from an adapter.
const (
	maxSchemaBytes   = 1 << 20
	maxSchemaNodes   = 5000
	maxSchemaDepth   = 32
	maxPatternBytes  = 1 << 10
	maxSchemaRefHops = 64
)

// ErrRefused is in every error of Check.
var ErrRefused = errors.New("schema refused")

// Check refuses schemas that would cost too much: references that leave
// the document or go round without anything between, and sizes over the bounds.
func Check(text json.RawMessage) error {
	if len(text) > maxSchemaBytes {
		return fmt.Errorf("%w: more than %d bytes", ErrRefused, maxSchemaBytes)
	}
	var doc any
	if err := strictjson.Decode(text, &doc); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	switch doc.(type) {
	case map[string]any, bool:
	default:
		return fmt.Errorf("%w: neither an object nor a boolean", ErrRefused)
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
		return fmt.Errorf("%w: more than %d nodes", ErrRefused, maxSchemaNodes)
	}
	if depth > maxSchemaDepth {
		return fmt.Errorf("%w: deeper than %d", ErrRefused, maxSchemaDepth)
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
			return fmt.Errorf("%w: a reference leaves the document", ErrRefused)
		}
		if err := g.chase(ref); err != nil {
			return err
		}
	}
	for _, name := range [...]string{"$schema", "$id", "id"} {
		if s, ok := v[name].(string); ok && len(s) > maxPatternBytes {
			return fmt.Errorf("%w: %s is too long", ErrRefused, name)
		}
	}
	if p, ok := v["pattern"].(string); ok && len(p) > maxPatternBytes {
		return fmt.Errorf("%w: a pattern of more than %d bytes", ErrRefused, maxPatternBytes)
	}
	if pp, ok := v["patternProperties"].(map[string]any); ok {
		for p := range pp {
			if len(p) > maxPatternBytes {
				return fmt.Errorf("%w: a pattern of more than %d bytes", ErrRefused, maxPatternBytes)
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
			return fmt.Errorf("%w: a cycle made of references alone", ErrRefused)
		}
		if len(seen) > maxSchemaRefHops {
			return fmt.Errorf("%w: more than %d references in a row", ErrRefused, maxSchemaRefHops)
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
			return fmt.Errorf("%w: too many references", ErrRefused)
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
