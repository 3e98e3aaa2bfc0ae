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
		return modeError(fmt.Sprintf("%s may be read by others (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path))
	}
	return nil
}

// OwnersOnly reports whether nobody but its owner may write a file.
func OwnersOnly(info iofs.FileInfo) bool { return info.Mode().Perm()&0o022 == 0 }

// NotForAll reports whether a file is not everybody's to write.
func NotForAll(info iofs.FileInfo) bool { return info.Mode().Perm()&0o002 == 0 }

// A modeError is a file that is not private.
type modeError string

// Error says which and how to mend it.
func (e modeError) Error() string { return string(e) }

// Is makes it an [iofs.ErrPermission].
func (e modeError) Is(target error) bool { return target == iofs.ErrPermission }
