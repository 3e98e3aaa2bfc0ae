package config

import (
	"reflect"
	"time"
)

// Schema is the JSON Schema (2020-12) of the file, for editors.
func Schema() map[string]any {
	s := schemaOf(reflect.TypeFor[File](), "", "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "alknet.config/1"
	s["title"] = "alknet.toml"
	return s
}

func schemaOf(t reflect.Type, name, doc string) map[string]any {
	s := make(map[string]any)
	if doc != "" {
		s["description"] = doc
	}
	switch {
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), name, doc)
	case t == reflect.TypeFor[time.Duration]():
		s["type"] = []string{"string", "integer"}
		s["pattern"] = `^-?([0-9.]+(ns|us|µs|ms|s|m|h))+$`
	case t.Kind() == reflect.Struct:
		properties := make(map[string]any)
		for _, f := range fields(t) {
			properties[f.key] = schemaOf(f.typ, f.name, f.doc)
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schemaOf(t.Elem(), name, "")
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", schemaOf(t.Elem(), name, "")
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.String:
		s["type"] = "string"
	case t.Kind() == reflect.Int64 && len(name) > 5 && name[len(name)-5:] == "Bytes":
		s["type"] = []string{"string", "integer"}
	default:
		s["type"] = "integer"
	}
	return s
}
