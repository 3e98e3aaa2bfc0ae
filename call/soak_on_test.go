//go:build soak

package call

// Soak is whether tests take their full volume.
const Soak = true
