package call

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/budget"
)

// source is a stream of bytes in pieces of n.
type source struct {
	b []byte
	n int
}

func (s *source) Read(b []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.b[:min(max(s.n, 1), len(s.b))])
	s.b = s.b[n:]
	return n, nil
}

func (*source) SetReadDeadline(time.Time) error { return nil }

// readAllFrames reads frames as a lane does.
func readAllFrames(src deadliner, mem *budget.Budget) (bodies [][]byte, err error) {
	r := frameReader{src: src, timeout: time.Second, mem: mem}
	for {
		n, err := r.length()
		if err != nil {
			return bodies, err
		}
		body, ok, err := r.small(n)
		if !ok && err == nil {
			body, _, err = r.large(n)
			r.release()
		}
		if err != nil {
			return bodies, err
		}
		bodies = append(bodies, bytes.Clone(body))
	}
}

func FuzzReadFrame(f *testing.F) {
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	f.Add(frame("{}"), 1)
	f.Add(append(frame("a"), frame(strings.Repeat("b", 40000))...), 7)
	f.Add([]byte{0, 0, 0, 0}, 4)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1}, 4)
	f.Add(frame(strings.Repeat("c", 70000))[:60000], 5000)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		if len(data) > 64<<10 {
			return
		}
		mem := budget.New("test", 1<<20, nil)
		bodies, err := readAllFrames(&source{b: data, n: piece}, mem)
		require.Error(t, err)
		require.Zero(t, mem.Used())
		var again []byte
		for _, b := range bodies {
			again = append(again, frame(string(b))...)
		}
		require.True(t, bytes.HasPrefix(data, again), "what was read is what was sent")
		whole, _ := readAllFrames(&source{b: data, n: len(data)}, mem)
		require.Equal(t, len(whole), len(bodies), "however it is cut")
	})
}

func FuzzEnvelope(f *testing.F) {
	for _, g := range Golden() {
		f.Add(g[4:])
	}
	f.Add([]byte(`{"type":"call.requested","id":"a.1","payload":{"operationId":"/x/y","deadline_ms":30000,"traceparent":"00-1","idempotency_key":"k","window":5,"auth_token":"t","input_stream":true,"raw_input":true,"resumable":true,"input":[1,{"a":null}]}}`))
	f.Add([]byte(`{"type":"call.requested","id":"a.1","payload":{"operationId":"/x/y","hops":2,"path":["aa","bb"],"delegation":"d","forwarded_for":{"id":"a","scopes":["}\"x"]},"input":1}}`))
	f.Add([]byte(`{"type":"call.requested","id":"a.1","payload":{"operationId":"/x/y","hops":1,"path":["aa"],"forwarded_for":{"id":"a","id":"b"},"input":1}}`))
	f.Add([]byte(`{"payload":{"input":1,"operationId":"x"},"id":"\u0061","type":"call.requested"}`))
	f.Add([]byte(`{"type":"call.responded","id":"a","payload":{"seq":7,"token":"t","output":1},"id":"b"}}`))
	f.Add([]byte(`{"type":"call.item","id":"a","payload":{"seq":7,"input":1e9}}`))
	f.Add([]byte(`{"type":"call.responded","id":"a","payload":{"output":1},"x":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var fast, slow event
		var fastReq, slowReq request
		if !fast.parseCanonical(body, &fastReq) {
			if bad := slow.parseAny(body, &slowReq); bad == nil {
				require.True(t, json.Valid(body))
			}
			return
		}
		require.Nil(t, slow.parseAny(body, &slowReq), "the canonical form is a strict envelope: %q", body)
		require.Equal(t, slow.typ, fast.typ)
		require.Equal(t, string(slow.id), string(fast.id))
		require.Equal(t, slow.seq, fast.seq)
		require.Equal(t, string(slow.token), string(fast.token))
		require.JSONEq(t, string(orNull(slow.data)), string(orNull(fast.data)))
		if fast.typ != evRequested {
			return
		}
		require.Equal(t, string(slowReq.op), string(fastReq.op))
		require.Equal(t, slowReq.deadline, fastReq.deadline)
		require.Equal(t, slowReq.window, fastReq.window)
		require.Equal(t, string(slowReq.rare().key), string(fastReq.rare().key))
		require.Equal(t, string(slowReq.rare().trace), string(fastReq.rare().trace))
		require.Equal(t, string(slowReq.rare().token), string(fastReq.rare().token))
		require.Equal(t, slowReq.inputs, fastReq.inputs)
		require.Equal(t, slowReq.rawInput, fastReq.rawInput)
		require.Equal(t, slowReq.resumable, fastReq.resumable)
		require.Equal(t, slowReq.hops, fastReq.hops)
		require.ElementsMatch(t, slowReq.rare().path, fastReq.rare().path)
		require.Equal(t, string(slowReq.rare().delegation), string(fastReq.rare().delegation))
		require.JSONEq(t, string(orNull(slowReq.rare().claimed)), string(orNull(fastReq.rare().claimed)))
		// What we write of it reads the same again.
		b := appendFrameHead(nil, evRequested, fast.id)
		b = endFrame(fastReq.appendPayload(b, fast.data, fast.data != nil), 0)
		var again event
		var againReq request
		require.Nil(t, again.parse(b[4:], &againReq), "%q", b[4:])
		require.Equal(t, string(orNull(fast.data)), string(orNull(again.data)))
		require.Equal(t, string(fastReq.op), string(againReq.op))
	})
}

func FuzzRawFrame(f *testing.F) {
	f.Add(appendRawFrame(nil, rawOutput, []byte("s1"), 7, []byte("hi"))[4:])
	f.Add([]byte{1})
	f.Add([]byte{2, 255, 1})
	f.Add([]byte{7, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 {
			return
		}
		var ev event
		if ev.parseRaw(body) != nil {
			return
		}
		tag := byte(rawOutput)
		if ev.typ == evItem {
			tag = rawInput
		}
		require.Equal(t, body, appendRawFrame(nil, tag, ev.id, ev.seq, ev.data)[4:])
		require.True(t, isRaw(body))
	})
}

// TestRawFrameOfTheDocument: item 7 of s1, "hi".
func TestRawFrameOfTheDocument(t *testing.T) {
	require.Equal(t, []byte("\x00\x00\x00\x0e\x01\x02s1\x00\x00\x00\x00\x00\x00\x00\x07hi"), appendRawFrame(nil, rawOutput, []byte("s1"), 7, []byte("hi")))
}

// FuzzCredit is a sequence of grants: the balance never goes beyond what was
// granted, and nonsense is refused.
func FuzzCredit(f *testing.F) {
	f.Add([]byte{1, 10, 2, 20, 3, 200})
	f.Add([]byte{0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var out outflow
		out.limit(100)
		granted, spent, sent, acked := int64(100), int64(0), uint64(0), uint64(0)
		for i := 0; i+1 < len(steps); i += 2 {
			n := int64(int8(steps[i+1])) * 10
			switch steps[i] % 3 {
			case 0:
				if out.balance.Load() > 0 {
					require.NoError(t, out.wait(context.Background()))
					out.charge(int(max(n, 0)))
					spent += max(n, 0)
					sent++
				}
			case 1:
				seq := uint64(steps[i] / 3)
				ok := out.grant(n, seq, sent)
				require.Equal(t, n >= 0 && seq <= sent && seq >= acked, ok)
				if ok {
					granted += n
					acked = seq
				}
			case 2:
				in := newInflow(100, 400)
				total := int64(0)
				for range steps {
					total += in.consumed(int(max(n, 1)), 1, func() time.Duration { return time.Hour }, anyWindow)
				}
				require.LessOrEqual(t, total, int64(len(steps))*max(n, 1)+300, "never more than was taken, and the window's growth")
			}
			require.Equal(t, granted-spent, out.balance.Load())
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"math/add", "a", "a/b/c", "", "/", "a//b", "-a", "a-", "A.b_c-9/x", strings.Repeat("a/", 100), "a@b", "a@b@c", "a/*", "*"} {
		f.Add(s, "a/b")
	}
	f.Fuzz(func(t *testing.T, s, g string) {
		if !validName(s) {
			require.False(t, validName([]byte(s)))
			return
		}
		require.LessOrEqual(t, len(s), maxNameBytes)
		require.True(t, plainText(s) && validRoute(s) && validGlob(s) && matchGlob(s, s))
		require.NotContains(t, s, "@")
		require.Equal(t, s, strings.TrimPrefix("/"+s, "/"))
		if ns := namespace(s); ns != "" {
			require.True(t, validName(ns) && matchGlob(ns+"/*", s))
		}
		require.False(t, matchGlob("*", s+"@peer"), "a glob admits no pin")
		if validGlob(g) && matchGlob(g, s) {
			require.True(t, g == s || g == "*" || strings.HasPrefix(s, strings.TrimSuffix(g, "*")))
		}
	})
}

func FuzzAccess(f *testing.F) {
	f.Add([]byte("abcdefgh"), "a,b", "x")
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, "", "")
	f.Fuzz(func(t *testing.T, seed []byte, scopes, resource string) {
		if len(seed) > 64 || len(scopes) > 64 || len(resource) > 16 {
			return
		}
		checkAccess(t, newAccessCase(seed, scopes, resource))
	})
}

// An accessCase is one caller at one operation.
type accessCase struct {
	op    Operation
	id    alknet.Identity
	owns  map[string]bool // resource ids that the caller owns; "" any
	input []byte
	named string // the resource in the input
}

// newAccessCase makes a case of bytes.
func newAccessCase(seed []byte, scopes, resource string) accessCase {
	at := 0
	bit := func() bool {
		if len(seed) == 0 {
			return false
		}
		b := seed[at/8%len(seed)]>>(at%8)&1 == 1
		at++
		return b
	}
	pick := func(list ...string) (out []string) {
		for _, s := range list {
			if bit() {
				out = append(out, s)
			}
		}
		return out
	}
	c := accessCase{named: resource, owns: map[string]bool{"": bit(), "r": bit()}}
	c.op = Operation{Name: "x/op", Func: QueryFunc(func(context.Context, json.RawMessage) (int, error) { return 1, nil })}
	c.op.AllowAnonymous = bit()
	rare, rarer := bit(), bit()
	c.op.Internal = rare && rarer
	c.op.Access = alknet.AccessControl{RequiredScopes: pick("a", "b"), RequiredScopesAny: pick("b", "c")}
	if bit() {
		c.op.Access.ResourceType = "box"
	}
	if bit() {
		c.op.Access.ResourceAction = "start"
	}
	if bit() && c.op.Access.ResourceType != "" {
		c.op.ResourceID = "/id"
	}
	if bit() {
		c.id.ID = "somebody"
	}
	if bit() {
		c.id.Scopes = strings.Split(scopes, ",")
	}
	c.id.Scopes = append(c.id.Scopes, pick("a", "b", "c")...)
	if bit() {
		c.id.Resources = map[string][]string{"box": pick("start", "stop"), "other": pick("start")}
	}
	c.input, _ = json.Marshal(map[string]string{"id": resource})
	return c
}

// oracle says what docs/protocol.md and docs/security.md say, in other words.
func oracle(c accessCase) (runs bool, code string) {
	ac := c.op.Access
	has := func(scope string) bool {
		for _, s := range c.id.Scopes {
			if s == scope {
				return true
			}
		}
		return false
	}
	if c.op.Internal {
		return false, "NOT_FOUND"
	}
	if c.id.ID == "" {
		if !c.op.AllowAnonymous {
			return false, "FORBIDDEN"
		}
		if len(ac.RequiredScopes)+len(ac.RequiredScopesAny) > 0 || ac.ResourceType != "" || ac.ResourceAction != "" {
			return false, "FORBIDDEN"
		}
		return true, ""
	}
	for _, s := range ac.RequiredScopes {
		if !has(s) {
			return false, "FORBIDDEN"
		}
	}
	any := len(ac.RequiredScopesAny) == 0
	for _, s := range ac.RequiredScopesAny {
		any = any || has(s)
	}
	if !any {
		return false, "FORBIDDEN"
	}
	static := true
	switch {
	case ac.ResourceType == "" && ac.ResourceAction == "":
	case ac.ResourceType == "":
		static = false
		for _, actions := range c.id.Resources {
			for _, a := range actions {
				static = static || a == ac.ResourceAction
			}
		}
	case ac.ResourceAction == "":
		static = len(c.id.Resources[ac.ResourceType]) > 0
	default:
		static = false
		for _, a := range c.id.Resources[ac.ResourceType] {
			static = static || a == ac.ResourceAction
		}
	}
	if static {
		return true, ""
	}
	if ac.ResourceType == "" {
		return false, "FORBIDDEN"
	}
	resource := ""
	if c.op.ResourceID != "" {
		if resource = c.named; resource == "" {
			return false, "INVALID_INPUT"
		}
	}
	if c.owns[resource] {
		return true, ""
	}
	return false, "FORBIDDEN"
}
