//go:build soak

package call_test

// soak is whether tests take their full volume.
const soak = true
