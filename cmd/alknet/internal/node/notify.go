package node

import (
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd, where it listens.
func notify(states ...string) {
	_, _ = daemon.SdNotify(false, strings.Join(states, "\n")) // without a manager there is nobody to tell
}

// NotifyReady tells the service manager that the node serves.
func (n *Node) NotifyReady() { notify("READY=1", "STATUS=ready as "+n.id.String()) }

// notifyReloading tells it that a reload has begun.
func notifyReloading() {
	if stamp := monotonicMicros(); stamp != "" {
		notify("RELOADING=1", "MONOTONIC_USEC="+stamp, "STATUS=reloading")
	}
}
