package node

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/alkdev/alknet/call"
)

// startUpkeep answers the service manager's watchdog, where there is one, for as
// long as a call to the node itself is answered.
func (n *Node) startUpkeep() {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return
	}
	n.background("watchdog", func() error {
		tick := time.NewTicker(every / 2)
		defer tick.Stop()
		for {
			select {
			case <-n.ctx.Done():
				return nil
			case <-tick.C:
			}
			ctx, cancel := context.WithTimeout(n.ctx, every/2)
			_, err := call.Call[Status](ctx, n.control.handler.As(n.local()), "node/status", struct{}{})
			cancel()
			if err != nil {
				n.log.Error("the node does not answer itself", "event", "watchdog.missed", "err", err)
				continue
			}
			notify("WATCHDOG=1")
		}
	})
}
