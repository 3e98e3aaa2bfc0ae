package call

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"

	"github.com/alkdev/alknet/call/codes"
)

// Call calls a query or a mutation. In and Out are encoded as encoding/json
// does, []byte travels raw where the peer can take it. A ctx without a deadline
// gives the call 30 seconds; when ctx ends the call is aborted. The error is an
// [*Error].
func Call[Out, In any](ctx context.Context, c Caller, op string, in In) (Out, error) {
	var out Out
	buf := getBuffer()
	defer putBuffer(buf)
	data, raw, err := encodeInput(buf, &in)
	if err != nil {
		return out, errorf(codes.InvalidInput, "the input cannot be encoded").ran(runNo).because(err)
	}
	err = call(ctx, c, op, unaryInput{data, raw}, &out)
	return out, err
}

// unaryInput is an input that was encoded.
type unaryInput struct {
	data []byte
	raw  bool
}

// call makes a unary call with as little as possible in between.
func call(ctx context.Context, c Caller, op string, in unaryInput, out any) error {
	var o Options
	if w, ok := c.(optioned); ok {
		c, o = w.c, w.o
	}
	if cl, ok := c.(*Client); ok {
		return cl.unary(ctx, strings.TrimPrefix(op, "/"), o, in, out)
	}
	s, err := c.Open(ctx, op, o)
	if err != nil {
		return err
	}
	if err := s.sendChecked(in.data, in.raw); err != nil {
		s.Cancel(nil)
		return err
	}
	return receiveAnswer(s, out)
}

// receiveAnswer receives the one output of a call.
func receiveAnswer(s *Stream, out any) error {
	data, raw, err := s.Recv()
	if errors.Is(err, io.EOF) {
		return errorf(codes.InvalidOperationType, "the operation answers with a stream").ran(runYes)
	}
	if err != nil {
		s.Cancel(nil)
		return err
	}
	return decodeOutput(data, raw, out)
}

// Subscribe calls a subscription and yields its items. Leaving the loop aborts
// the call; an error is yielded once, as the last.
func Subscribe[Out, In any](ctx context.Context, c Caller, op string, in In) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		var zero Out
		buf := getBuffer()
		data, raw, err := encodeInput(buf, &in)
		if err != nil {
			putBuffer(buf)
			yield(zero, errorf(codes.InvalidInput, "the input cannot be encoded").ran(runNo).because(err))
			return
		}
		s, err := c.Open(ctx, op, Options{Type: Subscription})
		if err == nil {
			err = s.sendChecked(data, raw)
		}
		putBuffer(buf)
		if err != nil {
			if s != nil {
				s.Cancel(nil)
			}
			yield(zero, err)
			return
		}
		defer s.Cancel(nil) // nothing, once it has ended
		receiveOutputs(s, yield)
	}
}

// receiveOutputs yields what arrives.
func receiveOutputs[Out any](s *Stream, yield func(Out, error) bool) {
	for {
		var out Out
		data, raw, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = decodeOutput(data, raw, &out)
		}
		if !yield(out, err) || err != nil {
			return
		}
	}
}

// Upload calls a mutation whose input is a stream. An error that in yields
// aborts the call and is returned.
func Upload[Out, In any](ctx context.Context, c Caller, op string, in iter.Seq2[In, error]) (Out, error) {
	var out Out
	s, err := c.Open(ctx, op, Options{Type: Mutation, InputStream: true})
	if err != nil {
		return out, err
	}
	if err := sendInputs(s, in); err != nil {
		s.Cancel(nil)
		return out, err
	}
	return out, receiveAnswer(s, &out)
}

// sendInputs sends what in yields, and the end. Once the callee has ended the
// call it stops: receiving says how.
func sendInputs[In any](s *Stream, in iter.Seq2[In, error]) error {
	for v, err := range in {
		if err != nil {
			return err
		}
		if err := sendInput(s, &v); err != nil {
			if e, ok := errors.AsType[*Error](err); ok && e.Code == codes.Cancelled {
				return nil
			}
			return err
		}
	}
	return s.CloseSend()
}

func sendInput[In any](s *Stream, v *In) error {
	buf := getBuffer()
	defer putBuffer(buf)
	data, raw, err := encodeInput(buf, v)
	if err != nil {
		return errorf(codes.InvalidInput, "the input cannot be encoded").ran(runUnknown).because(err)
	}
	return s.sendChecked(data, raw)
}

// Exchange calls a subscription whose input is a stream too. in is read in a
// goroutine, which ends at in's next item once the iteration is over.
func Exchange[Out, In any](ctx context.Context, c Caller, op string, in iter.Seq2[In, error]) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		var zero Out
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.Open(ctx, op, Options{Type: Subscription, InputStream: true})
		if err != nil {
			yield(zero, err)
			return
		}
		inBackground(func() error { return sendInputs(s, in) }, func(err error) { s.Cancel(asError(err)) })
		defer s.Cancel(nil) // nothing, once it has ended
		receiveOutputs(s, yield)
	}
}
