package call

import (
	"context"
	"errors"
	"io"

	"github.com/alkdev/alknet/call/codes"
)

// A calleeEnd is the callee's end of a call.
type calleeEnd inCall

// recv returns the next input.
func (x *calleeEnd) recv() (item, error) {
	c := (*inCall)(x)
	if !c.inputs && !c.meta.rawInput {
		if c.gotInput {
			return item{}, io.EOF
		}
		c.gotInput = true
		return item{data: c.oneInput()}, nil
	}
	if !c.inputs && c.gotInput {
		return item{}, io.EOF
	}
	it, err := c.box.next(&c.ctx)
	if err != nil {
		if e := c.ctx.Err(); e != nil && !errors.Is(err, io.EOF) {
			return item{}, ctxError(e)
		}
		return item{}, err
	}
	c.gotInput = true
	c.consumed(it)
	if !it.raw && c.inputs {
		if err := c.entry.checkInput(it.data); err != nil {
			return item{}, err
		}
	}
	return it, nil
}

// oneInput is the input as the operation wants it: one that is absent is null,
// or an object without members where only an object will do.
func (c *inCall) oneInput() []byte {
	if c.input != nil {
		return c.input
	}
	if sh := c.entry.op.Func.shape; sh != nil && sh.object && !sh.null {
		return emptyObject
	}
	return nullValue
}

var emptyObject = []byte("{}")

// send sends an output, or keeps the answer of a unary call.
func (x *calleeEnd) send(data []byte, raw, checked bool) error {
	c := (*inCall)(x)
	if !raw && len(data) == 0 {
		data = nullValue
	}
	if err := checkJSON(data, raw, checked); err != nil {
		return err
	}
	if most := c.entry.op.MaxOutputBytes; int64(len(data)) > c.s.outputLimit(most) {
		e := limitError("max_output_bytes", c.s.outputLimit(most))
		return e.ran(runYes)
	}
	if c.done.Load() {
		return c.whyOver()
	}
	if c.items {
		return c.sendItem(data, raw)
	}
	if c.answered {
		return errorf(codes.Internal, "a second answer to a unary call")
	}
	c.answered, c.replyRaw = true, raw
	if c.replyBuf == nil {
		c.replyBuf = frames.Get().(*[]byte)
		c.reply = (*c.replyBuf)[:0]
	}
	c.reply = append(c.reply[:0], data...)
	return nil
}

// whyOver is what a handler hears that sends after the end.
func (c *inCall) whyOver() error {
	c.ctx.cancel(context.Canceled) // whoever ended the call is about to
	return ctxError(c.ctx.Err())
}

func (x *calleeEnd) closeSend() error { return nil }

func (x *calleeEnd) cancel(err *Error) { (*inCall)(x).endWith(err) }
