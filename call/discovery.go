package call

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
)

// listInput is the input of services/list. Base peers send {} or null.
type listInput struct {
	Detail bool   `json:"detail,omitzero"`
	Match  string `json:"match,omitzero"`
	Limit  int    `json:"limit,omitzero"`
	Cursor string `json:"cursor,omitzero"`
}

// listOutput is the output of services/list.
type listOutput struct {
	Operations []json.RawMessage `json:"operations"`
	Next       string            `json:"next,omitzero"`
	Etag       string            `json:"etag,omitzero"`
}

// listed is an operation in services/list.
type listed struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	OpType    OpType `json:"op_type"`
}

// spec is the output of services/schema. The members that a base peer knows are
// all present, null when unset.
type spec struct {
	Name         string          `json:"name"`
	Namespace    string          `json:"namespace"`
	OpType       OpType          `json:"op_type"`
	Visibility   string          `json:"visibility"`
	InputSchema  json.RawMessage `json:"input_schema"`
	OutputSchema json.RawMessage `json:"output_schema"`
	ErrorSchemas []specError     `json:"error_schemas"`
	Access       *specAccess     `json:"access_control"`
	Title        string          `json:"title,omitzero"`
	Description  string          `json:"description,omitzero"`
	Tags         []string        `json:"tags,omitzero"`
	Deprecated   string          `json:"deprecated,omitzero"`
	Idempotent   bool            `json:"idempotent,omitzero"`
	Additive     bool            `json:"additive,omitzero"`
	Resumable    bool            `json:"resumable,omitzero"`
	InputStream  bool            `json:"input_stream,omitzero"`
	Anonymous    bool            `json:"anonymous,omitzero"`
	ResourceID   string          `json:"resource_id,omitzero"`
	MaxInput     int64           `json:"max_input,omitzero"`
	MaxOutput    int64           `json:"max_output,omitzero"`
	Etag         string          `json:"etag,omitzero"`
}

type specError struct {
	Code        string          `json:"code"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"schema"`
	HTTPStatus  *int            `json:"http_status"`
}

type specAccess struct {
	RequiredScopes    []string `json:"required_scopes"`
	RequiredScopesAny []string `json:"required_scopes_any"`
	ResourceType      *string  `json:"resource_type"`
	ResourceAction    *string  `json:"resource_action"`
}

// nullable is s, or null for an empty one.
func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// specOf describes an operation.
func specOf(op *Operation) spec {
	s := spec{
		Name: op.Name, Namespace: namespace(op.Name), OpType: op.Func.Type, Visibility: "external",
		InputSchema: json.RawMessage(orNull(op.Func.Input)), OutputSchema: json.RawMessage(orNull(op.Func.Output)),
		Title: op.Title, Description: op.Description, Tags: op.Tags, Deprecated: op.Deprecated, Idempotent: op.Idempotent,
		Additive: op.Additive, Resumable: op.Resumable, InputStream: op.Func.InputStream, Anonymous: op.AllowAnonymous,
		ResourceID: op.ResourceID, MaxInput: op.MaxInputBytes, MaxOutput: op.MaxOutputBytes, ErrorSchemas: []specError{},
		Access: &specAccess{
			RequiredScopes: append([]string{}, op.Access.RequiredScopes...), RequiredScopesAny: op.Access.RequiredScopesAny,
			ResourceType: nullable(op.Access.ResourceType), ResourceAction: nullable(op.Access.ResourceAction),
		},
	}
	if op.Internal {
		s.Visibility = "internal"
	}
	for _, e := range op.Errors {
		se := specError{Code: e.Code, Description: e.Description, Schema: json.RawMessage(orNull(e.Schema))}
		if e.HTTPStatus != 0 {
			se.HTTPStatus = new(e.HTTPStatus)
		}
		s.ErrorSchemas = append(s.ErrorSchemas, se)
	}
	return s
}

// encoded is v as JSON.
func encoded(v any) []byte {
	buf := getBuffer()
	defer putBuffer(buf)
	if err := encode(buf, v); err != nil {
		return nullValue // a schema that is no JSON was refused by Register
	}
	return slices.Clone(buf.Bytes())
}

// tag is the etag of some bytes.
func tag(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write(p) // it never fails
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

// may reports whether somebody may call an operation, as the gate would judge
// without an input: what it says no to is not shown.
func (s *state) may(ctx context.Context, e *entry, who *caller) bool {
	op := &e.op
	if op.Internal {
		return false
	}
	if op.Access.ResourceType == "" || s.h.Owns == nil || who.id.ID == "" {
		return (who.id.ID != "" || op.AllowAnonymous) && op.Access.Check(who.id) == nil
	}
	scopes := op.Access
	scopes.ResourceType, scopes.ResourceAction = "", ""
	if scopes.Check(who.id) != nil {
		return false
	}
	return op.Access.Check(who.id) == nil || s.h.Owns(ctx, who.id, op.Access.ResourceType, "", op.Access.ResourceAction)
}

// visibleTo are the operations that somebody may call, sorted by name, and the
// etag of them all.
func (s *state) visibleTo(who *caller) (ops []*Operation, etag string) {
	ops = s.callable(who)
	return ops, s.etag(ops)
}

// callable are the operations that somebody may call, sorted by name.
func (s *state) callable(who *caller) (ops []*Operation) {
	ctx := context.Background()
	seen := make(map[string]bool)
	add := func(op *Operation) {
		if seen[op.Name] {
			return
		}
		seen[op.Name] = true
		if e := s.entryOf(op); e != nil && s.may(ctx, e, who) {
			ops = append(ops, op)
		}
	}
	if s.h.Registry != nil {
		for op := range s.h.Registry.All() {
			add(op)
		}
	}
	for _, e := range s.builtin {
		if e.op.Name != opHello {
			add(&e.op)
		}
	}
	for _, src := range s.h.Sources {
		for op := range src.All() {
			add(op)
		}
	}
	slices.SortFunc(ops, func(a, b *Operation) int { return strings.Compare(a.Name, b.Name) })
	return ops
}

// etag changes when one of ops does, or their number.
func (s *state) etag(ops []*Operation) string {
	specs := make([][]byte, 0, len(ops))
	for _, op := range ops {
		specs = append(specs, s.detail(op))
	}
	return tag(specs...)
}

// The bounds of a page of services/list.
const (
	defaultPage = 500
	maxPage     = 1000
	pageBytes   = 512 << 10
)

// list is services/list.
func (s *state) list(ctx context.Context, in listInput) (listOutput, error) {
	ops := s.callable(callerOf(ctx))
	out := listOutput{Operations: []json.RawMessage{}}
	if !in.Detail {
		for _, op := range ops {
			if in.Match == "" || matchGlob(in.Match, op.Name) {
				out.Operations = append(out.Operations, encoded(listed{op.Name, namespace(op.Name), op.Func.Type}))
			}
		}
		return out, nil
	}
	limit := in.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, maxPage)
	out.Etag = s.etag(ops)
	size := 0
	for _, op := range ops {
		if op.Name <= in.Cursor || in.Match != "" && !matchGlob(in.Match, op.Name) {
			continue
		}
		if len(out.Operations) == limit || size > pageBytes {
			break
		}
		d := s.detail(op)
		size += len(d)
		out.Operations = append(out.Operations, d)
		out.Next = op.Name
	}
	if len(out.Operations) < limit && size <= pageBytes {
		out.Next = ""
	}
	return out, nil
}

// detail is the spec of an operation with its etag. It is made once.
func (s *state) detail(op *Operation) json.RawMessage {
	e := s.entryOf(op)
	if e == nil {
		return json.RawMessage(nullValue)
	}
	e.describe.Do(func() {
		sp := specOf(&e.op)
		sp.Etag = tag(encoded(sp))
		e.detail = encoded(sp)
	})
	return e.detail
}

// schemaInput is the input of services/schema.
type schemaInput struct {
	Name string `json:"name,omitzero"`
}

// schemaOf is services/schema. What may not be called, what is internal and what
// is not there are one answer.
func (s *state) schemaOf(ctx context.Context, in schemaInput) (json.RawMessage, error) {
	name := strings.TrimPrefix(in.Name, "/")
	if name == "" {
		return nil, inputError("/name", "required", "the name of an operation")
	}
	op := s.find([]byte(name))
	if op == nil || op.Internal {
		return nil, notFound(name)
	}
	e := s.entryOf(op)
	if e == nil || !s.may(ctx, e, callerOf(ctx)) {
		return nil, notFound(name)
	}
	return s.detail(op), nil
}

// callerOf is who calls.
func callerOf(ctx context.Context) *caller {
	r, _ := RequestFromContext(ctx)
	return r.c.who
}

// changed is an item of services/changes.
type changed struct {
	Etag string `json:"etag"`
}

// changes is services/changes: the etag now, and after each change that the
// caller can see.
func (s *state) changes(ctx context.Context, _ struct{}) iter.Seq2[changed, error] {
	who := callerOf(ctx)
	return func(yield func(changed, error) bool) {
		last := ""
		for {
			wait, stop := s.anyChange(ctx)
			if _, etag := s.visibleTo(who); etag != last {
				last = etag
				if !yield(changed{etag}, nil) {
					stop()
					return
				}
			}
			select {
			case <-wait:
			case <-ctx.Done():
			}
			stop()
			if ctx.Err() != nil {
				yield(changed{}, ctx.Err())
				return
			}
		}
	}
}

// anyChange is closed when the Registry or a Source changes.
func (s *state) anyChange(ctx context.Context) (<-chan struct{}, func()) {
	var from []<-chan struct{}
	if s.h.Registry != nil {
		from = append(from, s.h.Registry.Changed())
	}
	for _, src := range s.h.Sources {
		from = append(from, src.Changed())
	}
	if len(from) == 1 {
		return from[0], func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	for _, c := range from {
		inBackground(func() error {
			select {
			case <-c:
				cancel()
			case <-ctx.Done():
			}
			return nil
		}, func(error) {})
	}
	return ctx.Done(), cancel
}

// pingOutput is the output of services/ping.
type pingOutput struct {
	Running  int     `json:"running"`
	Load     float64 `json:"load"`
	Draining bool    `json:"draining"`
}

func (s *state) ping(context.Context, struct{}) (pingOutput, error) {
	n := int(s.running.Load())
	return pingOutput{Running: n, Load: float64(n) / float64(s.lim.MaxRunning), Draining: s.isDraining()}, nil
}

// explainInput is the input of services/explain.
type explainInput struct {
	Operation string `json:"operation"`
	As        string `json:"as,omitzero"`
}

// explainOutput is what the gate would decide, step by step.
type explainOutput struct {
	Operation string        `json:"operation"`
	Allowed   bool          `json:"allowed"`
	Steps     []explainStep `json:"steps"`
}

type explainStep struct {
	Step    string `json:"step"`
	Verdict string `json:"verdict"`
	OK      bool   `json:"ok"`
}

// explain is services/explain: each step of the gate for the caller, or for
// whom the token in as means.
func (s *state) explain(ctx context.Context, in explainInput) (explainOutput, error) {
	r, _ := RequestFromContext(ctx)
	who := r.c.who
	name := strings.TrimPrefix(in.Operation, "/")
	out := explainOutput{Operation: name, Steps: []explainStep{}}
	step := func(name string, err *Error, good string) bool {
		st := explainStep{Step: name, Verdict: good, OK: err == nil}
		if err != nil {
			st.Verdict = err.Code + ": " + err.Message
		}
		out.Steps = append(out.Steps, st)
		return err == nil
	}
	if in.As != "" {
		id, err := s.authenticate(ctx, who.id, in.As, false)
		var e *Error
		if err != nil {
			e = unauthenticated(err)
		}
		if !step("token", e, "means "+id.ID) {
			return out, nil
		}
		who = s.callerFor(id)
	}
	var e *Error
	op := s.find([]byte(name))
	if op == nil {
		e = notFound(name)
	}
	if !step("lookup", e, "found") {
		return out, nil
	}
	if op.Internal {
		e = notFound(name)
	}
	if !step("visibility", e, "external") {
		return out, nil
	}
	entry := s.entryOf(op)
	if entry == nil {
		return out, nil
	}
	if id := who.id; id.ID == "" && !op.AllowAnonymous {
		e = errorf(codes.Forbidden, "authentication required")
	}
	if step("identity", e, "is "+who.id.ID) {
		e = forbidden(op.Access.Check(who.id))
		if e != nil && s.may(ctx, entry, who) {
			e = nil // by ownership of some resource
		}
		out.Allowed = step("access", e, "granted")
	}
	return out, nil
}

// builtins are the operations of the protocol itself.
func builtins(h *Handler, s *state) map[string]*entry {
	ops := []Operation{
		{Name: opHello, Func: lenient(Mutation, helloOperation), AllowAnonymous: true},
		{Name: opPing, Description: "whether the node lives, and how much it has to do", Func: lenient(Query, s.ping), AllowAnonymous: true},
		{Name: opList, Description: "the operations that the caller may call", Func: lenient(Query, s.list), AllowAnonymous: true},
		{Name: opSchema, Description: "what an operation takes, gives and asks for", Func: QueryFunc(s.schemaOf), AllowAnonymous: true},
		{Name: opChanges, Description: "when what the caller may call changes", Func: SubscriptionFunc(s.changes), AllowAnonymous: true},
		{Name: opDelegate, Description: "renews the delegation that the caller lends us", Func: MutationFunc(delegateOperation)},
		{Name: opExplain, Description: "what the gate decides, step by step", Func: QueryFunc(s.explain)},
	}
	ops[len(ops)-1].Access.RequiredScopes = []string{scopeExplain}
	m := make(map[string]*entry, len(ops))
	for _, op := range ops {
		op.Timeout = builtinTimeout(op)
		e, err := newEntry(op)
		if err != nil {
			panic(err) // one of ours
		}
		m[op.Name] = e
	}
	return m
}

// lenient makes an operation whose input is taken as far as it is understood:
// base peers send what they like, and newer ones more than we know.
func lenient[In, Out any](t OpType, f func(context.Context, In) (Out, error)) Func {
	fn := unaryFunc(t, f)
	fn.shape = &anyShape
	fn.Serve = func(ctx context.Context, s *Stream) error {
		var in, none In
		if data, raw, err := s.Recv(); err != nil || raw || strictjson.Decode(data, &in) != nil {
			in = none
		}
		out, err := f(ctx, in)
		if err != nil {
			return err
		}
		return send(s, &out)
	}
	return fn
}

// builtinTimeout keeps discovery short.
func builtinTimeout(op Operation) time.Duration {
	if op.Func.Type == Subscription {
		return 0
	}
	return helloTimeout
}

// helloOperation is services/hello.
func helloOperation(ctx context.Context, in helloBody) (helloBody, error) {
	r, _ := RequestFromContext(ctx)
	if r.c.l == nil {
		return r.c.s.hello(), nil
	}
	return r.c.l.answerHello(in), nil
}

// delegateOperation is services/delegate.
func delegateOperation(ctx context.Context, in delegateInput) (struct{}, error) {
	r, _ := RequestFromContext(ctx)
	if r.c.l != nil {
		r.c.l.hand(in.Delegation)
	}
	return struct{}{}, nil
}
