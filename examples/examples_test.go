// Package examples_test runs the examples as a reader would.
package examples_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every example ends by itself and prints what it says it shows.
func TestExamples(t *testing.T) {
	for name, want := range map[string][]string{
		"echo":            {`(?m)^QUIC [a-z0-9]{52} answered "hello"$`, `(?m)^Mux  [a-z0-9]{52} answered "hello"$`, `(?m)^Raw  [a-z0-9]{52} answered "hello"$`},
		"custom-protocol": {`(?m)^HELLO WORLD$`, `a long line: .*protocol error \(said the peer\)`, `THE CONNECTION GOES ON`, `drained: <nil>`},
		"hot-reload": {`(?m)^a: a, version 1$`, `b before it is registered: true`, `(?m)^b: b$`, `ended retryably: true`,
			`(?m)^a: a, version 2$`, `b, on its old connection: b`, `drained: <nil>`},
		"vault-node": {`(?m)^SSH host key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}$`,
			`(?m)^identity: e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc$`, `(?m)^hello from the vault's node$`},
		"ssh-exec": {`(?m)^hello alice, you said \["the whole" "world"\]$`, `(?m)^a shell$`, `(?m)^status 3$`, `(?m)^not a function$`, `(?m)^\tProxyCommand /usr/bin/alknet pipe `},
		"call":     {`(?m)^QUIC 2 \+ 3 = 5$`, `(?m)^Raw 2 \+ 3 = 5$`, `INVALID_INPUT .*"invalid input at /a: type"`},
		"stream": {`(?m)^server: my client is alice$`, `(?m)^subscribed: 3$`, `(?m)^server: the subscriber has left: context canceled$`,
			`(?m)^uploaded 1 to 100, total 5050$`, `(?m)^exchanged: 3 <nil>$`},
		"workers": {`(?m)^5$\n^rerouted {"from":"worker-a","to":"worker-b","seq":5,"reason":"draining"}$\n^6$`, `(?m)^12$`,
			`(?m)^ended: <nil> <nil>$`},
		"whole-node":  {`(?m)^serves alknet/call$`, `(?m)^serves alknet/ssh$`, `(?m)^joined as bob \[ssh:shell\]$`, `(?m)^hello bob$`, `(?m)^drained: <nil>$`},
		"custom-auth": {`(?m)^bob: refused$`, `(?m)^a stranger: unauthenticated$`, `(?m)^served: alice$`, `list changed: <nil>`, `(?m)^alice: revoked$`},
	} {
		t.Run(name, func(t *testing.T) {
			out := run(t, name)
			for _, line := range want {
				require.Regexp(t, line, out)
			}
		})
	}
}

func run(t *testing.T, name string) string {
	bin := filepath.Join(t.TempDir(), name)
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "./"+name).CombinedOutput()
	require.NoError(t, err, "%s", out)
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err = exec.CommandContext(ctx, bin).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}
