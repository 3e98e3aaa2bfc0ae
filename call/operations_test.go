package call_test

import (
	"context"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
)

type sum struct {
	A int `json:"a"`
	B int `json:"b"`
}

func add(_ context.Context, in sum) (int, error) { return in.A + in.B, nil }

func count(_ context.Context, n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i+1, nil) {
				return
			}
		}
	}
}

// mathOps are the operations of the examples in docs/protocol.md.
func mathOps() []call.Operation {
	return []call.Operation{
		{Name: "math/add", Description: "adds two integers", Func: call.QueryFunc(add)},
		{Name: "math/count", Func: call.SubscriptionFunc(count)},
	}
}

// requireCode fails the test unless err is an Error of a code, which it returns.
func requireCode(t testing.TB, code string, err error) *call.Error {
	t.Helper()
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code, "%v", err)
	return e
}
