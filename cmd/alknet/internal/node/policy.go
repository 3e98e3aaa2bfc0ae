package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// PolicyIn is the input of node/policy.
type PolicyIn struct {
	Peer   string `json:"peer"`   // an id of the book, or a key
	Target string `json:"target"` // an ALPN, an operation, dial:HOST:PORT, listen:HOST:PORT, publish:NAME, name:NAME or shell
}

// A Verdict is what the node would decide.
type Verdict struct {
	Peer    string        `json:"peer"`          // who
	Target  string        `json:"target"`        // what
	Allowed bool          `json:"allowed"`       // the decision
	Steps   []VerdictStep `json:"steps"`         // in the order in which the node takes them; the last one decides
	Hint    string        `json:"hint,omitzero"` // a command that would allow it
}

// A VerdictStep is one check on the way.
type VerdictStep struct {
	Step string `json:"step"` // authenticate, service, operation, scope, policy
	OK   bool   `json:"ok"`   // it passed
	Why  string `json:"why"`  // the rule that decides, and what is missing
}

// errStop ends an explanation at a step that refuses.
var errStop = errors.New("refused")

// explaining collects the steps of a verdict.
type explaining struct {
	n  *Node
	v  *Verdict
	id alknet.Identity
}

// policy runs the checks that serve, in their order, and does nothing else.
func (n *Node) policy(ctx context.Context, in PolicyIn) (Verdict, error) {
	v := Verdict{Peer: in.Peer, Target: in.Target, Steps: []VerdictStep{}}
	e := &explaining{n: n, v: &v}
	err := e.run(ctx, in)
	if err != nil && !errors.Is(err, errStop) {
		return v, remote(err)
	}
	v.Allowed = err == nil
	return v, nil
}

func (e *explaining) run(ctx context.Context, in PolicyIn) error {
	if err := e.authenticate(in.Peer); err != nil {
		return err
	}
	kind, rest, _ := strings.Cut(in.Target, ":")
	switch kind {
	case "dial":
		return e.forward(ctx, forward.OpDial, "tcp", rest)
	case "listen":
		return e.forward(ctx, forward.OpListen, "tcp", rest)
	case "publish":
		return e.forward(ctx, forward.OpPublish, "name", rest)
	case "shell":
		return e.shell()
	case "name":
		return e.forward(ctx, forward.OpDial, "name", rest)
	}
	for _, s := range e.n.router.Services() {
		if s.ALPN == in.Target {
			return e.service(s)
		}
	}
	if !strings.Contains(in.Target, "/") || strings.HasPrefix(in.Target, "alknet/") {
		return fault.New(fault.NotServed, "this node has no service "+printable.Quote(in.Target), "alknet status")
	}
	return e.operation(in.Target)
}

// step notes a check. hint is a command that would let it pass.
func (e *explaining) step(name string, err error, good, hint string) error {
	s := VerdictStep{Step: name, OK: err == nil, Why: good}
	if err != nil {
		s.Why, e.v.Hint = err.Error(), hint
	}
	e.v.Steps = append(e.v.Steps, s)
	if err != nil {
		return errStop
	}
	return nil
}

func (e *explaining) authenticate(name string) error {
	p, known := e.n.known.get(name)
	if key, err := alknet.ParsePeerID(name); err == nil && !known {
		if p, known = e.n.known.entryFor(alknet.Identity{Peer: key}); !known {
			e.id = alknet.Identity{Peer: key}
			return e.step("authenticate", nil, "a stranger: only services that admit anyone", "")
		}
	}
	if !known {
		return e.n.known.unknown(name)
	}
	if p.Disabled {
		return e.step("authenticate", errors.New("disabled"), "", "alknet peer enable "+p.ID)
	}
	if len(p.Keys) == 0 {
		return e.step("authenticate", errors.New("it has no key"), "", "")
	}
	e.id = alknet.Identity{ID: p.ID, Peer: p.Keys[0].ID, Scopes: p.Scopes, Resources: p.Resources}
	return e.step("authenticate", nil, "known as "+p.ID, "")
}

func (e *explaining) service(s alknet.Service) error {
	if e.id.ID == "" && !s.AllowAnonymous {
		return e.step("service", errors.New("authentication required"), "", "alknet peer add NAME "+e.id.Peer.String())
	}
	return e.step("service", s.Access.Check(&e.id), s.ALPN+" admits it", e.grant(s.Access))
}

// shell is a service and a scope.
func (e *explaining) shell() error {
	for _, s := range e.n.router.Services() {
		if s.ALPN == ssh.ALPN {
			if err := e.service(s); err != nil {
				return err
			}
		}
	}
	if e.n.File().SSH == nil || e.n.File().SSH.Accounts == "" {
		return e.step("shell", errors.New("this node gives nobody a shell"), "", "alknet config explain ssh.accounts")
	}
	err := alknet.AccessControl{RequiredScopes: []string{ssh.ScopeShell}}.Check(&e.id)
	return e.step("shell", err, "it may have a shell", e.grant(alknet.AccessControl{RequiredScopes: []string{ssh.ScopeShell}}))
}

// grant is the command that gives what an AccessControl asks for.
func (e *explaining) grant(ac alknet.AccessControl) string {
	missing := append([]string{}, ac.RequiredScopes...)
	if len(ac.RequiredScopesAny) > 0 {
		missing = append(missing, ac.RequiredScopesAny[0])
	}
	if ac.ResourceType != "" {
		missing = append(missing, ac.ResourceType+"="+ac.ResourceAction)
	}
	if len(missing) == 0 || e.id.ID == "" {
		return ""
	}
	return "alknet grant " + e.id.ID + " " + strings.Join(missing, " ")
}

func (e *explaining) operation(name string) error {
	h := e.n.callHandler()
	if h == nil {
		return e.step("service", errors.New("this node has no [call]"), "", "")
	}
	for _, s := range e.n.router.Services() {
		if s.ALPN == call.ALPN {
			if err := e.service(s); err != nil {
				return err
			}
		}
	}
	op, ok := e.n.registry.Lookup(name)
	if !ok && e.n.graph.Graph != nil {
		op, ok = e.n.graph.Lookup(name)
	}
	if !ok {
		return e.step("operation", errors.New("there is no such operation"), "", "alknet ops")
	}
	if op.Internal {
		return e.step("operation", errors.New("it was taken from a peer for this node only: export is not set"), "", "")
	}
	if e.id.ID == "" && !op.AllowAnonymous {
		return e.step("operation", errors.New("authentication required"), "", "")
	}
	return e.step("operation", op.Access.Check(&e.id), op.Name+" admits it", e.grant(op.Access))
}

// carried asks whether one of the services that carry forwards lets the peer in.
func (e *explaining) carried(alpns []string) error {
	refused := errors.New("this node has no service that carries forwards")
	hint := "alknet config example"
	for _, alpn := range alpns {
		for _, s := range e.n.router.Services() {
			if s.ALPN != alpn {
				continue
			}
			switch err := s.Access.Check(&e.id); {
			case e.id.ID == "" && !s.AllowAnonymous:
				refused, hint = errors.New("authentication required"), "alknet peer add NAME "+e.id.Peer.String()
			case err == nil:
				return e.step("service", nil, alpn+" admits it", "")
			default:
				refused, hint = err, e.grant(s.Access)
			}
		}
	}
	return e.step("service", refused, "", hint)
}

// forward asks the gate, for every address of a name.
func (e *explaining) forward(ctx context.Context, op forward.Op, network, address string) error {
	scope := forward.ScopeDial
	if op != forward.OpDial {
		scope = forward.ScopeListen
	}
	carriers := []string{tunnel.ALPN, ssh.ALPN}
	if network == "name" {
		carriers = carriers[:1]
	}
	if err := e.carried(carriers); err != nil {
		return err
	}
	ac := alknet.AccessControl{RequiredScopes: []string{scope}}
	if err := e.step("scope", ac.Check(&e.id), "it has "+scope, e.grant(ac)); err != nil {
		return err
	}
	decisions, err := e.n.gate.Explain(ctx, &e.id, op, network, address)
	if err != nil {
		return e.step("policy", err, "", "")
	}
	for _, d := range decisions {
		where := d.Address
		if d.Addr.IsValid() {
			where = d.Addr.String()
		}
		var err error
		if !d.Allow {
			err = fmt.Errorf("%s: rule %d of [forward] denies it: %s", printable.Quote(where), d.Rule, d.Reason)
		}
		if err := e.step("policy", err, fmt.Sprintf("%s: rule %d of [forward] allows it", printable.Quote(where), d.Rule), "alknet config explain forward.policy"); err != nil {
			return err
		}
	}
	return nil
}
