package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"iter"
	"strings"

	"github.com/alkdev/alknet"
	h "github.com/alkdev/alknet/bench/internal/harness"
	"github.com/alkdev/alknet/call"
)

// alknet-{quic,raw}[-typed|-bytes]: package call with access control, deadlines
// and schemas on. The echo's body is any JSON value, scanned on both sides, as
// the other stacks carry bytes; "typed" decodes and encodes a struct in the
// handler and at the caller, "bytes" sends raw frames.

// body is what JSONPayload makes.
type body struct {
	User string `json:"user"`
	Seq  int    `json:"seq"`
	OK   bool   `json:"ok"`
	Body string `json:"body"`
}

type items struct {
	Stream int `json:"stream"`
	Size   int `json:"size"`
}

func echo[T any](_ context.Context, in T) (T, error) { return in, nil }

func produce(_ context.Context, in items) iter.Seq2[json.RawMessage, error] {
	p := json.RawMessage(h.JSONPayload(in.Size))
	return func(yield func(json.RawMessage, error) bool) {
		for range in.Stream {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func produceBytes(_ context.Context, in items) iter.Seq2[[]byte, error] {
	p := h.JSONPayload(in.Size)
	return func(yield func([]byte, error) bool) {
		for range in.Stream {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func alknetServe(string) string {
	var reg call.Registry
	access := alknet.AccessControl{RequiredScopes: []string{"echo:call"}}
	h.Must(reg.Register(
		call.Operation{Name: "echo/json", Func: call.QueryFunc(echo[json.RawMessage]), Access: access},
		call.Operation{Name: "echo/typed", Func: call.QueryFunc(echo[body]), Access: access},
		call.Operation{Name: "echo/bytes", Func: call.QueryFunc(echo[[]byte]), Access: access},
		call.Operation{Name: "items/json", Func: call.SubscriptionFunc(produce), Access: access},
		call.Operation{Name: "items/bytes", Func: call.SubscriptionFunc(produceBytes), Access: access},
	))
	ep, err := alknet.Listen(bg, "127.0.0.1:0", nil)
	h.Must(err)
	router := &alknet.Router{Authenticate: func(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
		return alknet.Identity{ID: "bench", Scopes: []string{"echo:call"}}, nil
	}}
	h.Must(router.Register(call.Service(&call.Handler{Registry: &reg})))
	go router.Serve(ep)
	return ep.Addr().String()
}

func alknetDial(p, addr string, _ int) (func([]byte) ([]byte, error), func(int, int) error) {
	ep, err := alknet.NewEndpoint(nil, nil, nil)
	h.Must(err)
	to, err := alknet.ParseAddr(addr)
	h.Must(err)
	to.Over = alknet.QUIC
	if strings.Contains(p, "-raw") {
		to.Over = alknet.Raw
	}
	c, err := call.Dial(bg, ep, to, nil)
	h.Must(err)
	h.Must(c.Settled(bg))
	unary := func(b []byte) ([]byte, error) {
		return call.Call[json.RawMessage](bg, c, "echo/json", json.RawMessage(b))
	}
	op := "items/json"
	switch {
	case strings.Contains(p, "-typed"):
		unary = func(b []byte) ([]byte, error) {
			out, err := call.Call[body](bg, c, "echo/typed", body{User: "u-1029384756", Seq: 12345, OK: true, Body: bodyOf(b)})
			if err == nil && len(out.Body) != len(bodyOf(b)) {
				err = fmt.Errorf("a body of %d bytes came back", len(out.Body))
			}
			return b, err
		}
	case strings.Contains(p, "-bytes"):
		op = "items/bytes"
		unary = func(b []byte) ([]byte, error) { return call.Call[[]byte](bg, c, "echo/bytes", b) }
	}
	return unary, func(n, size int) error {
		got := 0
		s, err := c.Open(bg, op, call.Options{Type: call.Subscription})
		if err != nil {
			return err
		}
		if err := s.Send(streamReqBytes(n, size), false); err != nil {
			return err
		}
		for {
			data, _, err := s.Recv()
			if err != nil {
				break
			}
			if len(data) != size {
				return fmt.Errorf("an item of %d bytes", len(data))
			}
			got++
		}
		return want(got, n)
	}
}

// bodyOf is the text of JSONPayload.
func bodyOf(b []byte) string {
	const before = len(`{"user":"u-1029384756","seq":12345,"ok":true,"body":"`)
	return string(b[before : len(b)-2])
}
