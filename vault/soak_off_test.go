//go:build !soak

package vault

// The sizes of tests that take long.
const (
	judgeSeeds  = 200
	handshakes  = 500
	encryptions = 200_000
)
