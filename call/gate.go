package call

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/call/delegation"
	"github.com/alkdev/alknet/internal/strictjson"
)

// gate decides whether the call may run, in the order of docs/protocol.md: who
// calls → what there is → what the caller may see → may use → whether the input
// is right. What it decides on is what the handler then sees.
func (c *inCall) gate() error {
	entry, err := c.decide(c.meta.op)
	if err == nil {
		err = c.prepare(entry)
	}
	if err == errResumed {
		return err
	}
	if err = c.audit(err); err != nil {
		return err
	}
	if c.done.Load() {
		return errorf(codes.Cancelled, "the call is over").ran(runNo)
	}
	return nil
}

// decide finds the operation and judges the caller.
func (c *inCall) decide(name []byte) (*entry, *Error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	if err := c.resume(); err != nil {
		return nil, err
	}
	if err := c.loops(); err != nil {
		return nil, err
	}
	entry, err := c.s.visible(c.found, name, c.parent != nil)
	if err != nil {
		return nil, err
	}
	if !entry.enter() {
		return nil, notFound(string(name))
	}
	c.mu.Lock()
	c.entry = entry
	c.mu.Unlock()
	if err := c.s.access(&c.ctx, entry, c.who, c.input); err != nil {
		return entry, err
	}
	return entry, c.fits(entry)
}

// identify applies the token or the delegation of the call, if it has one.
func (c *inCall) identify() *Error {
	if c.meta.some == nil {
		return nil
	}
	token := c.meta.some.token
	delegated := len(c.meta.some.delegation) > 0
	if delegated {
		token = c.meta.some.delegation
	}
	if len(token) == 0 {
		return nil
	}
	op, _, _ := strings.Cut(string(c.meta.op), "@") // who lends it, lends it wherever it runs
	if strings.HasPrefix(string(token), delegationPrefix) && !delegation.Allowed(string(token), op) {
		return unauthenticated(errNotLent)
	}
	id, err := c.s.authenticate(&c.ctx, c.who.id, string(token), delegated)
	if err != nil {
		return unauthenticated(err)
	}
	who := c.s.callerFor(id)
	if err := c.s.reserve(who); err != nil {
		return err
	}
	c.mu.Lock()
	old := c.who
	c.who = who
	if delegated {
		c.requestLocked().Originator = who.id
	}
	c.mu.Unlock()
	c.s.release(old)
	return nil
}

// loops refuses calls that came back or went too far.
func (c *inCall) loops() *Error {
	sent := c.meta.rare().path
	if c.meta.hops >= maxHops || len(sent) >= maxHops {
		return errorf(codes.LoopDetected, "the call went over %d hops", maxHops).ran(runNo)
	}
	if len(sent) == 0 || c.l == nil {
		return nil
	}
	self := c.l.conn.LocalID()
	path := make([]alknet.PeerID, 0, len(sent))
	for _, p := range sent {
		id, err := alknet.ParsePeerID(p)
		if err != nil {
			return errorf(codes.InvalidRequest, "path holds what is no peer id").ran(runNo)
		}
		if id == self && !self.IsZero() {
			return errorf(codes.LoopDetected, "the call came back").ran(runNo)
		}
		path = append(path, id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requestLocked().Path = path
	return nil
}

// visible finds an operation that may be known: from inside, by another
// operation, or from outside. Absent and internal are one answer. op is what was
// found already.
func (s *state) visible(op *Operation, name []byte, inside bool) (*entry, *Error) {
	if op == nil {
		op = s.find(name)
	}
	if op == nil || op.Internal && !inside {
		return nil, notFound(string(name))
	}
	entry := s.entryOf(op)
	if entry == nil {
		return nil, notFound(string(name))
	}
	return entry, nil
}

// access judges whether who may use the operation, for this input.
func (s *state) access(ctx context.Context, e *entry, who *caller, input []byte) *Error {
	op := &e.op
	id := who.id
	if id.ID == "" && !op.AllowAnonymous {
		return errorf(codes.Forbidden, "authentication required").ran(runNo)
	}
	ac := &op.Access
	if ac.ResourceType == "" || s.h.Owns == nil && op.ResourceID == "" {
		return forbidden(ac.Check(id))
	}
	scopes := *ac
	scopes.ResourceType, scopes.ResourceAction = "", ""
	if err := scopes.Check(id); err != nil {
		return forbidden(err)
	}
	static := alknet.AccessControl{ResourceType: ac.ResourceType, ResourceAction: ac.ResourceAction}
	err := static.Check(id)
	if err == nil {
		return nil
	}
	if id.ID == "" {
		return forbidden(err)
	}
	resource := ""
	if op.ResourceID != "" {
		if resource = pointedString(input, op.ResourceID); resource == "" {
			return inputError(op.ResourceID, "required", "the id of a resource")
		}
	}
	if s.h.Owns == nil {
		return forbidden(err)
	}
	if s.h.Owns(ctx, id, ac.ResourceType, resource, ac.ResourceAction) {
		return nil
	}
	if resource == "" {
		return errorf(codes.Forbidden, "no owned resources of type: %s", ac.ResourceType).ran(runNo)
	}
	return errorf(codes.Forbidden, "not owner of resource: %s/%s", ac.ResourceType, resource).ran(runNo)
}

// forbidden is FORBIDDEN with the text of the access check.
func forbidden(err error) *Error {
	if err == nil {
		return nil
	}
	return errorf(codes.Forbidden, "%s", err.Error()).ran(runNo)
}

// pointedString is the string or number at a JSON Pointer (RFC 6901) of a value
// that was checked; "": there is none.
func pointedString(data []byte, pointer string) string {
	at := jsontext.Value(data)
	for token := range strings.SplitSeq(pointer[1:], "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		switch at.Kind() {
		case '{':
			var m map[string]jsontext.Value
			if strictjson.Decode(at, &m) != nil {
				return ""
			}
			at = m[token]
		case '[':
			var list []jsontext.Value
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || strconv.Itoa(i) != token || strictjson.Decode(at, &list) != nil || i >= len(list) {
				return ""
			}
			at = list[i]
		default:
			return ""
		}
	}
	switch at.Kind() {
	case '"':
		var s string
		if strictjson.Decode(at, &s) != nil {
			return ""
		}
		return s
	case '0':
		return string(at)
	}
	return ""
}

// fits judges the kind of the call and its input.
func (c *inCall) fits(e *entry) *Error {
	f := &e.op.Func
	items := f.Type == Subscription
	wantsItems := c.meta.window > 0
	known := c.peer.credit || c.loc != nil // a base peer never says what it expects
	switch {
	case wantsItems && !items:
		return errorf(codes.InvalidOperationType, "%s answers once", e.op.Name).ran(runNo)
	case items && !wantsItems && known:
		return errorf(codes.InvalidOperationType, "%s answers with a stream", e.op.Name).ran(runNo)
	case c.meta.inputs && !f.InputStream:
		return errorf(codes.InvalidOperationType, "%s takes one input", e.op.Name).ran(runNo)
	case c.meta.resumes && !e.op.Resumable && c.meta.after > 0:
		return notResumable(c.meta.after)
	}
	if most := e.op.MaxInputBytes; most > 0 && int64(c.size) > most && !f.InputStream {
		return limitError("max_input_bytes", most)
	}
	if e.op.MaxRunning > 0 && e.running.Load() > int64(e.op.MaxRunning) {
		err := limitError("max_running of the operation", int64(e.op.MaxRunning))
		err.RetryAfter = e.stats.retryAfter()
		return err
	}
	if c.meta.inputs || c.meta.rawInput || f.forward {
		return nil
	}
	return e.checkInput(c.oneInputOf(e))
}

// prepare fills in what the handler sees and starts the clock.
func (c *inCall) prepare(e *entry) *Error {
	f := &e.op.Func
	c.items, c.inputs = f.Type == Subscription, f.InputStream
	if c.inputs && !c.meta.inputs && !c.meta.rawInput { // from a base peer: a stream of one
		c.inputs = false
	}
	c.maxInput.Store(max(e.op.MaxInputBytes, c.s.lim.MaxFrameBytes))
	if e.op.Resumable {
		c.sent.Store(c.meta.after)
	}
	c.describe(e)
	if len(c.meta.rare().key) > 0 && !c.items && !c.inputs && f.Type != Query {
		c.key = &idempotent{}
	}
	if c.l != nil && (c.items || c.inputs) {
		if n := c.l.inputs.Add(1); n > int64(c.s.lim.MaxSubscriptions) {
			return limitError("max_subscriptions", int64(c.s.lim.MaxSubscriptions))
		}
	}
	c.flow()
	c.clock(e)
	c.retain()
	return nil
}

// flow sets up credit for both directions.
func (c *inCall) flow() {
	if c.l == nil {
		return
	}
	if c.inputs {
		c.in = new(newInflow(c.s.lim.WindowBytes, c.s.lim.MaxWindowBytes))
	}
	if c.items && c.peer.credit {
		c.out.limit(min(c.meta.window, c.s.lim.MaxWindowBytes))
	}
}

// clock works out the deadline: the caller's, the operation's, and ours for
// unary calls, whichever is first.
func (c *inCall) clock(e *entry) {
	var limit time.Duration
	shorter := func(d time.Duration) {
		if d > 0 && (limit == 0 || d < limit) {
			limit = d
		}
	}
	shorter(e.op.Timeout)
	if !c.items && !c.inputs {
		shorter(c.s.lim.Timeout)
	}
	if c.meta.deadline > 0 {
		shorter(time.Duration(c.meta.deadline) * time.Millisecond)
	}
	if limit == 0 {
		return
	}
	until := c.begun.Add(limit)
	if c.l == nil {
		c.localClock(until)
		return
	}
	c.ctx.until = until
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.l.err == nil && !c.done.Load() {
		c.l.scheduleLocked(&c.due, until.Sub(c.l.begun))
	}
}

// localClock is clock for a call in this process.
func (c *inCall) localClock(until time.Time) {
	if had := c.ctx.until; !had.IsZero() && had.Before(until) {
		return // its caller's context ends first
	}
	c.ctx.until = until
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done.Load() {
		c.loc.timer = time.AfterFunc(time.Until(until), c.expire)
	}
}

// oneInputOf is oneInput before the operation is decided.
func (c *inCall) oneInputOf(e *entry) []byte {
	if c.input != nil {
		return c.input
	}
	if sh := e.op.Func.shape; sh != nil && sh.object && !sh.null {
		return emptyObject
	}
	return nullValue
}

// validTrace reports whether a traceparent is well-formed (W3C Trace Context,
// section 3.2): version 00.
func validTrace(b []byte) bool {
	if len(b) != 55 || string(b[:3]) != "00-" || b[35] != '-' || b[52] != '-' {
		return false
	}
	hexDigits := func(b []byte) (zero, ok bool) {
		zero = true
		for _, c := range b {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false, false
			}
			zero = zero && c == '0'
		}
		return zero, true
	}
	traceZero, ok1 := hexDigits(b[3:35])
	spanZero, ok2 := hexDigits(b[36:52])
	_, ok3 := hexDigits(b[53:])
	return ok1 && ok2 && ok3 && !traceZero && !spanZero
}

// wireIdentity is an Identity in forwarded_for.
type wireIdentity struct {
	ID        string              `json:"id"`
	Peer      string              `json:"peer,omitzero"`
	Scopes    []string            `json:"scopes,omitzero"`
	Resources map[string][]string `json:"resources,omitzero"`
}

// parseClaimed reads forwarded_for; nil: it is none.
func parseClaimed(data []byte) *alknet.Identity {
	var w wireIdentity
	if strictjson.Decode(data, &w) != nil || w.ID == "" {
		return nil
	}
	id := &alknet.Identity{ID: w.ID, Scopes: w.Scopes, Resources: w.Resources}
	if p, err := alknet.ParsePeerID(w.Peer); err == nil {
		id.Peer = p
	}
	return id
}

// errNotLent is a delegation that does not lend the operation.
var errNotLent = errors.New("the delegation does not lend this operation")

// delegationPrefix begins a delegation, also one that is sent as auth_token.
const delegationPrefix = "alkd1."

// errNoAuthenticate is why every token is refused.
var errNoAuthenticate = errors.New("Handler.Authenticate is nil")

// authenticate says whom a token means.
func (s *state) authenticate(ctx context.Context, conn *alknet.Identity, token string, delegated bool) (alknet.Identity, error) {
	if s.h.Authenticate == nil {
		return alknet.Identity{}, errNoAuthenticate
	}
	if delegated {
		return s.verdicts.delegated(ctx, s.h.Authenticate, conn, token)
	}
	id, err := s.h.Authenticate(ctx, cloneIdentity(*conn), token)
	if err == nil && id.ID == "" {
		err = fmt.Errorf("a token of nobody")
	}
	return id, err
}
