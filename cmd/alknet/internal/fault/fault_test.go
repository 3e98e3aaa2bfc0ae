package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/vault"
)

// TestExitStatuses has a row for each code of connections and of calls.
func TestExitStatuses(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{&alknet.Error{Code: alknet.CodeInternal}, Remote},
		{&alknet.Error{Code: alknet.CodeRefused}, Denied},
		{&alknet.Error{Code: alknet.CodeUnauthenticated}, Denied},
		{&alknet.Error{Code: alknet.CodeRevoked}, Denied},
		{&alknet.Error{Code: alknet.CodeLimit}, Busy},
		{&alknet.Error{Code: alknet.CodeShutdown}, Unreachable},
		{&alknet.Error{Code: alknet.CodeProtocol}, Remote},
		{fmt.Errorf("dial: %w", alknet.ErrNoService), NotServed},
		{&call.Error{Code: codes.NotFound}, NotServed},
		{&call.Error{Code: codes.InvalidOperationType}, NotServed},
		{&call.Error{Code: codes.Forbidden}, Denied},
		{&call.Error{Code: codes.Unauthenticated}, Denied},
		{&call.Error{Code: codes.InvalidInput}, Usage},
		{&call.Error{Code: codes.InvalidRequest}, Usage},
		{&call.Error{Code: codes.Timeout}, Deadline},
		{&call.Error{Code: codes.ResourceExhausted}, Busy},
		{&call.Error{Code: codes.Unavailable}, Unreachable},
		{&call.Error{Code: codes.Unavailable, Err: &alknet.Error{Code: alknet.CodeRevoked, Remote: true}}, Denied},
		{&call.Error{Code: codes.Unavailable, Remote: true, Details: json.RawMessage(`{"closed":"revoked"}`)}, Denied},
		{&call.Error{Code: codes.Unavailable, Remote: true, Details: json.RawMessage(`{"closed":"shutting down"}`)}, Unreachable},
		{&call.Error{Code: codes.Unavailable, Remote: true, Details: json.RawMessage(`{"closed":""}`)}, Unreachable},
		{&call.Error{Code: "UNKNOWN_PEER"}, Unknown},
		{&call.Error{Code: "PASSPHRASE"}, Passphrase},
		{&call.Error{Code: "FAILED"}, Failed},
		{&call.Error{Code: codes.Cancelled}, Interrupted},
		{&call.Error{Code: codes.DataLoss}, Integrity},
		{&call.Error{Code: codes.SlowConsumer}, Remote},
		{&call.Error{Code: codes.NotResumable}, Remote},
		{&call.Error{Code: codes.LoopDetected}, Remote},
		{&call.Error{Code: codes.Internal}, Remote},
		{&call.Error{Code: "ITS_OWN"}, Remote},
		{&forward.Error{Code: forward.CodeDenied}, Denied},
		{vault.ErrNoSlot, Passphrase},
		{vault.ErrWrongPhrase, Passphrase},
		{&vault.PhraseError{}, Passphrase},
		{vault.ErrInUse, Busy},
		{vault.ErrDecrypt, Integrity},
		{vault.ErrNotFound, Unknown},
		{context.DeadlineExceeded, Deadline},
		{context.Canceled, Interrupted},
		{os.ErrPermission, Denied},
		{syscall.EADDRINUSE, Busy},
		{syscall.ECONNREFUSED, Unreachable},
		{errors.New("anything else"), Failed},
		{New(Partly, "some", ""), Partly},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			e := Of(fmt.Errorf("doing: %w", tt.err))
			require.Equal(t, tt.want, e.Exit)
			require.NotEmpty(t, e.Code)
		})
	}
	require.Nil(t, Of(nil))
}

func TestLimitIsNamed(t *testing.T) {
	e := Of(&call.Error{Code: codes.ResourceExhausted, Message: "too many", Details: json.RawMessage(`{"limit":"max_running"}`)})
	require.Equal(t, "max_running", e.Limit)
}

func TestErrorIsOneLine(t *testing.T) {
	e := Of(&call.Error{Code: "X", Message: "a\x1b[31m\nb", Remote: true})
	require.NotContains(t, e.Error(), "\x1b")
	require.NotContains(t, e.Error(), "\n")
	require.Equal(t, "no way (try: alknet doctor)", New(Failed, "no way", "alknet doctor").Error())
}
