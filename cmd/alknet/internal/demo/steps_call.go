package demo

import (
	"context"
	"fmt"
	"iter"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// overBoth runs f over QUIC and over TLS on TCP.
func (w *world) overBoth(ctx context.Context, f func(*call.Client) error) error {
	for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
		c, err := w.dial(ctx, over)
		if err != nil {
			return fmt.Errorf("over %v: %w", over, err)
		}
		if got := c.Conn().Transport(); got != over {
			_ = c.Close() // it is the wrong one
			return &mismatch{over.String(), got.String()}
		}
		err = f(c)
		_ = c.Close() // the answers have come
		if err != nil {
			return fmt.Errorf("over %v: %w", over, err)
		}
	}
	return nil
}

func (w *world) stepUnary(ctx context.Context) (outcome, error) {
	var notes []int64
	err := w.overBoth(ctx, func(c *call.Client) error {
		sum, err := call.Call[int](ctx, c, "demo/add", Sum{2, 3})
		if err != nil {
			return err
		}
		if err := want(sum == 5, "2 + 3 = 5", "%d", sum); err != nil {
			return err
		}
		n, err := call.Call[int64](ctx, c, "demo/note", struct{}{})
		notes = append(notes, n)
		return err
	})
	if err == nil {
		err = want(len(notes) == 2 && notes[0] == 1 && notes[1] == 2, "the mutation ran once each time", "%v", notes)
	}
	return outcome{"QUIC, TCP", "2 + 3 = 5; each mutation ran once"}, err
}

func (w *world) stepSubscription(ctx context.Context) (outcome, error) {
	const n = 1000
	err := w.overBoth(ctx, func(c *call.Client) error {
		next := 1
		for item, err := range call.Subscribe[Item](ctx, c, "demo/count", Count{N: n}) {
			if err != nil {
				return err
			}
			if err := want(item.I == next, fmt.Sprint(next), "%d", item.I); err != nil {
				return err
			}
			next++
		}
		return want(next == n+1, "1,000 items", "%d", next-1)
	})
	return outcome{"QUIC, TCP", "1,000 items in order, twice"}, err
}

func (w *world) stepUpload(ctx context.Context) (outcome, error) {
	const chunks, size = 128, 64 << 10
	var send iter.Seq2[[]byte, error] = func(yield func([]byte, error) bool) {
		chunk := make([]byte, size)
		for range chunks {
			if !yield(chunk, nil) {
				return
			}
		}
	}
	err := w.overBoth(ctx, func(c *call.Client) error {
		u, err := call.Upload[Uploaded](ctx, c, "demo/upload", send)
		if err != nil {
			return err
		}
		return want(u.Items == chunks && u.Bytes == chunks*size, "8 MiB in 128 items", "%d bytes in %d items", u.Bytes, u.Items)
	})
	return outcome{"QUIC, TCP", "8 MiB in 128 items, twice"}, err
}
