//go:build race

package vault

// raceDetector says that tests are slow.
const raceDetector = true
