package config

import iofs "io/fs"

// Private does nothing: on Windows the folder's access list protects files.
func Private(string, iofs.FileInfo) error { return nil }

// OwnersOnly is true: as above.
func OwnersOnly(iofs.FileInfo) bool { return true }

// NotForAll is true: as above.
func NotForAll(iofs.FileInfo) bool { return true }
