package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Setting is the value of one key.
type Setting struct {
	Key        string `json:"key"`          // as text
	Value      string `json:"value"`        // as it would stand in the file
	Origin     string `json:"origin"`       // "default", "alknet.toml:12", "--set"
	Reloadable bool   `json:"reloadable"`   // a reload applies a change
	Doc        string `json:"doc,omitzero"` // for people
}

// restart lists the keys that only a restart applies.
var restart = []string{"node.listen", "node.state", "node.control", "node.test_namespace", "vault.dir", "vault.unlock",
	"vault.auto_lock", "graph.heartbeat", "graph.idle_heartbeat", "graph.limits.", "forward.dial_timeout", "forward.max_flows", "log.format",
	"log.burst", "limits."}

// NeedsRestart reports whether a reload cannot apply a change of key.
func NeedsRestart(key string) bool {
	return slices.ContainsFunc(restart, func(r string) bool {
		return key == r || strings.HasPrefix(key, r+"[") || strings.HasSuffix(r, ".") && strings.HasPrefix(key, r)
	})
}

// Explain lists the effective value of every key of the sections that the file
// has, and of [node], [vault], [log] and [limits], which always count.
func (f *File) Explain() []Setting {
	e := &explainer{f: f}
	v := reflect.ValueOf(f).Elem()
	for _, fl := range fields(v.Type()) {
		dst := v.FieldByIndex(fl.index)
		always := slices.Contains([]string{"node", "vault", "log", "limits"}, fl.key)
		if dst.Kind() == reflect.Pointer && dst.IsNil() {
			if !always {
				continue
			}
			dst = reflect.New(dst.Type().Elem())
		}
		e.walk(fl.key, fl.key, fl.doc, fl.name, dst)
	}
	return e.all
}

type explainer struct {
	f   *File
	all []Setting
}

// walk lists what is below v. path is the key without the indices of arrays.
func (e *explainer) walk(key, path, doc, name string, v reflect.Value) {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.Struct:
		for _, fl := range fields(v.Type()) {
			e.walk(join(key, fl.key), join(path, fl.key), fl.doc, fl.name, v.FieldByIndex(fl.index))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			e.walk(element(key, i), path, doc, name, v.Index(i))
		}
	default:
		e.setting(key, path, doc, name, v)
	}
}

func (e *explainer) setting(key, path, doc, name string, v reflect.Value) {
	s := Setting{Key: key, Origin: "default", Reloadable: !NeedsRestart(key), Doc: doc}
	if origin, ok := e.f.origins[key]; ok {
		s.Origin = origin
	}
	if _, set := e.f.origins[key]; !set && v.IsZero() {
		s.Value = defaults[path]
	} else if v.IsZero() && defaults[path] != "" && v.Kind() != reflect.Bool && v.Kind() != reflect.Slice {
		s.Value = defaults[path]
	} else {
		s.Value = text(v, name)
	}
	if s.Value == "" {
		s.Value = text(v, name)
	}
	e.all = append(e.all, s)
}

// text is a value as TOML.
func text(v reflect.Value, name string) string {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return strconv.Quote(time.Duration(v.Int()).String())
	case v.Kind() == reflect.String:
		return quote(v.String())
	case v.Kind() == reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, text(v.Index(i), name))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case v.Kind() == reflect.Map:
		m := make(map[string]string, v.Len())
		for it := v.MapRange(); it.Next(); {
			m[it.Key().String()] = text(it.Value(), name)
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, quote(k)+" = "+m[k])
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return fmt.Sprint(v.Interface())
}

// quote writes a TOML basic string, whose escapes are not all Go's.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Changed lists the keys whose values differ between two files.
func Changed(old, new *File) []string {
	before := make(map[string]string)
	for _, s := range old.Explain() {
		before[s.Key] = s.Value
	}
	var keys []string
	for _, s := range new.Explain() {
		if v, had := before[s.Key]; !had || v != s.Value {
			keys = append(keys, s.Key)
		}
		delete(before, s.Key)
	}
	keys = append(keys, slices.Collect(maps.Keys(before))...)
	slices.Sort(keys)
	return keys
}

// IsLimit reports whether the key bounds what others can make the node do.
func (s Setting) IsLimit() bool {
	last := s.Key[strings.LastIndexByte(s.Key, '.')+1:]
	return strings.HasPrefix(s.Key, "limits.") || strings.Contains(s.Key, ".limits.") || strings.HasPrefix(last, "max_") ||
		s.Key == "log.burst" || s.Key == "forward.dial_timeout" || last == "handshake_timeout"
}

// None reports whether a limit is switched off.
func (s Setting) None() bool {
	return strings.HasPrefix(strings.Trim(s.Value, `"`), "-")
}
