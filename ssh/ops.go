package ssh

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
)

// scopeAdmin is the scope of who runs the node.
const scopeAdmin = "node:admin"

// A connectionInfo is what an operator sees of a connection.
type connectionInfo struct {
	Identity  string    `json:"identity"`
	Peer      string    `json:"peer,omitzero"`
	User      string    `json:"user"`
	How       string    `json:"how"`
	Address   string    `json:"address"`
	Client    string    `json:"client"`
	Since     time.Time `json:"since"`
	Channels  int       `json:"channels"`
	Sessions  int       `json:"sessions"`
	Listeners int       `json:"listeners"`
}

// Operations are the control plane of h, for callers with the scope node:admin:
//
//	ssh/connections   who is connected, without what they run or where they connect
func Operations(h *Handler) []call.Operation {
	return []call.Operation{{
		Name: "ssh/connections", Description: "the SSH connections that are open", Tags: []string{"ssh"},
		Access: alknet.AccessControl{RequiredScopes: []string{scopeAdmin}},
		Func: call.QueryFunc(func(context.Context, struct{}) ([]connectionInfo, error) {
			return h.connections(), nil
		}),
	}}
}

func (h *Handler) connections() []connectionInfo {
	h.mu.Lock()
	open := make([]*connection, 0, len(h.live))
	for c := range h.live {
		open = append(open, c)
	}
	h.mu.Unlock()
	list := make([]connectionInfo, 0, len(open))
	for _, c := range open {
		list = append(list, c.info())
	}
	slices.SortFunc(list, func(a, b connectionInfo) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Address, b.Address))
	})
	return list
}

func (c *connection) info() connectionInfo {
	id := c.identity()
	info := connectionInfo{
		Identity: id.ID, User: c.sc.User(), How: c.grant.how, Address: c.login.remote.String(), Client: string(c.sc.ClientVersion()), Since: c.since,
	}
	if !id.Peer.IsZero() {
		info.Peer = id.Peer.String()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	info.Channels, info.Sessions, info.Listeners = c.channels, c.sessions, len(c.listeners)
	return info
}
