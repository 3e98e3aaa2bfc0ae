package call

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet/internal/strictjson"
)

// What is wrong with an envelope.
var (
	errEnvelope = errors.New("not one envelope of type, id and payload")
	errRequest  = errors.New("not the payload of a request")
)

// envelope is a frame in any order of members.
type envelope struct {
	Type    *string        `json:"type"`
	ID      *string        `json:"id"`
	Payload jsontext.Value `json:"payload"`
}

// requestBody is the payload of call.requested in any order of members.
type requestBody struct {
	OperationID    *string        `json:"operationId"`
	Input          jsontext.Value `json:"input"`
	AuthToken      string         `json:"auth_token"`
	ForwardedFor   jsontext.Value `json:"forwarded_for"`
	DeadlineMS     *uint64        `json:"deadline_ms"`
	Traceparent    string         `json:"traceparent"`
	Tracestate     string         `json:"tracestate"`
	IdempotencyKey *string        `json:"idempotency_key"`
	Window         *uint64        `json:"window"`
	InputStream    bool           `json:"input_stream"`
	RawInput       bool           `json:"raw_input"`
	Resumable      bool           `json:"resumable"`
	Resume         *struct {
		After uint64 `json:"after"`
		Token string `json:"token"`
	} `json:"resume"`
	Hops       uint32   `json:"hops"`
	Path       []string `json:"path"`
	Delegation string   `json:"delegation"`
}

// parseAny reads a frame with the strict decoder.
func (ev *event) parseAny(frame []byte, req *request) *badEnvelope {
	*ev = event{}
	var e envelope
	err := strictjson.Decode(frame, &e)
	if e.ID != nil { // as far as it was read
		ev.id = []byte(*e.ID)
	}
	if err != nil {
		return &badEnvelope{id: ev.salvage(frame), why: err}
	}
	if e.Type != nil {
		ev.typ = eventTypeOf([]byte(*e.Type))
	}
	if e.Type == nil || e.ID == nil || e.Payload == nil || len(*e.ID) > maxIDBytes || *e.ID == "" && ev.typ != evDraining {
		return &badEnvelope{id: ev.salvage(nil), why: errEnvelope}
	}
	ev.payload = e.Payload
	switch ev.typ {
	case evRequested:
		*req = request{}
		ev.req = req
		if err := ev.anyRequest(e.Payload, req); err != nil {
			return &badEnvelope{id: ev.id, why: err}
		}
	case evResponded, evItem:
		if err := ev.anyItem(e.Payload); err != nil {
			return &badEnvelope{id: ev.id, why: err}
		}
	}
	return nil
}

// salvage is the id of a frame that is wrong, if it can be told; frame nil: the
// one that was read.
func (ev *event) salvage(frame []byte) []byte {
	if frame == nil {
		if validID(ev.id) {
			return ev.id
		}
		return nil
	}
	if b, ok := cut(frame, preType); ok {
		if _, b, ok = cutText(b, 32); ok {
			if b, ok = cut(b, preID[1:]); ok {
				if id, _, ok := cutText(b, maxIDBytes); ok && len(id) > 0 {
					return id
				}
			}
		}
	}
	if validID(ev.id) {
		return ev.id
	}
	return nil
}

func (ev *event) anyRequest(payload jsontext.Value, req *request) error {
	var body requestBody
	if payload.Kind() != '{' {
		return errRequest
	}
	if err := strictjson.Decode(payload, &body); err != nil {
		return err
	}
	if body.OperationID == nil {
		return fmt.Errorf("%w: no operationId", errRequest)
	}
	req.op = []byte(strings.TrimPrefix(*body.OperationID, "/"))
	ev.data = absentNull(body.Input)
	if body.DeadlineMS != nil {
		req.deadline = clampMillis(*body.DeadlineMS)
	}
	if body.Window != nil {
		req.window = clampBytes(*body.Window)
	}
	req.inputs, req.rawInput, req.resumable = body.InputStream, body.RawInput, body.Resumable
	req.hops = int(min(body.Hops, 1<<20))
	x := &rare{
		token: []byte(body.AuthToken), claimed: absentNull(body.ForwardedFor), trace: []byte(body.Traceparent), state: []byte(body.Tracestate),
		path: body.Path, delegation: []byte(body.Delegation),
	}
	req.some = x
	if body.IdempotencyKey != nil {
		if x.key = []byte(*body.IdempotencyKey); len(x.key) == 0 || len(x.key) > maxIdempotencyKeyBytes || !printableASCII(x.key) {
			return fmt.Errorf("%w: an idempotency_key has 1 to %d printable ASCII bytes", errRequest, maxIdempotencyKeyBytes)
		}
	}
	if body.Resume != nil {
		req.resumes, req.after, x.resume = true, body.Resume.After, []byte(body.Resume.Token)
	}
	if len(x.token) > maxTokenBytes || len(x.resume) > maxResumeTokenBytes {
		return fmt.Errorf("%w: a token is too long", errRequest)
	}
	return nil
}

// absentNull makes a null an absent value: both mean the same.
func absentNull(v jsontext.Value) []byte {
	if string(v) == "null" {
		return nil
	}
	return v
}

// printableASCII reports whether every byte is a visible character or a space.
func printableASCII(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

func (ev *event) anyItem(payload jsontext.Value) error {
	var body struct {
		Output jsontext.Value `json:"output"`
		Input  jsontext.Value `json:"input"`
		Seq    uint64         `json:"seq"`
		Token  string         `json:"token"`
	}
	if payload.Kind() == 'n' {
		return nil
	}
	if err := strictjson.Decode(payload, &body); err != nil {
		return err
	}
	ev.seq, ev.token = body.Seq, []byte(body.Token)
	if ev.data = absentNull(body.Output); ev.typ == evItem {
		ev.data = absentNull(body.Input)
	}
	return nil
}
