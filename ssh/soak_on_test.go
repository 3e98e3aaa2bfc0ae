//go:build soak

package ssh_test

var slowScripts = []string{"exit-status", "stderr-data", "yes-head", "dynamic-forward"}
