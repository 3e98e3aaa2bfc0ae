package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
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
	// The socket has a key of its own: it answers while the vault is locked.
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	own := alknet.PeerID(key.Public().(ed25519.PublicKey))
	dir, err := os.OpenRoot(n.places.Runtime)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer dir.Close()
	if err := durable.WriteFile(dir, filepath.Base(IDFile(path)), []byte(n.id.String()+"\n"+own.String()+"\n"), 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	ep, err := alknet.NewEndpoint(nil, &ownListener{UnixListener: l, log: n.log}, &alknet.Config{Key: key})
	if err != nil {
		return err
	}
	c := &control{endpoint: ep, path: path}
	c.handler = &call.Handler{Registry: &reg, Sources: append([]call.Source{n.registry}, n.graph.operatorSources()...), Middleware: []call.Middleware{sayRefusals}, Logger: n.log}
	c.router = &alknet.Router{Authenticate: n.authenticateLocal, Logger: n.log}
	c.router.Limits = alknet.Limits{MaxConnsPerPeer: -1, MaxHandshakesPerAddr: -1}
	// The operator publishes local ports under names here, by the rules of [forward].
	tunnels := tunnel.Service(nil)
	tunnels.Handler, tunnels.Over = alknet.HandlerFunc(n.serveTunnels), alknet.Mux
	for _, s := range []alknet.Service{call.Service(c.handler), tunnels} {
		if err := c.router.Register(s); err != nil {
			return errors.Join(err, ep.Close())
		}
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
	id := alknet.Identity{ID: LocalID, Scopes: []string{"node:read", "node:admin", "call:explain", "peer:watch", "peer:admin", forward.ScopeDial, forward.ScopeListen}, Resources: make(map[string][]string)}
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

// serveTunnels hands a connection of the operator to the handler of [tunnel].
func (n *Node) serveTunnels(ctx context.Context, conn *alknet.Conn) error {
	n.mu.Lock()
	h := n.tunnels
	n.mu.Unlock()
	if h == nil {
		return &alknet.Error{Code: alknet.CodeRefused, Reason: "this node has no [tunnel]"}
	}
	return h.ServeConn(ctx, conn)
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

// ControlID reads whose socket this is: the node's id, and the key of the socket, to
// which the connection is pinned.
func ControlID(socket string) (id, key alknet.PeerID, err error) {
	f, err := os.Open(IDFile(socket))
	if err != nil {
		return id, key, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = config.Private(IDFile(socket), info)
	}
	if err != nil {
		return id, key, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxIDFile))
	if err != nil {
		return id, key, err
	}
	first, second, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if id, err = alknet.ParsePeerID(strings.TrimSpace(first)); err != nil {
		return id, key, fmt.Errorf("%s: %w", IDFile(socket), err)
	}
	if key, err = alknet.ParsePeerID(strings.TrimSpace(second)); err != nil {
		return id, key, fmt.Errorf("%s: %w", IDFile(socket), err)
	}
	return id, key, nil
}

// maxIDFile bounds the file that names a socket's node, in bytes.
const maxIDFile = 256
