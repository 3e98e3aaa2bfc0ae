//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package vault

import (
	"errors"
	"os"
)

// lockFile fails: this system has no lock that ends with its process.
func lockFile(*os.File) error { return errors.ErrUnsupported }
