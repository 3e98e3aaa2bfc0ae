package ssh

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh/forward"
)

// ALPN is the name of the service: each stream is one SSH connection.
const ALPN = "alknet/ssh"

// The scopes of a peer. Those of forwards are in package forward.
const (
	ScopeShell = "ssh:shell" // shells and free commands
	ScopeAgent = "ssh:agent" // agent forwarding, where AllowAgent is set
)

// A CommandFunc runs a registered command and returns its exit status. cmd
// carries Args, Env, Stdin, Stdout and Stderr and is not started. ctx ends when
// the channel does. It decides itself whether id may do what it asks for.
type CommandFunc func(ctx context.Context, id *alknet.Identity, cmd *exec.Cmd) int

// A SubsystemFunc serves a subsystem until the peer or it is done. It decides
// itself whether id may.
type SubsystemFunc func(ctx context.Context, rw io.ReadWriteCloser, id *alknet.Identity) error

// A Handler serves SSH. The zero Handler lets peers in and refuses everything
// they ask for. Fields are not to be changed once it serves.
type Handler struct {
	// HostKeys identify the host to SSH clients: the first of each kind is used,
	// others are announced to clients of listeners as keys to come. Nil: one fresh
	// Ed25519 key per process.
	HostKeys []crypto.Signer
	// Node is the endpoint's key: it certifies the first Ed25519 key of HostKeys,
	// which ends trust on first use. Nil: no host certificate.
	Node crypto.Signer
	// Accounts says as whom a shell or a free command runs. Nil: there are none.
	Accounts func(ctx context.Context, id *alknet.Identity, user string) (*Account, error)
	// Commands are functions by their first word, such as "git-upload-pack". They
	// need no scope and no shell: each decides access itself.
	Commands map[string]CommandFunc
	// Subsystems are functions by their name, such as "sftp". Each decides access
	// itself.
	Subsystems map[string]SubsystemFunc
	// Session, if set, runs shells and free commands instead of a process, and
	// returns an exit status. The peer has ScopeShell.
	Session func(ctx context.Context, s *Session) int
	// Gate decides on forwards and does them. Nil: every forward is refused.
	Gate *forward.Gate
	// Users may log in on listeners, and on connections of anonymous peers. Nil:
	// Serve fails and anonymous peers are refused.
	Users *Users
	// AcceptAnyKey lets a peer that an alknet connection has identified log in
	// with any public key, for clients that can not do without one. The key then
	// gives no right.
	AcceptAnyKey bool
	// AllowAgent lets peers with ScopeAgent forward their agent.
	AllowAgent bool
	// Environ names the variables that a client may set; a name may end in *.
	// Nil: LANG, LC_*, COLORTERM, NO_COLOR, TERM, GIT_PROTOCOL, ALKNET_SESSION.
	Environ []string
	// Limits bound what a peer may hold and how long it may take.
	Limits Limits
	// Logger gets logins, channels and refusals, but never destinations, paths,
	// commands or variables. Nil: silent.
	Logger *slog.Logger

	once     sync.Once
	hostOnce sync.Once
	host     *hostKeys
	hostErr  error
	sources  sources
	epoch    atomic.Uint64 // counts calls of Reauthenticate
	bursts   bursts
	rootOnce sync.Once
	drainCtx context.Context // ends with Shutdown
	drain    context.CancelFunc
	serveCtx context.Context // of connections of listeners; ends when Shutdown gives up
	cutAll   context.CancelFunc

	mu        sync.Mutex
	live      map[*connection]struct{}  // guarded by mu
	programs  map[uint64]*session       // guarded by mu; that run, by number
	numbered  uint64                    // guarded by mu; the last number of one
	listeners map[net.Listener]struct{} // guarded by mu
	down      bool                      // guarded by mu
	wg        sync.WaitGroup            // connections of listeners; added to under mu
}

// Service is the service of h for peers on QUIC and Mux.
func Service(h *Handler) alknet.Service {
	return alknet.Service{ALPN: ALPN, Handler: h}
}

func (h *Handler) init() {
	h.once.Do(func() {
		h.drainCtx, h.drain = context.WithCancel(context.Background())
		h.serveCtx, h.cutAll = context.WithCancel(context.Background())
		h.live = make(map[*connection]struct{})
		h.listeners = make(map[net.Listener]struct{})
		h.sources.limits = h.Limits.withDefaults()
	})
}

func (h *Handler) log() *slog.Logger {
	if h.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Logger
}

// ServeConn serves each stream of conn as an SSH connection, until conn ends or,
// once it is draining, until the sessions and forwards under way have ended. An
// anonymous peer logs in as on a listener, or is refused where Users is nil.
func (h *Handler) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	h.init()
	ctx, stop := context.WithCancel(ctx)
	drained, drain := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	safe.Go(&wg, func(error) {}, func() {
		select {
		case <-conn.Draining():
		case <-h.drainCtx.Done():
		case <-ctx.Done():
		case <-conn.Done():
		}
		drain()
	})
	return alknet.StreamFunc(func(ctx context.Context, s *alknet.Stream) error {
		l := &login{h: h, remote: conn.RemoteAddr()}
		switch {
		case conn.Identity().ID != "":
			l.conn = conn
		case h.Users == nil:
			return &alknet.Error{Code: alknet.CodeUnauthenticated, Reason: "SSH serves known peers only"}
		}
		return h.serveSSH(ctx, drained, s, l)
	}).ServeConn(ctx, conn)
}

// Shutdown stops the listeners, refuses new channels, waits for sessions and
// forwards under way, and cuts what is left when ctx ends, whose error it then
// returns.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.init()
	h.mu.Lock()
	h.down = true
	for l := range h.listeners {
		_ = l.Close() // Serve returns
	}
	h.mu.Unlock()
	h.drain()
	done := make(chan struct{})
	var wg sync.WaitGroup
	safe.Go(&wg, func(error) {}, func() {
		defer close(done)
		h.wg.Wait()
	})
	defer wg.Wait()
	select {
	case <-done:
		h.cutAll()
		return nil
	case <-ctx.Done():
		h.cutAll()
		return ctx.Err()
	}
}

// errNoLonger is why Reauthenticate ends a connection, and what a client reads
// whose right was lost before its program began.
var errNoLonger = errors.New("ssh: no longer allowed")

// Reauthenticate judges again who is connected, after what Users reads or
// Accounts answers has changed. A login of a listener that no longer holds, or
// would get other rights, is cut. A peer of an alknet connection keeps the
// connection and loses what it may no longer have: programs without ScopeShell or
// under another account than they would have now, agents without ScopeAgent,
// functions that were begun with a scope or resource that is lost, and, by the
// Gate, forwards. All that is done by itself when the Router judges the peer
// again: [alknet.Router.Reauthenticate]. It returns when all are cut, or the error
// of ctx.
func (h *Handler) Reauthenticate(ctx context.Context) error {
	h.init()
	h.epoch.Add(1) // a login under way is judged again when it is done
	h.mu.Lock()
	list := slices.Collect(maps.Keys(h.live))
	h.mu.Unlock()
	slots := make(chan struct{}, maxJudged)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, c := range list {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		safe.Go(&wg, c.panicked, func() {
			defer func() { <-slots }()
			if !c.holds(ctx) {
				c.end(errNoLonger)
			}
			c.judgeRights(ctx)
		})
	}
	return nil
}

// maxJudged is how many connections Reauthenticate judges at once.
const maxJudged = 16

// holds reports whether the login would succeed now, with the same rights.
func (c *connection) holds(ctx context.Context) bool {
	if c.login.conn != nil {
		return true // its Router judges it
	}
	now, err := c.h.Users.judge(ctx, c.h, c.grant.proof)
	return err == nil && now.equal(c.grant)
}

// add remembers a connection, unless the handler is shut down.
func (h *Handler) add(c *connection) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return false
	}
	h.live[c] = struct{}{}
	return true
}

func (h *Handler) remove(c *connection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, c)
}

// since is how long ago t was, in milliseconds, for the log.
func since(t time.Time) slog.Attr { return slog.Int64("ms", time.Since(t).Milliseconds()) }

var (
	_ alknet.ProtocolHandler = (*Handler)(nil)
	_ alknet.Shutdowner      = (*Handler)(nil)
)
