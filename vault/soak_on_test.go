//go:build soak

package vault

// The sizes of tests that take long.
const (
	judgeSeeds  = 1000
	handshakes  = 10_000
	encryptions = 1_000_000
)
