//go:build !race

package call_test

// raceOn is whether the race detector is on, whose shadow is memory too.
const raceOn = false
