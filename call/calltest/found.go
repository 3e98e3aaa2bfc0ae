package calltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// listed is what services/list answers.
type listed struct {
	Operations []struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		OpType    string `json:"op_type"`
	} `json:"operations"`
	Next string `json:"next"`
	Etag string `json:"etag"`
}

func (l listed) names() []string {
	var names []string
	for _, op := range l.Operations {
		names = append(names, op.Name)
	}
	return names
}

// discovery: callers see what they may call.
func discovery(e *env) {
	guarded := call.Operation{Name: "box/start", Func: math()[0].Func, Access: alknet.AccessControl{RequiredScopes: []string{"box"}}}
	inner := call.Operation{Name: "box/inner", Internal: true, Func: math()[0].Func}
	h := e.handler(append(math(), guarded, inner)...)
	boss := e.settled(h, alknet.Identity{ID: "boss", Scopes: []string{"box", "call:explain"}}, nil)
	clerk := e.settled(h, alknet.Identity{ID: "clerk"}, nil)
	all, err := call.Call[listed](e.ctx(), boss, "services/list", struct{}{})
	e.ok(err)
	e.true(slices.IsSorted(all.names()), "sorted")
	e.true(slices.Contains(all.names(), "box/start") && !slices.Contains(all.names(), "box/inner"), "what boss may call")
	some, err := call.Call[listed](e.ctx(), clerk, "services/list", json.RawMessage(`{"whatever":[1]}`))
	e.ok(err)
	e.true(!slices.Contains(some.names(), "box/start") && slices.Contains(some.names(), "math/add"), "what clerk may call")
	for _, op := range all.Operations {
		e.true(slices.Contains([]string{"query", "mutation", "subscription"}, op.OpType), "op_type "+op.OpType)
		i := strings.LastIndex(op.Name, "/")
		e.same(op.Name[:i], op.Namespace, "namespace")
	}
	hidden := []string{"box/start", "box/inner", "box/none", "/box/start"}
	for _, name := range hidden {
		_, err := call.Call[any](e.ctx(), clerk, "services/schema", map[string]string{"name": name})
		ce := e.code(codes.NotFound, err)
		e.same("operation not found: "+strings.TrimPrefix(name, "/"), ce.Message, "hidden and absent are alike")
		e.true(ce.Details == nil && ce.Reason == "", "nothing more is said")
	}
	_, err = call.Call[any](e.ctx(), clerk, "services/schema", struct{}{})
	e.code(codes.InvalidInput, err)
	raw, err := call.Call[map[string]json.RawMessage](e.ctx(), boss, "services/schema", map[string]string{"name": "/box/start"})
	e.ok(err)
	for _, member := range []string{
		"name", "namespace", "op_type", "visibility", "input_schema", "output_schema", "error_schemas", "access_control", "etag",
	} {
		e.true(raw[member] != nil, "services/schema without "+member)
	}
	e.same(`{"required_scopes":["box"],"required_scopes_any":[],"resource_type":null,"resource_action":null}`, string(raw["access_control"]), "access_control")
	// Pages.
	var paged []string
	in := map[string]any{"detail": true, "limit": 3}
	for range 50 {
		page, err := call.Call[listed](e.ctx(), boss, "services/list", in)
		e.ok(err)
		e.true(len(page.Operations) <= 3 && page.Etag != "", "a page")
		paged = append(paged, page.names()...)
		if page.Next == "" {
			break
		}
		in["cursor"] = page.Next
	}
	e.same(all.names(), paged, "pages are the list")
	// Changes.
	ctx, cancel := context.WithCancel(e.ctx())
	defer cancel()
	etags := make(chan string, 8)
	e.background(func() {
		for c, err := range call.Subscribe[struct {
			Etag string `json:"etag"`
		}](ctx, clerk, "services/changes", struct{}{}) {
			if err != nil {
				return
			}
			etags <- c.Etag
		}
	})
	first := <-etags
	e.ok(h.Registry.Replace(call.Operation{Name: "new/one", Func: math()[0].Func}))
	e.true(<-etags != first, "the etag has changed")
	cancel()
	// Explain.
	ex, err := call.Call[map[string]any](e.ctx(), boss, "services/explain", map[string]string{"operation": "box/start"})
	e.ok(err)
	e.same(true, ex["allowed"], "explained")
	_, err = call.Call[any](e.ctx(), clerk, "services/explain", map[string]string{"operation": "box/start"})
	e.code(codes.Forbidden, err)
	op, err := boss.Describe(e.ctx(), "math/add")
	e.ok(err)
	e.same(call.Query, op.Func.Type, "described")
}

// importing: nothing by default, and nothing that would hurt.
func importing(e *env) {
	far := e.handler(append(math(), call.Operation{
		Name: "far/typed", Title: "T", Description: "D", Func: math()[0].Func, Additive: false,
		Errors: []call.ErrorSpec{{Code: "FAR", Description: "far"}},
	})...)
	c := e.settled(far, alice, nil)
	none, err := c.Import(e.ctx(), call.Import{})
	e.ok(err)
	e.same(0, len(none), "nothing by default")
	ops, err := c.Import(e.ctx(), call.Import{Allow: []string{"*"}, Prefix: "gpu", Export: true})
	e.ok(err)
	var names []string
	for _, op := range ops {
		names = append(names, op.Name)
		e.true(!op.AllowAnonymous, "never anonymous")
	}
	e.same([]string{"gpu/far/typed", "gpu/math/add", "gpu/math/count"}, names, "reserved names are not taken")
	near := e.handler()
	e.ok(near.Registry.Register(ops...))
	user := e.settled(near, alknet.Identity{ID: "user"}, nil)
	sum, err := call.Call[int](e.ctx(), user, "gpu/math/add", pair{20, 22})
	e.ok(err)
	e.same(42, sum, "through us")
	list, err := collect(call.Subscribe[int](e.ctx(), user, "gpu/math/count", 1000))
	e.ok(err)
	e.same(1000, len(list), "a stream through us")
	_, err = call.Call[int](e.ctx(), user, "gpu/math/add", map[string]any{"a": "x", "b": 1})
	ce := e.code(codes.InvalidInput, err)
	e.true(strings.Contains(string(ce.Details), `"/a"`), "the peer checks the input: "+string(ce.Details))
	was, err := call.Call[json.RawMessage](e.ctx(), c, "services/schema", map[string]string{"name": "far/typed"})
	e.ok(err)
	now, err := call.Call[json.RawMessage](e.ctx(), user, "services/schema", map[string]string{"name": "gpu/far/typed"})
	e.ok(err)
	e.same(member(was, "input_schema"), member(now, "input_schema"), "the schema survives")
	internal, err := c.Import(e.ctx(), call.Import{Allow: []string{"math/add"}})
	e.ok(err)
	e.true(len(internal) == 1 && internal[0].Internal, "internal unless Export")
	e.ok(c.Close())
	_, err = call.Call[int](e.ctx(), user, "gpu/math/add", pair{1, 1})
	e.code(codes.Unavailable, err)
	_, err = c.Import(e.ctx(), call.Import{Allow: []string{"*"}})
	e.true(err != nil, "a dead connection")
	e.hostile()
}

// member is one member of an object.
func member(raw json.RawMessage, name string) string {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(raw, &m) // of our own
	return string(m[name])
}

// hostile: a peer that announces what is not to be taken.
func (e *env) hostile() {
	e.Helper()
	spec := func(name, typ, schema string) string {
		return `{"name":"` + name + `","namespace":"x","op_type":"` + typ + `","visibility":"external","input_schema":` + schema + `,"output_schema":null,"error_schemas":[],"access_control":null}`
	}
	deep := strings.Repeat(`{"properties":{"a":`, 25) + "{}" + strings.Repeat("}}", 25)
	ops := []string{
		spec("x/good", "query", `{"type":"object"}`), spec("X/GOOD", "query", "true"), spec("x/kind", "wonder", "true"),
		spec("services/list", "query", "true"), spec("test/echo", "query", "true"), spec("bad name", "query", "true"),
		spec("x/cycle", "query", `{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#"}}}`), spec("x/remote", "query", `{"$ref":"https://example.com/s.json"}`),
		spec("x/deep", "query", deep), spec("x/pattern", "query", `{"pattern":"`+strings.Repeat("a", 2000)+`"}`), spec("x/number", "query", `7`),
	}
	evil := e.handler()
	var reply atomic.Pointer[json.RawMessage]
	say := func(text string) { reply.Store(new(json.RawMessage(text))) }
	say(`{"operations":[` + strings.Join(ops, ",") + `],"etag":"e"}`)
	e.ok(evil.Registry.Register(call.Operation{Name: "services/list", AllowAnonymous: true, Func: call.QueryFunc(
		func(context.Context, json.RawMessage) (json.RawMessage, error) { return *reply.Load(), nil })}))
	c := e.settled(evil, alice, nil)
	taken, err := c.Import(e.ctx(), call.Import{Allow: []string{"*"}})
	e.true(err != nil, "what was skipped is listed")
	e.same(1, len(taken), fmt.Sprint("taken; ", err))
	e.same("x/good", taken[0].Name, "taken")
	joined, ok := err.(interface{ Unwrap() []error })
	e.true(ok && len(joined.Unwrap()) == 8, "each with its reason: "+err.Error())
	big := spec("x/big", "query", `{"description":"`+strings.Repeat("a", 600<<10)+`"}`)
	say(`{"operations":[` + big + `],"etag":"e"}`)
	_, err = c.Import(e.ctx(), call.Import{Allow: []string{"*"}, MaxSchemaBytes: 100 << 10})
	e.true(err != nil && !errors.Is(err, context.DeadlineExceeded), "too many bytes")
}
