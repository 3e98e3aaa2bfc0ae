//go:build soak

package peer

// soak: the tests run at the length that is promised.
const soak = true
