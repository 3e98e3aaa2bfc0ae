package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/internal/printable"
)

// A Reach is how one peer can be reached: by which paths, for which services, and
// what its node says of itself.
type Reach struct {
	Peer     string        `json:"peer"`     // as it was asked for
	Paths    []Path        `json:"paths"`    // every address, by QUIC and by TCP
	Services []ServiceSeen `json:"services"` // by the first path that works
	Theirs   []Finding     `json:"theirs"`   // what its node warns of, if it tells us
	Told     bool          `json:"told"`     // it did; that needs node:read there
	Findings []Finding     `json:"findings"` // what is wrong
}

// A Path is one way to a peer.
type Path struct {
	Address   string  `json:"address"`      // HOST:PORT
	Transport string  `json:"transport"`    // QUIC or TCP
	Answer    string  `json:"answer"`       // ok, denied or unreachable
	Millis    float64 `json:"ms"`           // until it answered
	Why       string  `json:"why,omitzero"` // why not
	err       error
}

// A ServiceSeen is what a peer says to one ALPN.
type ServiceSeen struct {
	ALPN   string `json:"alpn"`         // the name of the service
	Answer string `json:"answer"`       // ok, denied, not_served or unreachable
	Why    string `json:"why,omitzero"` // why not
}

// The answers of paths and services.
const (
	answered   = "ok"
	denied     = "denied"
	notServed  = "not_served"
	unanswered = "unreachable"
)

// The bounds of an examination: of all of it, of one dial, and how long a service
// has to refuse what its handshake let in.
const (
	reachTime  = 10 * time.Second
	dialTime   = 3 * time.Second
	refuseTime = 400 * time.Millisecond
	maxPaths   = 16
)

// probed are the services that are asked for, and over what.
var probed = []struct {
	alpn string
	over alknet.Transport
}{
	{"alknet/call", alknet.QUIC | alknet.Raw}, {"alknet/pair", alknet.QUIC | alknet.Raw},
	{"alknet/ssh", alknet.QUIC | alknet.Mux}, {"alknet/tunnel", alknet.QUIC | alknet.Mux},
}

// Probe looks at the ways to a peer, for at most ten seconds. It changes nothing.
func Probe(ctx context.Context, ep *alknet.Endpoint, name string, r node.Resolved) Reach {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	out := Reach{Peer: name, Paths: []Path{}, Services: []ServiceSeen{}, Theirs: []Finding{}, Findings: []Finding{}}
	targets, err := r.Targets()
	if err != nil {
		out.Findings = append(out.Findings, Finding{"no_address", Error, "no address is known for " + printable.Quote(name), "alknet peer add, or have it dial us"})
		return out
	}
	var best *alknet.Addr
	for _, to := range targets[:min(len(targets), maxPaths)] {
		for _, over := range []alknet.Transport{alknet.QUIC, alknet.Raw} {
			to.Over = over
			p := try(ctx, ep, to)
			if best == nil && p.Answer == answered {
				found := to
				best = &found
			}
			out.Paths = append(out.Paths, p)
		}
	}
	out.judgePaths(name)
	if best == nil {
		return out
	}
	for _, s := range probed {
		to := *best
		to.Over = s.over
		out.Services = append(out.Services, see(ctx, ep, to, s.alpn))
	}
	out.ask(ctx, ep, *best)
	return out
}

// try dials a path and pings over it.
func try(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr) Path {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	p := Path{Address: to.HostPort, Transport: "QUIC"}
	if to.Over == alknet.Raw {
		p.Transport = "TCP"
	}
	begin := time.Now()
	conn, err := ep.Dial(ctx, to, call.ALPN)
	if err == nil {
		c := call.NewClient(conn, nil)
		_, _, err = c.Ping(ctx)
		_ = c.Close() // it was for the ping only
	}
	p.Millis = float64(time.Since(begin).Microseconds()) / 1000
	p.Answer, p.err = answerOf(err), err
	if err != nil {
		p.Why = err.Error()
	}
	return p
}

// answerOf is what an error says of a path or service.
func answerOf(err error) string {
	ae, said := errors.AsType[*alknet.Error](err)
	switch {
	case err == nil:
		return answered
	case errors.Is(err, alknet.ErrNoService):
		return notServed
	case said && ae.Remote && (ae.Code == alknet.CodeRefused || ae.Code == alknet.CodeRevoked || ae.Code == alknet.CodeUnauthenticated):
		return denied
	}
	if ce, ok := errors.AsType[*call.Error](err); ok && (ce.Code == codes.Forbidden || ce.Code == codes.Unauthenticated || ce.Code == codes.NotFound) {
		return answered // it spoke with us
	}
	return unanswered
}

// see asks for a service. What the peer decides after the handshake comes as a close.
func see(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr, alpn string) ServiceSeen {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := ep.Dial(ctx, to, alpn)
	if err == nil {
		wait, stop := context.WithTimeout(ctx, refuseTime)
		_, err = conn.AcceptStream(wait)
		if wait.Err() != nil {
			err = nil // it let us in
		}
		stop()
		_ = conn.Close() // nothing was sent
	}
	s := ServiceSeen{ALPN: alpn, Answer: answerOf(err)}
	if err != nil {
		s.Why = err.Error()
	}
	return s
}

// judgePaths says what the paths mean.
func (r *Reach) judgePaths(name string) {
	count := make(map[string]int) // "QUIC ok"
	var last Path
	for _, p := range r.Paths {
		count[p.Transport+" "+p.Answer]++
		count[p.Answer]++
		last = p
	}
	show := "alknet peer show " + name
	switch {
	case count[answered] == 0 && count[denied] > 0:
		r.add(Finding{"denied", Error, printable.Quote(name) + " answers and refuses us", "there: alknet policy explain US alknet/call"})
	case count[answered] == 0 && count[notServed] > 0:
		r.add(Finding{"no_call", Error, printable.Quote(name) + " answers and has no [call]", "there: add [call] to its configuration"})
	case count[answered] == 0:
		r.add(Finding{"peer_unreachable", Error, fmt.Sprintf("no path works: %s over %s: %s", last.Address, last.Transport, last.Why), show})
	case count["QUIC "+answered] == 0:
		r.add(Finding{"udp_blocked", Warning, "only TCP works: UDP is blocked on the way, or the peer does not listen on it", "open UDP on the way, or set node.listen there"})
	case count["TCP "+answered] == 0:
		r.add(Finding{"tcp_blocked", Warning, "only QUIC works: where UDP is blocked this peer cannot be reached", "open TCP on the way, or set node.listen there"})
	}
}

func (r *Reach) add(f Finding) { r.Findings = append(r.Findings, f) }

// ask asks the peer's node what it warns of.
func (r *Reach) ask(ctx context.Context, ep *alknet.Endpoint, to alknet.Addr) {
	conn, err := ep.Dial(ctx, to, call.ALPN)
	if err != nil {
		return // the paths say so
	}
	c := call.NewClient(conn, nil)
	defer c.Close()
	s, err := call.Call[node.Status](ctx, c, "node/status", struct{}{})
	if err != nil {
		return // it does not tell us
	}
	r.Told = true
	for _, w := range s.Warnings {
		r.Theirs = append(r.Theirs, Finding{w.Code, Warning, w.Text, w.Fix})
	}
	if s.Node.State != "ready" {
		r.Theirs = append(r.Theirs, Finding{"not_ready", Warning, "its node is " + printable.Quote(s.Node.State), ""})
	}
}
