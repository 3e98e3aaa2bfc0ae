//go:build unix

package cli

import (
	"encoding/json"
	"os"
	"syscall"

	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// otherSignals are the ones that do not end the node.
var otherSignals = []os.Signal{syscall.SIGHUP, syscall.SIGUSR1}

func (a *app) otherSignal(n *node.Node, s os.Signal) {
	switch s {
	case syscall.SIGHUP:
		a.reportReload(n.Reload())
	case syscall.SIGUSR1:
		_ = json.NewEncoder(a.Stderr).Encode(n.Status()) // the log is gone: nobody can be told
	}
}
