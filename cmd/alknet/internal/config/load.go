package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFileBytes bounds what is read as a configuration.
const maxFileBytes = 4 << 20

// A Problem is one thing that is wrong with a configuration.
type Problem struct {
	File       string `json:"file"`                // which one
	Line       int    `json:"line"`                // from 1
	Column     int    `json:"column"`              // from 1
	Key        string `json:"key"`                 // as text
	Message    string `json:"message"`             // for people
	Suggestion string `json:"suggestion,omitzero"` // what was meant
	Warning    bool   `json:"warning,omitzero"`    // the configuration is usable
}

// String is "alknet.toml:14:1: limits.max_con: unknown key (did you mean max_conns?)".
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	if p.Warning {
		b.WriteString("warning: ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	if p.Suggestion != "" {
		b.WriteString(" (did you mean " + p.Suggestion + "?)")
	}
	return b.String()
}

// Load reads a configuration called name. sets are "key=value", which win over
// the text. It returns what could be read and everything that is wrong, in the
// order of the text; a problem that is no Warning makes the File unusable.
func Load(name string, src []byte, sets []string) (*File, []Problem) {
	f := &File{name: name, source: src, origins: make(map[string]string), position: make(map[string]Problem)}
	if len(src) > maxFileBytes {
		return f, []Problem{{File: name, Line: 1, Column: 1, Message: fmt.Sprintf("the file has %d bytes, at most %d are read", len(src), maxFileBytes)}}
	}
	tree := make(map[string]any)
	if err := toml.Unmarshal(src, &tree); err != nil {
		return f, []Problem{syntaxProblem(name, src, err)}
	}
	l := &loader{f: f}
	if err := index(name, src, f.position); err != nil {
		return f, []Problem{syntaxProblem(name, src, err)}
	}
	for key, p := range f.position {
		f.origins[key] = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	for _, set := range sets {
		l.set(tree, set)
	}
	l.bindFile(tree)
	l.check()
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
	return f, l.problems
}

// Fatal reports whether one of problems is more than a warning.
func Fatal(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
}

func syntaxProblem(name string, src []byte, err error) Problem {
	p := Problem{File: name, Line: 1, Column: 1, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	if de, ok := errors.AsType[*toml.DecodeError](err); ok {
		p.Line, p.Column = de.Position()
		p.Key = strings.Join(de.Key(), ".")
	}
	if key, ok := strings.CutPrefix(p.Message, "key "); ok && p.Line == 1 && strings.Contains(key, "already") {
		p.Key = ""
	}
	return p
}

// A loader turns a tree of values into a File and collects what is wrong.
type loader struct {
	f        *File
	problems []Problem
}

// at is the place of a key, or of the nearest table around it.
func (l *loader) at(key string) Problem {
	for k := key; ; {
		if p, ok := l.f.position[k]; ok {
			return p
		}
		i := strings.LastIndexAny(k, ".[")
		if i < 0 {
			return Problem{File: l.f.name, Line: 1, Column: 1}
		}
		k = k[:i]
	}
}

// ProblemAt is a problem at the place of a key.
func (f *File) ProblemAt(key, message string) Problem {
	p := (&loader{f: f}).at(key)
	p.Key, p.Message = key, message
	return p
}

func (l *loader) problem(key, format string, args ...any) *Problem {
	p := l.at(key)
	p.Key, p.Message = key, fmt.Sprintf(format, args...)
	l.problems = append(l.problems, p)
	return &l.problems[len(l.problems)-1]
}

func (l *loader) warn(key, format string, args ...any) {
	l.problem(key, format, args...).Warning = true
}

// set puts "key=value" into the tree. A value that is no TOML is a string.
func (l *loader) set(tree map[string]any, set string) {
	key, value, ok := strings.Cut(set, "=")
	key = strings.TrimSpace(key)
	l.f.position[key] = Problem{File: "--set " + key, Line: 1, Column: 1}
	if !ok || key == "" {
		l.problem(key, "--set takes key=value")
		return
	}
	var one struct{ V any }
	if err := toml.Unmarshal([]byte("V = "+value), &one); err != nil {
		one.V = value
	}
	names := strings.Split(key, ".")
	table := tree
	for i, name := range names[:len(names)-1] {
		next, ok := table[name].(map[string]any)
		if !ok {
			if _, taken := table[name]; taken {
				l.problem(key, "%s is not a table: --set reaches keys of tables only", strings.Join(names[:i+1], "."))
				return
			}
			next = make(map[string]any)
			table[name] = next
		}
		table = next
	}
	table[names[len(names)-1]] = one.V
	l.f.origins[key] = "--set"
}
