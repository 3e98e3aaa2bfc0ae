//go:build !soak

package call

// Soak is whether tests take their full volume, which is hours under the race
// detector: go test -tags soak.
const Soak = false
