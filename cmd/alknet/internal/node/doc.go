// Package node assembles a node from a configuration: sockets, the vault, a
// service for each section, the control socket; and reloads, drains and describes
// it.
package node
