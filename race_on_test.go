//go:build race

package alknet_test

// raceEnabled makes the heavy tests smaller: the detector slows bulk down tenfold.
const raceEnabled = true
