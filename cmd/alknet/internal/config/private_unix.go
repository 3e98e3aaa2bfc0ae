//go:build unix

package config

import (
	"fmt"
	iofs "io/fs"
)

// Private returns an error, with the command that mends it, for a file that
// others than its owner may read or write.
func Private(path string, info iofs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 && !info.IsDir() {
		return fmt.Errorf("%s may be read by others (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return nil
}
