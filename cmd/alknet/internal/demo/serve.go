package demo

import (
	"context"
	"path/filepath"
)

// serve brings the killed worker back and keeps everything up until ctx ends.
func (w *world) serve(ctx context.Context) (err error) {
	if w.workerA == nil {
		if w.workerA, err = w.startWorker(ctx, "worker-a", "quic"); err != nil {
			return err
		}
		if err := w.await(ctx, "worker-a", "worker-b"); err != nil {
			return err
		}
		w.killed = false
	}
	you, head := "--dir "+filepath.Join(w.dir, "you"), "--dir "+filepath.Join(w.dir, "head")
	if w.o.Serving != nil {
		w.o.Serving(w.dir, []string{
			head + " status",
			head + " graph",
			head + " call demo/name@all",
			you + " call demo/add@head a=2 b=3",
			you + " call demo/count@head n=5 gap_ms=300",
			you + " ssh head uname -a",
			you + " socks head 127.0.0.1:1080",
		})
	}
	<-ctx.Done()
	return nil
}
