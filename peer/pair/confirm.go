package pair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// confirmTime is how long a join waits for approval.
const confirmTime = 10 * time.Minute

// maxPending is how many joins may wait.
const maxPending = 256

// A waiter is a join that waits for approval.
type waiter struct {
	who Joining
	okc chan struct{} // closed by Approve
}

// confirmed waits until somebody approves the join.
func (h *Handler) confirmed(ctx context.Context, r *call.Request, in *joinInput) error {
	key := r.Caller.Peer
	code := codeOf(h.Head, key, in.Secret)
	w := &waiter{who: Joining{Name: in.Name, Addrs: in.Addrs, Labels: in.Labels, Code: code, Key: key}, okc: make(chan struct{})}
	h.mu.Lock()
	if len(h.pending) >= maxPending || h.pending[code] != nil {
		h.mu.Unlock()
		return (&call.Error{Code: codes.ResourceExhausted, Message: "too many joins wait", Retryable: true}).NotRun()
	}
	h.pending[code] = w
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.pending, code)
		h.mu.Unlock()
	}()
	r.Notice("confirm", []byte(`{"code":"`+code+`"}`))
	select {
	case <-w.okc:
		return nil
	case <-ctx.Done():
		return (&call.Error{Code: codes.Timeout, Message: "nobody approved", Retryable: true, Err: ctx.Err()}).NotRun()
	}
}

// Pending are the joins that wait for approval, sorted by code.
func (h *Handler) Pending() []Joining {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Joining
	for _, w := range h.pending {
		list = append(list, w.who)
	}
	slices.SortFunc(list, func(a, b Joining) int { return strings.Compare(a.Code, b.Code) })
	return list
}

// errNoJoin is a code that nobody waits with.
var errNoJoin = errors.New("pair: no join waits with this code")

// Approve lets a join in that waits with code, after somebody has compared the
// code at both ends.
func (h *Handler) Approve(code string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.pending[code]
	if w == nil {
		return fmt.Errorf("%w", errNoJoin)
	}
	delete(h.pending, code)
	close(w.okc)
	return nil
}
