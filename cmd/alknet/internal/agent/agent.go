// Package agent is the client of a node's control socket: it calls operations of
// the node and has handshakes signed with the node's key.
package agent

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"syscall"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// A Client is a connection to a node's control socket.
type Client struct {
	*call.Client
	endpoint *alknet.Endpoint
	id       alknet.PeerID // of the node
	key      alknet.PeerID // of the socket
	socket   string
}

// Connect connects to the socket. Without a node it is a *fault.Error with exit
// status Unreachable.
func Connect(ctx context.Context, socket string) (*Client, error) {
	id, key, err := node.ControlID(socket)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, notRunning(ctx, socket, err)
	}
	if err != nil {
		return nil, err
	}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Anonymous: true}) // the socket says who we are
	if err != nil {
		return nil, err
	}
	c := &Client{endpoint: ep, id: id, key: key, socket: socket}
	conn, err := c.Dial(ctx, alknet.Raw, call.ALPN)
	if err != nil {
		return nil, errors.Join(err, ep.Close())
	}
	c.Client = call.NewClient(conn, nil)
	return c, nil
}

// Dial connects to another service of the socket.
func (c *Client) Dial(ctx context.Context, over alknet.Transport, alpn string) (*alknet.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.socket)
	if errors.Is(err, iofs.ErrPermission) {
		return nil, err
	}
	if err != nil {
		return nil, notRunning(ctx, c.socket, err)
	}
	conn, err := c.endpoint.DialConn(ctx, nc, alknet.Addr{Peer: c.key, Over: over}, alpn)
	if errors.Is(err, alknet.ErrNoService) {
		return nil, err
	}
	if err != nil {
		return nil, notRunning(ctx, c.socket, err)
	}
	return conn, nil
}

// notRunning is why a socket does not answer, unless our time was over.
func notRunning(ctx context.Context, socket string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return &fault.Error{Exit: fault.Unreachable, Code: codeNotRunning, Message: "no node runs here (" + socket + ")", Hint: "alknet serve", Err: err}
	}
	return &fault.Error{Exit: fault.Unreachable, Code: "no_answer", Message: "the node does not answer at " + socket + ": " + err.Error(), Hint: "alknet doctor", Err: err}
}

const codeNotRunning = "not_running"

// NotRunning reports whether an error of Connect says that there surely is no node.
func NotRunning(err error) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Code == codeNotRunning
}

// ID is the node's identity.
func (c *Client) ID() alknet.PeerID { return c.id }

// Close ends the connection.
func (c *Client) Close() error { return errors.Join(c.Client.Close(), c.endpoint.Close()) }

// Signer is the node's key, for the handshakes of clients only.
func (c *Client) Signer() crypto.Signer { return &signer{c} }

// signTimeout bounds one signature: the node is on this machine.
const signTimeout = 5 * time.Second

type signer struct{ c *Client }

// Public is the node's public key.
func (s *signer) Public() crypto.PublicKey { return ed25519.PublicKey(s.c.id[:]) }

// Sign asks the node.
func (s *signer) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("the node signs whole messages")
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	out, err := call.Call[node.SignOut](ctx, s.c.Client, "node/sign", node.SignIn{Message: message})
	if err != nil {
		return nil, fmt.Errorf("the node did not sign: %w", err)
	}
	return out.Signature, nil
}
