//go:build !soak

package ssh_test

var slowScripts []string
