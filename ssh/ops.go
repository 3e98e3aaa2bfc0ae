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

// A sessionInfo is what an operator sees of a program that runs.
type sessionInfo struct {
	ID       uint64    `json:"id"`
	Identity string    `json:"identity"`
	User     string    `json:"user"`
	Kind     string    `json:"kind"` // "exec", "shell" or "subsystem"
	Terminal bool      `json:"terminal"`
	Since    time.Time `json:"since"`
}

// killIn is the input of ssh/session/kill.
type killIn struct {
	ID uint64 `json:"id"`
}

// Operations are the control plane of h, for callers with the scope node:admin:
//
//	ssh/connections    who is connected, without what they run or where they connect
//	ssh/session/list   the shells, commands and subsystems that run, without their lines
//	ssh/session/kill   ends one of them, and leaves its connection
func Operations(h *Handler) []call.Operation {
	admin := alknet.AccessControl{RequiredScopes: []string{scopeAdmin}}
	return []call.Operation{
		{
			Name: "ssh/connections", Description: "the SSH connections that are open", Tags: []string{"ssh"}, Access: admin,
			Func: call.QueryFunc(func(context.Context, struct{}) ([]connectionInfo, error) { return h.connections(), nil }),
		},
		{
			Name: "ssh/session/list", Description: "the programs that run for SSH clients", Tags: []string{"ssh"}, Access: admin,
			Func: call.QueryFunc(func(context.Context, struct{}) ([]sessionInfo, error) { return h.sessions(), nil }),
		},
		{
			Name: "ssh/session/kill", Description: "ends a program of an SSH client", Tags: []string{"ssh"}, Access: admin,
			Func:   call.MutationFunc(func(_ context.Context, in killIn) (struct{}, error) { return struct{}{}, h.kill(in.ID) }),
			Errors: []call.ErrorSpec{{Code: codeNoSession, Description: "no such program runs"}},
		},
	}
}

// codeNoSession is the error of ssh/session/kill.
const codeNoSession = "NO_SESSION"

func (h *Handler) sessions() []sessionInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]sessionInfo, 0, len(h.programs))
	for id, s := range h.programs {
		list = append(list, sessionInfo{
			ID: id, Identity: s.c.identity().ID, User: s.c.sc.User(), Kind: s.kind, Terminal: s.terminal() != nil, Since: s.since,
		})
	}
	slices.SortFunc(list, func(a, b sessionInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// kill ends a program as if its peer had lost the right to it.
func (h *Handler) kill(id uint64) error {
	h.mu.Lock()
	s := h.programs[id]
	h.mu.Unlock()
	if s == nil {
		return &call.Error{Code: codeNoSession, Message: "no such program runs"}
	}
	s.cutOff()
	return nil
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
