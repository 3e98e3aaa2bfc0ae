//go:build !soak

package call_test

// soak is whether tests take their full volume, which is hours under the race
// detector: go test -tags soak.
const soak = false
