package demo

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet/call"
)

// Sum is the input of demo/add.
type Sum struct {
	A int `json:"a"` // one number
	B int `json:"b"` // the other
}

// Count is the input of demo/count.
type Count struct {
	N     int `json:"n"`      // items
	GapMS int `json:"gap_ms"` // between them
}

// Item is one of its outputs.
type Item struct {
	I    int    `json:"i"`    // from 1
	From string `json:"from"` // who counted
}

// Uploaded is the output of demo/upload.
type Uploaded struct {
	Items int `json:"items"` // how many
	Bytes int `json:"bytes"` // in all
}

// operations are what head and workers serve. who is the name of the node, and
// sleeping counts the calls of demo/sleep that have begun.
func operations(who string, sleeping *atomic.Int64) []call.Operation {
	var notes atomic.Int64
	add := func(_ context.Context, in Sum) (int, error) { return in.A + in.B, nil }
	note := func(context.Context, struct{}) (int64, error) { return notes.Add(1), nil }
	name := func(context.Context, struct{}) (string, error) { return who, nil }
	sleep := func(ctx context.Context, in Count) (string, error) {
		sleeping.Add(1)
		return who, pause(ctx, time.Duration(in.GapMS)*time.Millisecond)
	}
	count := func(ctx context.Context, in Count) iter.Seq2[Item, error] {
		return func(yield func(Item, error) bool) {
			r, _ := call.RequestFromContext(ctx)
			for i := int(r.After) + 1; i <= in.N; i++ {
				if err := pause(ctx, time.Duration(in.GapMS)*time.Millisecond); err != nil || !yield(Item{i, who}, nil) {
					return
				}
			}
		}
	}
	return []call.Operation{
		{Name: "demo/add", Description: "adds two numbers", Func: call.QueryFunc(add)},
		{Name: "demo/note", Description: "counts how often it ran", Func: call.MutationFunc(note)},
		{Name: "demo/name", Description: "says who answers", Func: call.QueryFunc(name)},
		{Name: "demo/sleep", Description: "answers after gap_ms", Func: call.QueryFunc(sleep)},
		{Name: "demo/count", Description: "counts from 1 to n", Resumable: true, Func: call.SubscriptionFunc(count)},
		{Name: "demo/upload", Description: "counts what it is sent", Func: call.UploadFunc(upload)},
	}
}

func upload(_ context.Context, in iter.Seq2[[]byte, error]) (u Uploaded, err error) {
	for b, err := range in {
		if err != nil {
			return u, err
		}
		u.Items++
		u.Bytes += len(b)
	}
	return u, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A mismatch is a step that went otherwise than it should.
type mismatch struct{ expected, got string }

// Error says both.
func (m *mismatch) Error() string { return "expected " + m.expected + ", got " + m.got }

// want returns a mismatch unless ok.
func want(ok bool, expected, format string, args ...any) error {
	if ok {
		return nil
	}
	return &mismatch{expected, fmt.Sprintf(format, args...)}
}

var errNoWorker = errors.New("no worker came up")
