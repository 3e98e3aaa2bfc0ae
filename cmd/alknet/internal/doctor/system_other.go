//go:build !unix || freebsd

package doctor

// freeBytes is not known here.
func freeBytes(string) (int64, bool) { return 0, false }

// fileLimit is not known here.
func fileLimit() (uint64, bool) { return 0, false }
