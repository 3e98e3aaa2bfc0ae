// Package strictjson decodes the JSON that crosses a trust boundary, so that
// everybody who reads a text reads the same in it: names match exactly and
// occur once in their object at any depth, strings are valid UTF-8 without
// surrogate halves, nothing follows the one value, and nesting is bounded.
// encoding/json accepts two spellings of a name, the last of two duplicates and
// bad UTF-8, and decodes nothing at such a place.
//
// The Go types are matched as encoding/json does, with two exceptions: an
// array's length must be that of the Go array, and base64 and times are read
// to the letter of RFC 4648 and RFC 3339. A method UnmarshalJSON gets text that
// has passed all checks of syntax; what it decodes itself, it decodes by its
// own rules.
package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/alkdev/alknet/internal/printable"
)

// MaxDepth is how deep objects and arrays may be nested: a value that is
// neither has depth 0.
const MaxDepth = 64

// errDepth is a text that is nested deeper than MaxDepth.
var errDepth = errors.New("nested deeper than " + strconv.Itoa(MaxDepth))

// The options of Decode and of DecodeExact.
var (
	ignoreUnknown = json.JoinOptions(
		jsonv1.DefaultOptionsV1(),
		jsontext.AllowDuplicateNames(false),
		jsontext.AllowInvalidUTF8(false),
		json.MatchCaseInsensitiveNames(false),
		jsonv1.ReportErrorsWithLegacySemantics(false),
		jsonv1.UnmarshalArrayFromAnyLength(false),
		jsonv1.ParseBytesWithLooseRFC4648(false),
		jsonv1.ParseTimeWithLooseRFC3339(false),
	)
	refuseUnknown = json.JoinOptions(ignoreUnknown, json.RejectUnknownMembers(true))
)

// Decode decodes data, one JSON value, into what v points to, and ignores
// members that v has no field for: envelopes that may grow. After an error v
// holds a part of the value and must not be read. The error says where it is
// and shows no value of data, only names on the way to it, quoted and cut;
// [errors.AsType] finds a [json.SemanticError] or a [jsontext.SyntacticError]
// with the JSON pointer in it, whose own text is not safe to show.
//
// Memory is a small multiple of len(data), which the caller bounds.
func Decode(data []byte, v any) error { return decode(data, v, ignoreUnknown) }

// DecodeExact is [Decode] that refuses members that v has no field for: the
// input of operations, and files of ours, where a name that is not understood
// is a mistake.
func DecodeExact(data []byte, v any) error { return decode(data, v, refuseUnknown) }

// Check says whether data is one JSON value that Decode would not refuse for its
// syntax. It decodes nothing and, for a value that is right, allocates nothing.
func Check(data []byte) error {
	if plain(data) {
		return nil
	}
	if at := tooDeep(data); at >= 0 {
		return &decodeError{at: int64(at), err: errDepth}
	}
	if jsontext.Value(data).IsValid() {
		return nil
	}
	var v jsontext.Value
	if err := Decode(data, &v); err != nil {
		return err
	}
	return &decodeError{err: errSyntax}
}

// errSyntax is a text that is not one JSON value.
var errSyntax = errors.New("not JSON")

// decode is Decode with the options given.
func decode(data []byte, v any, opts json.Options) error {
	if at := tooDeep(data); at >= 0 {
		return &decodeError{at: int64(at), err: errDepth}
	}
	err := json.Unmarshal(data, v, opts)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		return &decodeError{at: e.ByteOffset, pointer: e.JSONPointer, err: err}
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return &decodeError{at: e.ByteOffset, pointer: e.JSONPointer, err: err}
	}
	return &decodeError{err: err}
}

// tooDeep returns where data goes deeper than MaxDepth, -1 if nowhere. It sees
// at least the depth that a parser sees: they differ only behind a mistake at
// which the parser stops. It allocates nothing.
func tooDeep(data []byte) int {
	if bytes.Count(data, openArray)+bytes.Count(data, openObject) <= MaxDepth {
		return -1 // most texts are done here, many times faster
	}
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = stringEnd(data, i+1)
		case '{', '[':
			if depth++; depth > MaxDepth {
				return i
			}
		case '}', ']':
			depth--
		}
	}
	return -1
}

// What goes one deeper.
var (
	openArray  = []byte{'['}
	openObject = []byte{'{'}
)

// stringEnd returns the index of the quote that ends the string whose text
// begins at start, or len(data).
func stringEnd(data []byte, start int) int {
	for i := start; i < len(data); i++ {
		n := bytes.IndexByte(data[i:], '"')
		if n < 0 {
			return len(data)
		}
		i += n
		escapes := 0
		for i-escapes > start && data[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
	return len(data)
}

// A decodeError says where and why in a text of ours, because the library's
// shows values of the input.
type decodeError struct {
	at      int64            // byte offset
	pointer jsontext.Pointer // "" is the whole value, or unknown
	err     error
}

// Error is "strictjson: at pointer, byte n: why".
func (e *decodeError) Error() string {
	if e.pointer == "" {
		return fmt.Sprintf("strictjson: byte %d: %s", e.at, e.why())
	}
	return fmt.Sprintf("strictjson: at %s, byte %d: %s", printable.Quote(string(e.pointer)), e.at, e.why())
}

// Unwrap gives the library's error.
func (e *decodeError) Unwrap() error { return e.err }

// kinds are the library's kinds of value, for people.
var kinds = map[jsontext.Kind]string{
	'n': "null", 'f': "a boolean", 't': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "an array",
}

// why is the cause without the input.
func (e *decodeError) why() string {
	switch {
	case errors.Is(e.err, errDepth):
		return errDepth.Error()
	case errors.Is(e.err, jsontext.ErrDuplicateName):
		return "a second member of this name"
	case errors.Is(e.err, json.ErrUnknownName):
		return "unknown member"
	case errors.Is(e.err, io.ErrUnexpectedEOF):
		return "unexpected end of the text"
	case errors.Is(e.err, strconv.ErrRange):
		return "a number out of range"
	}
	if se, ok := errors.AsType[*json.SemanticError](e.err); ok {
		if kind, known := kinds[se.JSONKind]; known {
			return kind + " that does not fit"
		}
		return "a value that does not fit"
	}
	return "not JSON"
}
