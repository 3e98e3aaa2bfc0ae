//go:build !linux

package node

// monotonicMicros is for systemd, which is not here.
func monotonicMicros() string { return "" }
