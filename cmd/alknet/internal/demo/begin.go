package demo

import (
	"sync"

	"github.com/alkdev/alknet/internal/safe"
)

// begin runs f beside us. Whoever calls it waits for what f leaves behind.
func begin(f func()) {
	var wg sync.WaitGroup
	safe.Go(&wg, func(error) {}, f)
}
