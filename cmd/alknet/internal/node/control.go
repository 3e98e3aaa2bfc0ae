package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/durable"
)

// LocalID is who connects to the control socket.
const LocalID = "local"

// A control is the node's socket for its owner: an ordinary endpoint on a unix
// listener with a router of its own.
type control struct {
	endpoint *alknet.Endpoint
	router   *alknet.Router
	handler  *call.Handler
	path     string
}

// IDFile is the file beside a control socket that holds the node's id, to which
// clients pin the connection.
func IDFile(socket string) string { return socket + ".id" }

// startControl opens the socket.
func (n *Node) startControl() error {
	ag, err := newAgent(n.signer)
	if err != nil {
		return err
	}
	var reg call.Registry
	if err := reg.Register(n.controlOperations(ag)...); err != nil {
		return err
	}
	path := n.places.Control
	if err := removeSocket(path); err != nil { // we hold node.lock: it is a dead node's
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	dir, err := os.OpenRoot(n.places.Runtime)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer dir.Close()
	if err := durable.WriteFile(dir, IDFile("control.sock"), []byte(n.id.String()+"\n"), 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	ep, err := alknet.NewEndpoint(nil, &ownListener{UnixListener: l, log: n.log}, &alknet.Config{Key: n.signer})
	if err != nil {
		return err
	}
	c := &control{endpoint: ep, path: path}
	c.handler = &call.Handler{Registry: &reg, Sources: append([]call.Source{n.registry}, n.graph.operatorSources()...), Middleware: []call.Middleware{sayRefusals}, Logger: n.log}
	c.router = &alknet.Router{Authenticate: n.authenticateLocal, Logger: n.log}
	c.router.Limits = alknet.Limits{MaxConnsPerPeer: -1, MaxHandshakesPerAddr: -1}
	if err := c.router.Register(call.Service(c.handler)); err != nil {
		return errors.Join(err, ep.Close())
	}
	n.control = c
	n.background("control socket", func() error { return ignoreClosed(c.router.Serve(ep)) })
	return nil
}

// authenticateLocal: who could open the socket is the operator.
func (n *Node) authenticateLocal(context.Context, tls.ConnectionState, string) (alknet.Identity, error) {
	return n.local(), nil
}

// local is the operator, with every scope and resource that is asked for anywhere.
func (n *Node) local() alknet.Identity {
	id := alknet.Identity{ID: LocalID, Scopes: []string{"node:read", "node:admin", "call:explain", "peer:watch", "peer:admin"}, Resources: make(map[string][]string)}
	add := func(ac alknet.AccessControl) {
		id.Scopes = append(id.Scopes, ac.RequiredScopes...)
		id.Scopes = append(id.Scopes, ac.RequiredScopesAny...)
		if ac.ResourceType != "" {
			id.Resources[ac.ResourceType] = append(id.Resources[ac.ResourceType], ac.ResourceAction)
		}
	}
	sources := append([]call.Source{n.registry}, n.graph.operatorSources()...)
	for _, s := range sources {
		for op := range s.All() {
			add(op.Access)
		}
	}
	slices.Sort(id.Scopes)
	id.Scopes = slices.Compact(id.Scopes)
	return id
}

// sayRefusals tells the operator why a peer ended the connection over which the node
// handed a call on: refused, it is not worth trying again.
func sayRefusals(_ *call.Operation, next call.HandlerFunc) call.HandlerFunc {
	return func(ctx context.Context, s *call.Stream) error { return refusal(next(ctx, s)) }
}

// refusal puts what a peer's close says into the error of a call.
func refusal(err error) error {
	ce, ok := errors.AsType[*call.Error](err)
	if !ok || ce.Code != codes.Unavailable {
		return err
	}
	ae, ok := errors.AsType[*alknet.Error](ce.Err)
	if !ok || !ae.Remote || fault.Refusal(ae.Code) == "" {
		return err
	}
	e := *ce
	e.Message = "the peer said " + ae.Code.String() + ": " + ae.Reason // whoever prints it quotes it
	e.Details = json.RawMessage(`{"closed":"` + fault.Refusal(ae.Code) + `"}`)
	return &e
}

// close ends the socket; what runs on it has a second to answer.
func (c *control) close() {
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.router.Shutdown(ctx) // the node ends: what is left is cut
	_ = c.endpoint.Close()     // as above
	_ = os.Remove(IDFile(c.path))
}

// ControlID reads the id of the node whose socket this is.
func ControlID(socket string) (alknet.PeerID, error) {
	b, err := os.ReadFile(IDFile(socket))
	if err != nil {
		return alknet.PeerID{}, err
	}
	info, err := os.Stat(IDFile(socket))
	if err == nil {
		err = config.Private(IDFile(socket), info)
	}
	if err != nil {
		return alknet.PeerID{}, err
	}
	if len(b) > 128 {
		b = b[:128]
	}
	return alknet.ParsePeerID(trimLine(b))
}

func trimLine(b []byte) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return string(b)
}
