package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// bindFile fills the File in from a tree of values.
func (l *loader) bindFile(tree map[string]any) {
	l.bindStruct("", tree, reflect.ValueOf(l.f).Elem())
}

// A field is a key of a struct.
type field struct {
	key   string
	doc   string
	index []int
	typ   reflect.Type
	name  string // of the Go field
}

// fields are the keys of a struct: its exported fields that can be written as
// text, in snake_case, those of embedded structs included.
func fields(t reflect.Type) []field {
	var all []field
	for _, sf := range reflect.VisibleFields(t) {
		if !sf.IsExported() || sf.Anonymous || !configurable(sf.Type) {
			continue
		}
		all = append(all, field{key: snake(sf.Name), doc: sf.Tag.Get("doc"), index: sf.Index, typ: sf.Type, name: sf.Name})
	}
	return all
}

// configurable reports whether values of a type can stand in the file.
func configurable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Func, reflect.Interface, reflect.Chan, reflect.UnsafePointer:
		return false
	case reflect.Pointer, reflect.Slice:
		return configurable(t.Elem())
	case reflect.Map:
		return t.Key().Kind() == reflect.String && configurable(t.Elem())
	}
	return true
}

// snake is "max_conns_per_peer" for "MaxConnsPerPeer" and "ssh" for "SSH".
func snake(name string) string {
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		if unicode.IsUpper(r) && i > 0 {
			after := i+1 < len(rs) && unicode.IsLower(rs[i+1])
			if unicode.IsLower(rs[i-1]) || unicode.IsDigit(rs[i-1]) || after {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func (l *loader) bindStruct(base string, table map[string]any, dst reflect.Value) {
	known := fields(dst.Type())
	for _, name := range slices.Sorted(maps.Keys(table)) {
		key := join(base, name)
		i := slices.IndexFunc(known, func(f field) bool { return f.key == name })
		if i < 0 {
			l.unknown(key, name, known)
			continue
		}
		l.bind(key, table[name], dst.FieldByIndex(known[i].index), known[i].name)
	}
}

func (l *loader) unknown(key, name string, known []field) {
	var names []string
	for _, f := range known {
		names = append(names, f.key)
	}
	what := "unknown key"
	if !strings.ContainsAny(key, ".[") {
		what = "unknown section or key"
	}
	for _, n := range names {
		if strings.EqualFold(n, name) {
			l.problem(key, "keys are in lower case").Suggestion = n
			return
		}
	}
	l.problem(key, "%s", what).Suggestion = Nearest(name, names)
}

// bind puts a value into dst, or says why not. name is that of the Go field.
func (l *loader) bind(key string, v any, dst reflect.Value, name string) {
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		l.bind(key, v, dst.Elem(), name)
	case reflect.Struct:
		table, ok := v.(map[string]any)
		if !ok {
			l.problem(key, "want a table, not %s", kindOf(v))
			return
		}
		l.bindStruct(key, table, dst)
	case reflect.Map:
		l.bindMap(key, v, dst, name)
	case reflect.Slice:
		l.bindSlice(key, v, dst, name)
	default:
		l.bindScalar(key, v, dst, name)
	}
}

func (l *loader) bindMap(key string, v any, dst reflect.Value, name string) {
	table, ok := v.(map[string]any)
	if !ok {
		l.problem(key, "want a table, not %s", kindOf(v))
		return
	}
	m := reflect.MakeMap(dst.Type())
	for _, k := range slices.Sorted(maps.Keys(table)) {
		elem := reflect.New(dst.Type().Elem()).Elem()
		l.bind(join(key, k), table[k], elem, name)
		m.SetMapIndex(reflect.ValueOf(k), elem)
	}
	dst.Set(m)
}

func (l *loader) bindSlice(key string, v any, dst reflect.Value, name string) {
	list, ok := v.([]any)
	if !ok {
		hint := ""
		if dst.Type().Elem().Kind() == reflect.Struct {
			hint = fmt.Sprintf(": write [[%s]]", key)
		} else if s, ok := v.(string); ok {
			hint = fmt.Sprintf(": write [%q]", s)
		}
		l.problem(key, "want an array, not %s%s", kindOf(v), hint)
		return
	}
	s := reflect.MakeSlice(dst.Type(), len(list), len(list))
	for i, e := range list {
		l.bind(fmt.Sprintf("%s[%d]", key, i), e, s.Index(i), name)
	}
	dst.Set(s)
}

func (l *loader) bindScalar(key string, v any, dst reflect.Value, name string) {
	switch {
	case dst.Type() == reflect.TypeFor[time.Duration]():
		d, err := parseDuration(v)
		if err != nil {
			l.problem(key, "%v", err)
		}
		dst.SetInt(int64(d))
	case dst.Kind() == reflect.String:
		s, ok := v.(string)
		if !ok {
			l.problem(key, "want a string, not %s", kindOf(v))
		}
		dst.SetString(s)
	case dst.Kind() == reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			l.problem(key, "want true or false, not %s", kindOf(v))
		}
		dst.SetBool(b)
	case dst.CanInt():
		l.bindInt(key, v, dst, name)
	default:
		l.problem(key, "cannot be set")
	}
}

func (l *loader) bindInt(key string, v any, dst reflect.Value, name string) {
	n, ok := v.(int64)
	if s, isText := v.(string); isText && strings.HasSuffix(name, "Bytes") {
		size, err := parseSize(s)
		if err != nil {
			l.problem(key, "%v", err)
			return
		}
		n, ok = size, true
	}
	if !ok {
		want := "a whole number"
		if strings.HasSuffix(name, "Bytes") {
			want = `a size such as "64MiB"`
		}
		l.problem(key, "want %s, not %s", want, kindOf(v))
		return
	}
	if dst.OverflowInt(n) {
		l.problem(key, "%d is too large", n)
		return
	}
	dst.SetInt(n)
}

func parseDuration(v any) (time.Duration, error) {
	switch v := v.(type) {
	case string:
		d, err := time.ParseDuration(v)
		if err != nil {
			return 0, fmt.Errorf(`%q is no duration: write one such as "10s", "5m" or "1h30m"`, v)
		}
		return d, nil
	case int64:
		if v == 0 || v == -1 {
			return time.Duration(v), nil
		}
		return 0, fmt.Errorf(`want a duration with its unit: "%ds"?`, v)
	}
	return 0, fmt.Errorf(`want a duration such as "10s", not %s`, kindOf(v))
}

// units are those of sizes, the longest first.
var units = []struct {
	suffix string
	bytes  float64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}}

func parseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || math.Abs(n*u.bytes) >= math.MaxInt64 || math.IsNaN(n) {
			break
		}
		return int64(n * u.bytes), nil
	}
	return 0, fmt.Errorf(`%q is no size: write one such as "64MiB", "1GB" or "512B"`, s)
}

// kindOf names what a value is, for a person.
func kindOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "a table"
	case []any:
		return "an array"
	case string:
		return "a string"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return "a fraction"
	case bool:
		return strconv.FormatBool(v)
	}
	return "a date or time"
}
