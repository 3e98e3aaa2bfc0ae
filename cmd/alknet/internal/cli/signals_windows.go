package cli

import (
	"os"

	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// otherSignals: there are none.
var otherSignals []os.Signal

func (a *app) otherSignal(*node.Node, os.Signal) {}
