package cli

import (
	"os"

	"github.com/alkdev/alknet/internal/durable"
)

// free reports whether no node holds a state folder.
func free(state string) bool {
	dir, err := os.OpenRoot(state)
	if err != nil {
		return true
	}
	defer dir.Close()
	unlock, err := durable.Lock(dir, "node.lock")
	if err != nil {
		return false
	}
	unlock()
	return true
}
