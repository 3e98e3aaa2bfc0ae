package node

import (
	"context"

	"github.com/alkdev/alknet/call"
)

type graph struct{}

func (n *Node) openGraph() error { return nil }
func (n *Node) closeGraph()      {}

func (*graph) sources() []call.Source                               { return nil }
func (*graph) onConnect() func(context.Context, *call.Client) error { return nil }

func (n *Node) addGraph(map[string]*PeerStatus)  {}
func (n *Node) reconnect()                       {}
func (n *Node) peerOperations() []call.Operation { return nil }
