package call

import (
	"bytes"
	"strings"
	"sync"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

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
	n := 0
	for ; d.PeekKind() == '"'; n++ {
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
	if want := uint64(1)<<len(sh.required) - 1; seen&want != want {
		at := string(d.StackPointer()) // of the last member, or of an object that has none
		if i := strings.LastIndexByte(at, '/'); n > 0 && i >= 0 {
			at = at[:i]
		}
		for i, name := range sh.required {
			if seen&(1<<i) == 0 {
				return inputError(at+"/"+escapePointer(name), "required", "a member")
			}
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return inputError("", "syntax", "").because(err)
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

// escapePointer is a name as a token of a JSON Pointer (RFC 6901, section 3).
func escapePointer(name string) string { return pointerEscapes.Replace(name) }

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")
