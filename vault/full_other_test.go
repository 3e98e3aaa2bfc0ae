//go:build !linux

package vault

import "errors"

// helpFull and helpMlock are of Linux.
func helpFull(string, []string) error  { return errors.ErrUnsupported }
func helpMlock(string, []string) error { return errors.ErrUnsupported }
