//go:build !race && linux

package pair

const raceOn = false
