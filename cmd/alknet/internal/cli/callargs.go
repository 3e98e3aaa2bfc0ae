package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

// maxDataBytes bounds an input that is read from a file or standard input.
const maxDataBytes = 64 << 20

// input is the JSON that the arguments of call mean.
func (a *app) input(schema json.RawMessage, args []string, fl callFlags) ([]byte, error) {
	if fl.data != "" {
		if len(args) > 0 {
			return nil, fault.New(fault.Usage, "--data is the whole input: leave out k=v", "")
		}
		data, err := a.dataText(fl)
		if err == nil && !json.Valid(data) {
			err = fault.New(fault.Usage, "--data is not one JSON value", "")
		}
		return data, err
	}
	return buildInput(schema, args, readFile)
}

// dataText is what --data refers to.
func (a *app) dataText(fl callFlags) ([]byte, error) {
	switch {
	case fl.data == "-":
		return fl.stdin, nil
	case strings.HasPrefix(fl.data, "@"):
		return readFile(fl.data[1:])
	}
	return []byte(fl.data), nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Usage, err.Error(), "")
	}
	defer f.Close()
	return readBounded(f)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDataBytes+1))
	if err == nil && len(b) > maxDataBytes {
		err = fault.New(fault.Usage, "an input has at most 64 MiB", "")
	}
	return b, err
}

// inputSchema is what typing needs of a JSON Schema.
type inputSchema struct {
	Type       any                    `json:"type"` // a string or a list of them
	Properties map[string]inputSchema `json:"properties"`
	Items      *inputSchema           `json:"items"`
}

// is reports whether a value of this kind is allowed.
func (s inputSchema) is(kind string) bool {
	switch t := s.Type.(type) {
	case string:
		return t == kind
	case []any:
		for _, one := range t {
			if one == kind {
				return true
			}
		}
	}
	return false
}

// buildInput makes an object of k=v, k:=JSON and k=@FILE, by the operation's
// schema. Without arguments the input is {} for an operation that takes an object,
// else null. A single =v is the input itself.
func buildInput(raw json.RawMessage, args []string, read func(string) ([]byte, error)) ([]byte, error) {
	var schema inputSchema
	if len(raw) > 0 {
		_ = json.Unmarshal(raw, &schema) // true and false are schemas too: nothing is known then
	}
	if len(args) == 0 {
		if schema.is("object") || schema.Type == nil && schema.Properties != nil {
			return []byte("{}"), nil
		}
		return []byte("null"), nil
	}
	if len(args) == 1 && (strings.HasPrefix(args[0], "=") || strings.HasPrefix(args[0], ":=")) {
		_, v, err := argument("input"+args[0], schema, read)
		return v, err
	}
	object := make(map[string]json.RawMessage)
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		name = strings.TrimSuffix(name, ":")
		key, v, err := argument(arg, schema.Properties[name], read)
		if err != nil {
			return nil, err
		}
		if _, twice := object[key]; twice {
			return nil, fault.New(fault.Usage, fmt.Sprintf("%s is given twice", quoted(key)), "")
		}
		object[key] = v
	}
	return json.Marshal(object)
}

// argument reads one k=v.
func argument(arg string, schema inputSchema, read func(string) ([]byte, error)) (key string, value json.RawMessage, err error) {
	name, text, ok := strings.Cut(arg, "=")
	if !ok || name == "" {
		return "", nil, fault.New(fault.Usage, fmt.Sprintf("%s is not k=v, k:=JSON or k=@FILE", quoted(arg)), "")
	}
	if key, isJSON := strings.CutSuffix(name, ":"); isJSON {
		if !json.Valid([]byte(text)) {
			return "", nil, fault.New(fault.Usage, fmt.Sprintf("%s is not JSON", quoted(text)), "")
		}
		return key, json.RawMessage(text), nil
	}
	if path, isFile := strings.CutPrefix(text, "@"); isFile {
		b, err := read(path)
		if err != nil {
			return "", nil, err
		}
		text = string(b)
	}
	value, err = typed(text, schema)
	if err != nil {
		return "", nil, fault.New(fault.Usage, fmt.Sprintf("%s: %v", name, err), "")
	}
	return name, value, nil
}

// typed is text as the schema has it: a string stays a string.
func typed(text string, schema inputSchema) (json.RawMessage, error) {
	if schema.Type == nil && schema.Properties == nil || schema.is("string") {
		if schema.Type == nil && json.Valid([]byte(text)) {
			return json.RawMessage(text), nil // anything is allowed: what looks like JSON is JSON
		}
		return json.Marshal(text)
	}
	if !json.Valid([]byte(text)) {
		return nil, fmt.Errorf("%s is no %v", quoted(text), schema.Type)
	}
	return json.RawMessage(text), nil
}
