package config

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// index fills in where each key of a text is: "limits.max_conns" and, in an
// array of tables, "peer[0].id".
func index(name string, src []byte, position map[string]Problem) error {
	ix := &indexer{name: name, position: position, arrays: make(map[string]int)}
	ix.parser.Reset(src)
	for ix.parser.NextExpression() {
		e := ix.parser.Expression()
		switch e.Kind {
		case unstable.Table:
			ix.table = ix.resolve("", e.Key())
		case unstable.ArrayTable:
			ix.table = ix.element(e.Key())
		case unstable.KeyValue:
			ix.keyValue(ix.table, e)
		}
	}
	return ix.parser.Error()
}

type indexer struct {
	name     string
	parser   unstable.Parser
	position map[string]Problem
	arrays   map[string]int // array of tables → how many elements it has so far
	table    string         // the current one
}

// resolve is the full key of a dotted key below base, and notes where it is. A
// part that is an array of tables means its last element.
func (ix *indexer) resolve(base string, key unstable.Iterator) string {
	for key.Next() {
		n := key.Node()
		base = join(base, string(n.Data))
		ix.note(base, n)
		if count := ix.arrays[base]; count > 0 {
			base = fmt.Sprintf("%s[%d]", base, count-1)
		}
	}
	return base
}

// element begins the next element of an array of tables.
func (ix *indexer) element(key unstable.Iterator) string {
	var names []string
	var last *unstable.Node
	for key.Next() {
		last = key.Node()
		names = append(names, string(last.Data))
	}
	base := ""
	for i, name := range names {
		base = join(base, name)
		if i == len(names)-1 {
			ix.note(base, last)
			ix.arrays[base]++
		}
		if count := ix.arrays[base]; count > 0 {
			base = fmt.Sprintf("%s[%d]", base, count-1)
		}
	}
	ix.note(base, last)
	return base
}

func (ix *indexer) keyValue(base string, kv *unstable.Node) {
	key := ix.resolve(base, kv.Key())
	ix.value(key, kv.Value())
}

// value goes into inline tables, and into arrays that hold some.
func (ix *indexer) value(key string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			ix.keyValue(key, it.Node())
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			n := it.Node()
			at := fmt.Sprintf("%s[%d]", key, i)
			if n.Raw.Length > 0 {
				ix.note(at, n)
			}
			ix.value(at, n)
		}
	}
}

// note keeps the first place of a key.
func (ix *indexer) note(key string, n *unstable.Node) {
	if _, seen := ix.position[key]; seen || n == nil {
		return
	}
	start := ix.parser.Shape(n.Raw).Start
	ix.position[key] = Problem{File: ix.name, Line: start.Line, Column: start.Column}
}

func join(base, name string) string {
	if strings.ContainsAny(name, ".[]\"") {
		name = fmt.Sprintf("%q", name)
	}
	if base == "" {
		return name
	}
	return base + "." + name
}
