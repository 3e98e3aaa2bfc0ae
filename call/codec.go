package call

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
)

// nullValue is an input or output that is absent.
var nullValue = []byte("null")

// encodeOptions write what encoding/json writes, but lists as lists.
var encodeOptions = jsonv2.JoinOptions(
	jsonv1.DefaultOptionsV1(),
	jsonv2.FormatNilSliceAsNull(false),
	jsonv2.FormatNilMapAsNull(false),
	jsontext.AllowDuplicateNames(false),
	jsontext.AllowInvalidUTF8(false),
	jsontext.EscapeForHTML(false),
	jsontext.EscapeForJS(false),
)

// buffers are for values on their way into a frame.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooledBytes bounds what a pool or a free list keeps.
const maxPooledBytes = 64 << 10

func getBuffer() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= maxPooledBytes {
		b.Reset()
		buffers.Put(b)
	}
}

// encode writes v, without a newline.
func encode(buf *bytes.Buffer, v any) error { return jsonv2.MarshalWrite(buf, v, encodeOptions) }

// encodeInput encodes a caller's input: its bytes and whether they are raw.
func encodeInput(buf *bytes.Buffer, v any) (data []byte, raw bool, err error) {
	switch v := v.(type) {
	case *[]byte:
		return *v, true, nil
	case *json.RawMessage:
		return orNull(*v), false, strictjson.Check(orNull(*v))
	}
	if err := encode(buf, v); err != nil {
		return nil, false, err
	}
	return buf.Bytes(), false, nil
}

func orNull(b []byte) []byte {
	if len(b) == 0 {
		return nullValue
	}
	return b
}

// decodeInput decodes an input item, exactly.
func (s *Stream) decodeInput(data []byte, raw bool, v any) error {
	switch v := v.(type) {
	case *[]byte:
		if raw {
			*v = append([]byte(nil), data...)
			return nil
		}
	case *json.RawMessage:
		if raw {
			*v = base64String(data)
		} else {
			*v = append(json.RawMessage(nil), data...)
		}
		return nil
	}
	if raw {
		return inputError("", "type", "JSON")
	}
	return inputProblem(strictjson.DecodeExact(data, v), data)
}

// decodeOutput decodes an output item; members that are not known are ignored.
func decodeOutput(data []byte, raw bool, v any) error {
	switch v := v.(type) {
	case *[]byte:
		if raw {
			*v = append([]byte(nil), data...)
			return nil
		}
	case *json.RawMessage:
		if raw {
			*v = base64String(data)
		} else {
			*v = append(json.RawMessage(nil), data...)
		}
		return nil
	}
	if raw {
		data = base64String(data)
	}
	if err := strictjson.Decode(data, v); err != nil {
		return errorf(codes.Internal, "the output does not fit %s", reflect.TypeOf(v).Elem()).ran(runYes).because(err)
	}
	return nil
}

// base64String is raw bytes for who cannot take them raw.
func base64String(data []byte) []byte {
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+2)
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), data), '"')
}

// inputError is an INVALID_INPUT that says where, what and what was wanted.
func inputError(path, problem, want string) *Error {
	where := path
	if where == "" {
		where = "the input"
	}
	e := errorf(codes.InvalidInput, "invalid input at %s: %s", where, problem).ran(runNo)
	b := appendString([]byte(`{"path":`), path)
	b = appendString(append(b, `,"problem":`...), problem)
	if want != "" {
		b = appendString(append(b, `,"want":`...), want)
	}
	e.Details = append(b, '}')
	return e
}

// inputProblem makes an INVALID_INPUT of an error of the strict decoder.
func inputProblem(err error, data []byte) error {
	if err == nil {
		return nil
	}
	if se, ok := errors.AsType[*jsonv2.SemanticError](err); ok {
		problem := "type"
		switch {
		case errors.Is(err, jsonv2.ErrUnknownName):
			problem = "unknown member"
		case errors.Is(err, strconv.ErrRange):
			problem = "range"
		case se.GoType != nil && se.JSONKind == kindOf(se.GoType):
			problem = "value"
		}
		return inputError(string(se.JSONPointer), problem, wanted(se.GoType)).because(err)
	}
	if se, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return inputError(string(se.JSONPointer), "syntax", "").because(err)
	}
	return inputError("", "syntax", "").because(fmt.Errorf("%d bytes: %w", len(data), err))
}

// wanted is the JSON type of a Go type, for people.
func wanted(t reflect.Type) string {
	if t == nil {
		return ""
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "string"
		}
		return "array"
	case reflect.Map, reflect.Struct:
		return "object"
	case reflect.Interface:
		return ""
	}
	if strings.HasPrefix(t.Kind().String(), "int") || strings.HasPrefix(t.Kind().String(), "uint") {
		return "integer"
	}
	return ""
}

// kindOf is the kind of JSON that a Go type is read from.
func kindOf(t reflect.Type) jsontext.Kind {
	switch wanted(t) {
	case "string":
		return '"'
	case "number", "integer":
		return '0'
	case "object":
		return '{'
	case "array":
		return '['
	}
	return 0
}
