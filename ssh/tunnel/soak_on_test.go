//go:build soak

package tunnel

const kills = 100
