package node

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/testops"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/peer/pair"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
	"github.com/alkdev/alknet/vault"
)

// Options are what a node needs to start.
type Options struct {
	File   *config.File  // which one
	Places config.Places // with what the file says applied
	// Signer is the node's key. Nil: the vault's, which is unlocked.
	Signer crypto.Signer
	// Prompt asks a person for the passphrase. Nil: nobody is there.
	Prompt func() (vault.Secret, error)
	// Credentials is systemd's folder of credentials.
	Credentials string
	// Activated are the sockets that the service manager opened, by name.
	Activated map[string][]*os.File
	// Load reads the configuration again for a reload. Nil: no reload.
	Load func() (*config.File, []config.Problem)
	// Operations are offered beside the node's own.
	Operations []call.Operation
	Version    string         // of the program
	Log        *slog.Logger   // nil: silent
	Level      *slog.LevelVar // of Log; nil: fixed
}

// A Node runs.
type Node struct {
	opts    Options
	places  config.Places
	state   *os.Root
	unlock  func() // of node.lock
	vault   *vault.Vault
	signer  crypto.Signer
	hostKey crypto.Signer // of ssh
	id      alknet.PeerID
	started time.Time
	log     *slog.Logger

	endpoints []*alknet.Endpoint // that listen
	dialer    *alknet.Endpoint
	listeners []Listener
	router    *alknet.Router
	registry  *call.Registry // of operations for peers
	known     *known
	gate      *forward.Gate
	graph     graph
	events    hub
	control   *control
	admin     *local
	socks     *local
	sshd      *local

	phase   atomic.Value // string: starting, ready, draining
	tickets atomic.Int64 // epochs of tickets: how often peers were authenticated again
	epochs  atomic.Int64 // of the configuration

	wg     sync.WaitGroup
	ctx    context.Context // ends with the node
	cancel context.CancelFunc
	donec  chan struct{} // closed when the node has ended

	stopRequests chan bool

	reloading sync.Mutex // one reload at a time
	stopping  sync.Once

	mu       sync.Mutex
	file     *config.File     // guarded by mu
	parts    map[string]*part // guarded by mu; by section
	calls    *call.Handler    // guarded by mu; nil: no [call]
	shell    *ssh.Handler     // guarded by mu
	tunnels  *tunnel.Handler  // guarded by mu
	pairs    *pair.Handler    // guarded by mu
	problems []string         // guarded by mu; goroutines that failed
}

// Start opens the sockets, unlocks the vault, builds every part and serves. What
// was opened is closed if it fails.
func Start(ctx context.Context, o Options) (_ *Node, err error) {
	n := &Node{opts: o, places: o.Places, log: o.Log, started: time.Now(), donec: make(chan struct{}), stopRequests: make(chan bool, 4), file: o.File, parts: make(map[string]*part)}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.phase.Store("starting")
	n.epochs.Store(1)
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()
	if err := n.openState(); err != nil {
		return nil, err
	}
	sockets, err := n.openSockets(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.openKeys(ctx); err != nil {
		closeSockets(sockets)
		return nil, err
	}
	if err := n.openEndpoints(sockets); err != nil {
		return nil, err
	}
	if err := n.assemble(); err != nil {
		return nil, err
	}
	if err := n.startControl(); err != nil {
		return nil, err
	}
	for _, ep := range n.endpoints {
		n.background("serve", func() error { return ignoreClosed(n.router.Serve(ep)) })
	}
	n.startUpkeep()
	n.reconnect()
	n.phase.Store("ready")
	n.event("ready", "", n.id.String())
	return n, nil
}

// openState makes the state folder ours alone.
func (n *Node) openState() error {
	for _, dir := range []string{n.places.State, n.places.Runtime} {
		if err := privateFolder(dir); err != nil {
			return err
		}
	}
	var err error
	if n.state, err = os.OpenRoot(n.places.State); err != nil {
		return err
	}
	if n.unlock, err = durable.Lock(n.state, "node.lock"); err != nil {
		return fault.New(fault.Busy, "another node runs with "+n.places.State+": "+err.Error(), "alknet status")
	}
	return nil
}

// privateFolder makes a folder, or refuses one that others may write.
func privateFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fault.New(fault.Denied, fmt.Sprintf("others may write %s (mode %04o)", dir, info.Mode().Perm()), "chmod 700 "+dir)
	}
	return nil
}

// assemble builds everything that serves, before anything is offered.
func (n *Node) assemble() error {
	var err error
	if n.known, err = openKnown(n.places, n.opts.File, n.log); err != nil {
		return err
	}
	n.router = &alknet.Router{Authenticate: n.known.authenticate, Logger: n.log}
	if l := n.opts.File.Limits; l != nil {
		n.router.Limits = *l
	}
	n.gate = &forward.Gate{Logger: n.log}
	if f := n.opts.File.Forward; f != nil {
		n.gate.DialTimeout, n.gate.MaxFlows = f.DialTimeout, f.MaxFlows
	}
	n.setPolicy(n.opts.File)
	n.registry = &call.Registry{}
	if err := n.registry.Register(n.networkOperations()...); err != nil {
		return err
	}
	if err := n.registry.Register(n.opts.Operations...); err != nil {
		return err
	}
	if f := n.opts.File.Node; f != nil && f.TestNamespace {
		n.log.Warn("operations below test/ are offered", "event", "test.namespace")
		if err := n.registry.Register(testops.Operations(testops.Options{Dir: n.state})...); err != nil {
			return err
		}
	}
	if err := n.openGraph(); err != nil {
		return err
	}
	n.known.onChange(func() { n.reauthenticate(); n.reconnect() })
	for _, s := range sections {
		if err := n.addPart(s, n.opts.File); err != nil {
			return err
		}
	}
	return n.openLocal(n.opts.File)
}

// setPolicy applies [forward].
func (n *Node) setPolicy(f *config.File) {
	if f.Forward == nil {
		n.gate.SetPolicy(nil)
		return
	}
	policy, err := forward.ParsePolicy(f.Forward.Policy)
	if err != nil { // the configuration was checked
		n.log.Error("policy", "event", "policy.invalid", "err", err)
		return
	}
	n.gate.SetPolicy(policy)
}

// reauthenticate judges who is connected again.
func (n *Node) reauthenticate() {
	n.tickets.Add(1)
	ctx, cancel := context.WithTimeout(n.ctx, 5*time.Second)
	defer cancel()
	if err := n.router.Reauthenticate(ctx); err != nil {
		n.log.Error("peers were not judged again", "event", "reauthenticate.failed", "err", err)
	}
	n.mu.Lock()
	shell := n.shell
	n.mu.Unlock()
	if shell != nil {
		if err := shell.Reauthenticate(ctx); err != nil {
			n.log.Error("sessions were not judged again", "event", "reauthenticate.failed", "err", err)
		}
	}
}

// background runs f until the node ends; what it returns is logged.
func (n *Node) background(what string, f func() error) {
	fail := func(err error) {
		n.log.Error(what+" failed", "event", "part.failed", "err", err)
		n.mu.Lock()
		n.problems = append(n.problems, what+": "+err.Error())
		n.mu.Unlock()
	}
	safe.Go(&n.wg, fail, func() {
		if err := f(); err != nil && n.ctx.Err() == nil {
			fail(err)
		}
	})
}

// ID is the node's identity.
func (n *Node) ID() alknet.PeerID { return n.id }

// Dialer is the endpoint with which the node dials.
func (n *Node) Dialer() *alknet.Endpoint { return n.dialer }

// Listeners are the open sockets.
func (n *Node) Listeners() []Listener { return n.listeners }

// Control is the path of the control socket.
func (n *Node) Control() string { return n.places.Control }

// File is the configuration in force.
func (n *Node) File() *config.File {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file
}

// Done is closed when the node has ended.
func (n *Node) Done() <-chan struct{} { return n.donec }

// drainTime is how long running work may take.
func (n *Node) drainTime() time.Duration {
	if f := n.File().Node; f != nil && f.Drain > 0 {
		return f.Drain
	}
	return 10 * time.Second
}

// Stop ends the node: it drains for at most node.drain, or not at all with now.
// A second Stop with now cuts a drain short.
func (n *Node) Stop(now bool) {
	if now {
		n.cutNow()
	}
	n.stopping.Do(func() { n.end(now) })
	<-n.donec
}

// cutNow ends connections at once.
func (n *Node) cutNow() {
	if n.router != nil {
		_ = n.router.Close() // what is left is what it cuts
	}
}

func (n *Node) end(now bool) {
	n.phase.Store("draining")
	n.event("draining", "", "")
	notify("STOPPING=1", "STATUS=draining")
	n.log.Info("draining", "event", "node.draining")
	wait := n.drainTime()
	if now {
		wait = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := n.router.Shutdown(ctx); err != nil {
		n.log.Warn("drained in part", "event", "node.drained", "err", err)
	}
	n.cancel()
	n.closeAll()
	n.log.Info("stopped", "event", "node.stopped")
	close(n.donec)
}

// abandon gives up a start.
func (n *Node) abandon() {
	n.cancel()
	if n.router != nil {
		_ = n.router.Close() // nothing ran
	}
	n.closeAll()
}

func (n *Node) closeAll() {
	n.admin.close()
	n.socks.close()
	n.sshd.close()
	n.control.close()
	n.closeGraph()
	for _, ep := range n.endpoints {
		_ = ep.Close() // connections have ended
	}
	if n.dialer != nil {
		_ = n.dialer.Close() // connections have ended
	}
	n.wg.Wait()
	n.known.close()
	if n.vault != nil {
		_ = n.vault.Close() // gives up the folder
	}
	if n.unlock != nil {
		n.unlock()
	}
	if n.state != nil {
		_ = n.state.Close() // only read from here on
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, alknet.ErrRouterClosed) {
		return nil
	}
	return err
}

// digest is the SHA-256 of a configuration.
func digest(f *config.File) string {
	sum := sha256.Sum256(f.Source())
	return hex.EncodeToString(sum[:])
}

// Places are where the node keeps its things.
func (n *Node) Places() config.Places { return n.places }
