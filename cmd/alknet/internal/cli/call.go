package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
)

type callFlags struct {
	data   string
	key    string
	after  uint64
	labels map[string]string
	inputs bool
	stdin  []byte // what --data - has read
}

func (a *app) callCommand() *cobra.Command {
	var fl callFlags
	c := &cobra.Command{
		Use:   "call OP [k=v]...",
		Short: "Call an operation; of a subscription, print a value per line",
		Long: "Call an operation. OP is ns/verb for the node here, ns/verb@PEER, @any or @all.\n" +
			"k=v is typed by the operation's schema, k:=JSON is JSON, k=@FILE is a file's content.\n" +
			"--data - reads the whole input from standard input. Ctrl-C aborts the call at the callee.",
		Args: count(1, -1),
	}
	c.Flags().StringVar(&fl.data, "data", "", "the whole input: JSON, @FILE, or - for standard input")
	c.Flags().StringVar(&fl.key, "key", "", "the idempotency `key`: a repeated call with it runs once")
	c.Flags().Uint64Var(&fl.after, "after", 0, "resume a subscription behind this item")
	c.Flags().StringToStringVar(&fl.labels, "label", nil, "with @any and @all: only peers with this label `k=v`")
	c.Flags().BoolVar(&fl.inputs, "stream", false, "the input is a stream: one JSON value a line of --data")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		return a.call(ctx, args[0], args[1:], fl)
	}
	return a.completes(c, false, someOperations)
}

func (a *app) call(ctx context.Context, full string, args []string, fl callFlags) error {
	w, err := a.way(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	if fl.data == "-" {
		if fl.stdin, err = readBounded(a.Stdin); err != nil {
			return err
		}
	}
	if _, peer := splitOp(full); peer == "all" {
		return a.callAll(ctx, w, full, args, fl)
	}
	return callFault(full, a.atPeer(ctx, w, full, func(r *route) (bool, error) { return a.callOver(ctx, r, args, fl) }))
}

// callOver calls over one route. begun: the operation was asked for, so that it may
// have run.
func (a *app) callOver(ctx context.Context, r *route, args []string, fl callFlags) (begun bool, err error) {
	spec, err := a.describe(ctx, r.Caller, r.op)
	if err != nil {
		return false, err
	}
	o := call.Options{Type: spec.Func.Type, InputStream: spec.Func.InputStream, IdempotencyKey: fl.key, After: fl.after,
		OnNotice: func(name string, detail json.RawMessage) { a.detail("%s %s", plain(name), quoted(string(detail))) }}
	s, err := r.Open(ctx, r.op, o)
	if err != nil {
		return true, err
	}
	if err := a.sendInput(s, spec, args, fl); err != nil {
		s.Cancel(nil)
		return true, err
	}
	return true, a.receive(s)
}

// describe asks for the schema. A peer that does not tell gets the input as typed.
func (a *app) describe(ctx context.Context, c call.Caller, op string) (call.Operation, error) {
	d, ok := c.(interface {
		Describe(context.Context, string) (call.Operation, error)
	})
	if !ok {
		return call.Operation{Func: call.Func{Type: call.Query}}, nil
	}
	spec, err := d.Describe(ctx, op)
	if ce, ok := errors.AsType[*call.Error](err); ok && ce.Code == codes.NotFound {
		return call.Operation{}, nil // what we may not call we may not see either: the call says which
	}
	return spec, err
}

func (a *app) sendInput(s *call.Stream, spec call.Operation, args []string, fl callFlags) error {
	if fl.inputs || spec.Func.InputStream {
		return a.sendStream(s, fl)
	}
	input, err := a.input(spec.Func.Input, args, fl)
	if err != nil {
		return err
	}
	return s.Send(input, false)
}

// sendStream sends each line of --data as an item.
func (a *app) sendStream(s *call.Stream, fl callFlags) error {
	data, err := a.dataText(fl)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if !json.Valid([]byte(line)) {
			return fault.New(fault.Usage, "--data: each line is one JSON value", "")
		}
		if err := s.Send([]byte(line), false); err != nil {
			return err
		}
	}
	return s.CloseSend()
}

// receive prints what comes: one value a line.
func (a *app) receive(s *call.Stream) error {
	for {
		data, raw, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if raw {
			data, _ = json.Marshal(base64.StdEncoding.EncodeToString(data)) // a string
		}
		if _, err := fmt.Fprintf(a.Stdout, "%s\n", escapeJSON(data)); err != nil {
			return err
		}
	}
}

// escapeJSON is JSON in which no character can reach a terminal as a command.
func escapeJSON(data []byte) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(string(data)) {
		if r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x61c {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		if r < 0x20 { // white space between tokens; inside strings it is escaped already
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// callFault says which operation it was.
func callFault(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	e := *fault.Of(err)
	e.Message, e.Err = plain(op)+": "+e.Message, err
	return &e
}

func (a *app) opsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ops [PEER [OP]]",
		Short: "List the operations that we may call, here or at a peer, or describe one",
		Args:  count(0, 2),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		w, err := a.way(ctx)
		if err != nil {
			return err
		}
		defer w.close()
		at := "services/list"
		if len(args) > 0 && args[0] != "local" {
			at += "@" + args[0]
		}
		return a.atPeer(ctx, w, at, func(r *route) (bool, error) {
			if len(args) == 2 {
				return false, a.showOp(ctx, r.Caller, args[1])
			}
			return false, a.listOps(ctx, r.Caller)
		})
	}
	return c
}

// opOut is one operation of the document of ops.
type opOut struct {
	Name        string `json:"name"`
	Type        string `json:"op_type"`
	Description string `json:"description,omitzero"`
}

type listOut struct {
	Operations []opOut `json:"operations"`
	Next       string  `json:"next,omitzero"`
}

// operations asks for all of them, page by page.
func operations(ctx context.Context, c call.Caller) ([]opOut, error) {
	all := []opOut{}
	cursor := ""
	for range 100 {
		in := map[string]any{"detail": true}
		if cursor != "" {
			in["cursor"] = cursor
		}
		page, err := call.Call[listOut](ctx, c, "services/list", in)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Operations...)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	return all, nil
}

func (a *app) listOps(ctx context.Context, c call.Caller) error {
	all, err := operations(ctx, c)
	if err != nil {
		return callFault("services/list", err)
	}
	return a.result(all, func(w io.Writer) {
		rows := [][]string{{"OPERATION", "TYPE", ""}}
		for _, op := range all {
			rows = append(rows, []string{plain(op.Name), plain(op.Type), plain(op.Description)})
		}
		table(w, rows)
	})
}

func (a *app) showOp(ctx context.Context, c call.Caller, op string) error {
	schema, err := call.Call[json.RawMessage](ctx, c, "services/schema", map[string]string{"name": op})
	if err != nil {
		return callFault(op, err)
	}
	var v any
	if err := json.Unmarshal(schema, &v); err != nil {
		return err
	}
	return a.result(v, func(w io.Writer) {
		b, _ := json.MarshalIndent(v, "", "  ") // it was JSON
		for line := range strings.Lines(string(b)) {
			fmt.Fprintln(w, escapeJSONLine(line))
		}
	})
}

func escapeJSONLine(line string) string {
	indent := len(line) - len(strings.TrimLeft(line, " "))
	return line[:indent] + escapeJSON([]byte(line[indent:]))
}
