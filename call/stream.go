package call

import (
	"context"
	"errors"
	"io"

	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/internal/strictjson"
)

// A Stream is one end of a call: the caller's, from a [Caller], or the
// callee's, given to a [HandlerFunc]. A unary call is a stream of one item each
// way. One goroutine may receive while another sends; Cancel may be called at
// any time.
type Stream struct {
	end   streamEnd
	seq   uint64 // of the item last received
	token string // its resume token
	next  string // resume token of the item that is sent next
}

// A streamEnd is what carries one end of a call.
type streamEnd interface {
	// recv returns the next item, io.EOF after the last, or the call's error.
	recv() (item, error)
	// send sends an item; checked: its JSON was checked before.
	send(data []byte, raw, checked bool) error
	closeSend() error
	cancel(err *Error)
}

// Recv returns the next item: the input at the callee, an output at the caller.
// data is JSON, or bytes where raw is set, and is valid until the next Recv, at
// a callee at most until its handler returns. After the last item the error is
// io.EOF; a call that failed ends with an [*Error].
func (s *Stream) Recv() (data []byte, raw bool, err error) {
	it, err := s.end.recv()
	if err != nil {
		return nil, false, err
	}
	s.seq, s.token = it.seq, string(it.token)
	return it.data, it.raw, nil
}

// Last is the number and the resume token of the item last received: what
// [Options] After and ResumeToken take.
func (s *Stream) Last() (seq uint64, token string) { return s.seq, s.token }

// Send sends an item: an output at the callee, an input at the caller. data is
// one JSON value, or any bytes with raw, and may be used again when Send
// returns. It blocks while the receiver grants no credit. At a caller whose
// operation takes one input, the first Send starts the call and there is no
// second; at the callee of a unary call what was sent is its answer once the
// handler returns without an error. Send fails once the call is over.
func (s *Stream) Send(data []byte, raw bool) error { return s.end.send(data, raw, false) }

// sendChecked is Send of JSON that is known to be one strict value.
func (s *Stream) sendChecked(data []byte, raw bool) error { return s.end.send(data, raw, true) }

// setToken gives the next item a token to resume by.
func (s *Stream) setToken(token string) { s.next = token }

// CloseSend tells the callee that no more input comes. At a callee it does
// nothing.
func (s *Stream) CloseSend() error { return s.end.closeSend() }

// Cancel ends the call; the other side sees err, whose code is CANCELLED for a
// nil one. What was over already stays as it was. A caller that does not receive
// a Stream to its end cancels it.
func (s *Stream) Cancel(err *Error) {
	if err == nil {
		err = errorf(codes.Cancelled, "cancelled").ran(runUnknown)
	}
	s.end.cancel(err)
}

// Forward serves the call by making the same call of op at to: every item is
// handed on as its bytes, undecoded, at the pace of the slower side, an abort
// and the deadline reach the other side, and its error comes back as it is.
// o.Trace, IdempotencyKey, After and ResumeToken are those of the Request in
// ctx where they are not set.
func (s *Stream) Forward(ctx context.Context, to Caller, op string, o Options) error {
	if r, ok := RequestFromContext(ctx); ok {
		o = r.onward(o)
		r.c.forwarded = true
	}
	out, err := to.Open(ctx, op, o)
	if err != nil {
		return err
	}
	defer out.Cancel(nil) // does nothing once it has ended
	if !o.InputStream {
		return s.handTo(out)
	}
	r, ok := RequestFromContext(ctx)
	if !ok {
		return errorf(codes.Internal, "forward: no request in the context")
	}
	r.c.spawn(func(context.Context) error {
		for {
			if err := forwardItem(s, out); err != nil {
				if errors.Is(err, io.EOF) || r.c.over() {
					return nil
				}
				out.Cancel(asError(err))
				return nil
			}
		}
	})
	err = forwardOutputs(s, out)
	r.c.stopInput()
	return err
}

// handTo hands the one input on, and what comes of it back.
func (s *Stream) handTo(out *Stream) error {
	if err := forwardItem(s, out); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return forwardOutputs(s, out)
}

// forwardItem hands one input on; io.EOF: it was the last.
func forwardItem(from, to *Stream) error {
	data, raw, err := from.Recv()
	if errors.Is(err, io.EOF) {
		if cerr := to.CloseSend(); cerr != nil {
			return cerr
		}
		return err
	}
	if err != nil {
		return err
	}
	return to.sendChecked(data, raw)
}

// forwardOutputs hands all outputs on.
func forwardOutputs(to, from *Stream) error {
	for {
		data, raw, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if from.token != "" {
			to.setToken(from.token)
		}
		if err := to.sendChecked(data, raw); err != nil {
			return err
		}
	}
}

// wireID is the id of a call that went over a connection; "": of any other.
func (s *Stream) wireID() string {
	if c, ok := s.end.(*outCall); ok && c.begun {
		return string(c.appendID(nil))
	}
	return ""
}

// checkJSON refuses what would break a frame.
func checkJSON(data []byte, raw, checked bool) error {
	if raw || checked {
		return nil
	}
	if err := strictjson.Check(data); err != nil {
		return errorf(codes.Internal, "what is sent is not one JSON value").because(err)
	}
	return nil
}
