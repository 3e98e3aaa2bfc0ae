package peer

import (
	"context"

	"github.com/alkdev/alknet/call"
)

// A through is a routed call whose input is a stream: once it has begun it stays
// with its peer, since nobody keeps what was sent.
type through struct {
	*call.Stream
	a     attempt
	items bool // several outputs
}

// openThrough opens the call at the first peer that takes it.
func (c *caller) openThrough(ctx context.Context, sel selection, o call.Options) (*call.Stream, error) {
	for n := 1; ; n++ {
		of, l, err := sel.pick(ctx, sel.ref.wait(o.Type), func() <-chan struct{} { return nil })
		if err != nil {
			return nil, err
		}
		t := &through{a: attempt{of: of, l: l}, items: o.Type == call.Subscription}
		t.a.owner = t
		sel.tried = append(sel.tried, triedLink{of.n, l.gen})
		err = t.a.open(ctx, &sel, o)
		if err == nil {
			t.Stream = t.a.st
			return carry(t), nil
		}
		if f, _ := faultOf(err); f != unsent || n >= sel.ref.attempts() {
			return nil, via(err, of.n.id)
		}
	}
}

// Send hands an input on.
func (t *through) Send(data []byte, raw bool) error { return t.SendChecked(data, raw) }

// Recv returns the next output.
func (t *through) Recv() (data []byte, raw bool, err error) {
	data, raw, err = t.Stream.Recv()
	if err != nil || !t.items {
		t.a.end(err)
		err = via(err, t.a.of.n.id)
	}
	return data, raw, err
}

// Cancel ends the call.
func (t *through) Cancel(err *call.Error) {
	t.Stream.Cancel(err)
	t.a.end(err)
}

func (t *through) trouble(*attempt, string) {}
