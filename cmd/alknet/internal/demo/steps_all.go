package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/peer/pair"
)

// stepStranger has a process with an unknown key try every service on every
// transport. The door for invites is open to all and is tried with a false ticket.
func (w *world) stepStranger(ctx context.Context) (outcome, error) {
	e := errand{Role: "stranger", Name: "stranger", Seed: w.keys["stranger"].Seed(), Head: w.headAddr().String()}
	for _, s := range w.head.Status().Services {
		if s.ALPN != pair.ALPN {
			e.ALPN = append(e.ALPN, s.ALPN)
		}
	}
	var out bytes.Buffer
	c, err := w.start(ctx, e, &out)
	if err != nil {
		return outcome{}, err
	}
	err = c.cmd.Wait()
	if err != nil {
		return outcome{}, err
	}
	var tried []knocked
	if err := json.Unmarshal(out.Bytes(), &tried); err != nil {
		return outcome{}, err
	}
	for _, k := range tried {
		if err := want(k.Refused, k.ALPN+" over "+k.Over+" refused", "let in"); err != nil {
			return outcome{}, err
		}
	}
	if err := want(len(tried) == 2*len(e.ALPN) && len(e.ALPN) >= 3, "every service tried twice", "%d attempts", len(tried)); err != nil {
		return outcome{}, err
	}
	if err := w.falseTicket(ctx); err != nil {
		return outcome{}, err
	}
	return outcome{"QUIC, TCP", fmt.Sprintf("%d attempts on %d services, all refused", len(tried)+1, len(e.ALPN)+1)}, nil
}

// falseTicket tries to join with a secret that nobody gave out.
func (w *world) falseTicket(ctx context.Context) error {
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: w.keys["stranger"]})
	if err != nil {
		return err
	}
	defer ep.Close()
	t := pair.Ticket{Head: w.id("head"), Addrs: []string{w.headAddr().HostPort}, Secret: "AAAAAAAAAAAAAAAAAAAAAAAAAA"}
	_, err = pair.Join(ctx, ep, t, pair.Joining{Name: "stranger"})
	ce, ok := errors.AsType[*call.Error](err)
	return want(ok && ce.Code == "FORBIDDEN", "FORBIDDEN for a false ticket", "%v", err)
}

// stepRevoke disables a peer while it has a live stream.
func (w *world) stepRevoke(ctx context.Context) (outcome, error) {
	g, _, err := w.join(ctx, "revoked")
	if err != nil {
		return outcome{}, err
	}
	defer g.endpoint.Close()
	c, err := call.Dial(ctx, g.endpoint, w.headAddr(), nil)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close()
	var revoked time.Time
	items := 0
	for _, err := range call.Subscribe[Item](ctx, c, "demo/count", Count{N: 100_000, GapMS: 1}) {
		if err != nil {
			break
		}
		if items++; items == 5 {
			revoked = time.Now()
			if err := w.disable(ctx, g.id); err != nil {
				return outcome{}, err
			}
		}
	}
	took := time.Since(revoked)
	if err := want(!revoked.IsZero() && took < time.Second, "cut within 1 s", "%v after the revocation, %d items", took, items); err != nil {
		return outcome{}, err
	}
	<-c.Done()
	again, err := call.Dial(ctx, g.endpoint, w.headAddr(), nil)
	if err == nil {
		_, err = call.Call[int](ctx, again, "demo/add", Sum{1, 1})
		_ = again.Close() // it is refused
	}
	return outcome{"QUIC", fmt.Sprintf("live stream cut %d ms after, and no way back", took.Milliseconds())},
		want(err != nil, "the revoked peer is refused", "let in again")
}

// disable does what "alknet peer disable" does.
func (w *world) disable(ctx context.Context, id string) error {
	p := w.head.Places()
	book, err := node.OpenBook(p)
	if err != nil {
		return err
	}
	defer book.Close()
	if err := book.Update(func(peers map[string]peer.Peer) error {
		e := peers[id]
		e.Disabled = true
		peers[id] = e
		return nil
	}); err != nil {
		return err
	}
	operator, err := agent.Connect(ctx, p.Control)
	if err != nil {
		return err
	}
	defer operator.Close()
	_, err = call.Call[string](ctx, operator, "node/peers/sync", struct{}{})
	return err
}

// stepDrain stops the head while it works on a call.
func (w *world) stepDrain(ctx context.Context) (outcome, error) {
	c, err := w.dial(ctx, alknet.QUIC)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close()
	w.calls = w.count()
	type answer struct {
		from string
		err  error
	}
	answers := make(chan answer, 1)
	begin(func() {
		from, err := call.Call[string](ctx, c, "demo/sleep", Count{GapMS: 300})
		answers <- answer{from, err}
	})
	for w.sleeping.Load() == 0 {
		if err := pause(ctx, time.Millisecond); err != nil {
			return outcome{}, err
		}
	}
	begun := time.Now()
	w.head.Stop(false)
	a := <-answers
	if a.err != nil {
		return outcome{}, a.err
	}
	took := time.Since(begun)
	if err := want(took < 3*time.Second, "the head ends when nothing runs any more", "it waited %d ms", took.Milliseconds()); err != nil {
		return outcome{}, err
	}
	return outcome{"QUIC", fmt.Sprintf("answered, then the head ended after %d ms", took.Milliseconds())},
		want(a.from == "head", "the head's answer", "%s", a.from)
}

// count is how many calls the head has served.
func (w *world) count() (n int64) {
	for _, calls := range w.head.Status().Calls.ByCode {
		n += calls
	}
	return n
}
