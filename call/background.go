package call

import (
	"sync"

	"github.com/alkdev/alknet/internal/safe"
)

// inBackground runs f and hands its error, or its panic, to failed. Nobody waits:
// f belongs to who gave it.
func inBackground(f func() error, failed func(error)) {
	safe.Go(new(sync.WaitGroup), failed, func() {
		if err := f(); err != nil {
			failed(err)
		}
	})
}

// each calls f for 0 to n-1, some at a time, and waits.
func each(n, atOnce int, f func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		safe.Go(&wg, func(error) {}, func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}
