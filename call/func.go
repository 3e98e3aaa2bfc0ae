package call

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"reflect"
)

// A Func is what runs: made from a Go function with its schemas inferred, or
// filled in by an adapter.
type Func struct {
	// Type is how often it answers.
	Type OpType
	// InputStream: the caller sends a stream: an upload (a Mutation), or an
	// exchange (a Subscription).
	InputStream bool
	// Input and Output are the JSON Schema (2020-12) of one item; nil: anything.
	Input, Output json.RawMessage
	// Check judges one input, one strict JSON value, before Serve gets it. Package
	// call/schema makes one of Input, which needs one unless it was inferred. An
	// *Error is what the caller hears; any other is INVALID_INPUT.
	Check func(input []byte) error
	// Serve runs it.
	Serve HandlerFunc

	err     error  // why no schema could be inferred
	shape   *shape // of an input whose schema was inferred
	forward bool   // the peer checks the input

	handOn func(r *Request) hop // nil: Serve serves
}

// A HandlerFunc serves one call. It returns nil once it has answered (a unary
// call without an answer is answered null), or the error of the call. It must
// end soon after ctx does. A panic costs that call only.
type HandlerFunc func(ctx context.Context, s *Stream) error

// A Middleware wraps the handler of an operation; the first in a list runs
// first. It runs after the gate has let the call in.
type Middleware func(op *Operation, next HandlerFunc) HandlerFunc

// QueryFunc makes a Query of f. The schemas are those of In and Out: []byte
// travels raw where the peer can, json.RawMessage is anything. A type that
// refers to itself has no inferred schema: set Func.Input and Func.Output of
// the result, else Register refuses the operation.
func QueryFunc[In, Out any](f func(context.Context, In) (Out, error)) Func {
	return unaryFunc(Query, f)
}

// MutationFunc makes a Mutation of f, as [QueryFunc] does.
func MutationFunc[In, Out any](f func(context.Context, In) (Out, error)) Func {
	return unaryFunc(Mutation, f)
}

func unaryFunc[In, Out any](t OpType, f func(context.Context, In) (Out, error)) Func {
	return inferred[In, Out](Func{Type: t, Serve: func(ctx context.Context, s *Stream) error {
		var in In
		if err := receiveOnly(s, &in); err != nil {
			return err
		}
		out, err := f(ctx, in)
		if err != nil {
			return err
		}
		return send(s, &out)
	}})
}

// SubscriptionFunc makes a Subscription of f: each value that it yields is an
// item, an error ends the call, and it is stopped when the caller leaves. An
// Out with a method ResumeToken() string gives each item a token to resume by.
func SubscriptionFunc[In, Out any](f func(context.Context, In) iter.Seq2[Out, error]) Func {
	return inferred[In, Out](Func{Type: Subscription, Serve: func(ctx context.Context, s *Stream) error {
		var in In
		if err := receiveOnly(s, &in); err != nil {
			return err
		}
		return sendAll(s, f(ctx, in))
	}})
}

// UploadFunc makes a Mutation whose input is a stream. The items end with the
// caller's last one, or with an error that f returns. What f leaves unread is
// refused.
func UploadFunc[In, Out any](f func(context.Context, iter.Seq2[In, error]) (Out, error)) Func {
	return inferred[In, Out](Func{Type: Mutation, InputStream: true, Serve: func(ctx context.Context, s *Stream) error {
		out, err := f(ctx, receiveAll[In](s))
		if err != nil {
			return err
		}
		return send(s, &out)
	}})
}

// ExchangeFunc makes a Subscription whose input is a stream too.
func ExchangeFunc[In, Out any](f func(context.Context, iter.Seq2[In, error]) iter.Seq2[Out, error]) Func {
	return inferred[In, Out](Func{Type: Subscription, InputStream: true, Serve: func(ctx context.Context, s *Stream) error {
		return sendAll(s, f(ctx, receiveAll[In](s)))
	}})
}

// inferred fills in the schemas.
func inferred[In, Out any](f Func) Func {
	var err error
	if f.Input, f.shape, err = inferSchema(reflect.TypeFor[In]()); err == nil {
		f.Output, _, err = inferSchema(reflect.TypeFor[Out]())
	}
	f.err = err
	return f
}

// receiveOnly decodes the one input of a call.
func receiveOnly(s *Stream, v any) error {
	data, raw, err := s.Recv()
	if errors.Is(err, io.EOF) {
		data, err = nullValue, nil // the caller sent nothing
	}
	if err != nil {
		return err
	}
	return s.decodeInput(data, raw, v)
}

// receiveAll yields the input items of a call.
func receiveAll[In any](s *Stream) iter.Seq2[In, error] {
	return func(yield func(In, error) bool) {
		for {
			var in In
			data, raw, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				err = s.decodeInput(data, raw, &in)
			}
			if !yield(in, err) || err != nil {
				return
			}
		}
	}
}

// A tokener is an item that a subscription can be resumed after.
type tokener interface{ ResumeToken() string }

// sendAll sends the items of a stream.
func sendAll[Out any](s *Stream, items iter.Seq2[Out, error]) error {
	var out Out // one for all items: each would be allocated
	_, tokens := any(out).(tokener)
	for item, err := range items {
		if err != nil {
			return err
		}
		out = item
		if tokens {
			s.setToken(any(out).(tokener).ResumeToken())
		}
		if err := send(s, &out); err != nil {
			return err
		}
	}
	return nil
}

// send encodes a value and sends it.
func send[T any](s *Stream, v *T) error {
	switch v := any(v).(type) {
	case *[]byte:
		return s.Send(*v, true)
	case *json.RawMessage:
		return s.Send(*v, false)
	}
	buf := getBuffer()
	defer putBuffer(buf)
	if err := encode(buf, v); err != nil {
		return internal(err)
	}
	return s.sendChecked(buf.Bytes(), false)
}
