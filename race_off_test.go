//go:build !race

package alknet_test

const raceEnabled = false
