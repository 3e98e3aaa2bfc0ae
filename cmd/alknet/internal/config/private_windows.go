package config

import iofs "io/fs"

// Private does nothing: on Windows the folder's access list protects files.
func Private(string, iofs.FileInfo) error { return nil }
