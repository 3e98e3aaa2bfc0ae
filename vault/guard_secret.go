//go:build goexperiment.runtimesecret

package vault

import (
	"runtime"
	rsecret "runtime/secret" // whose own name tests use
)

// runtimeSecret says whether guarded erases what f leaves behind.
const runtimeSecret = runtime.GOOS == "linux" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")

// guarded calls f, which works with keys. Registers and stack that f used are
// erased before it returns, and heap that f allocated once it is unreachable.
func guarded(f func()) { rsecret.Do(f) }
