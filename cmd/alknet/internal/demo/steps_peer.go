package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/peer/pair"
)

func (w *world) stepRoutes(ctx context.Context) (outcome, error) {
	c, err := w.dial(ctx, alknet.QUIC)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close()
	for _, who := range []string{"worker-a", "worker-b"} {
		got, err := call.Call[string](ctx, c, "demo/name@"+who, struct{}{})
		if err != nil {
			return outcome{}, err
		}
		if err := want(got == who, who, "%s", got); err != nil {
			return outcome{}, err
		}
	}
	anyOf, err := call.Call[string](ctx, c, "demo/name@any", struct{}{})
	if err != nil {
		return outcome{}, err
	}
	if err := want(strings.HasPrefix(anyOf, "worker-"), "a worker", "%s", anyOf); err != nil {
		return outcome{}, err
	}
	operator, err := agent.Connect(ctx, w.head.Control())
	if err != nil {
		return outcome{}, err
	}
	defer operator.Close()
	var all []string
	for r, err := range call.Subscribe[node.AllOut](ctx, operator, "node/all", node.AllIn{Operation: "demo/name", Input: json.RawMessage("{}")}) {
		if err != nil {
			return outcome{}, err
		}
		all = append(all, strings.Trim(string(r.Output), `"`))
	}
	slices.Sort(all)
	return outcome{"QUIC > QUIC, TCP", "@worker-a, @worker-b, @any, @all answered"},
		want(slices.Equal(all, []string{"worker-a", "worker-b"}), "[worker-a worker-b]", "%v", all)
}

// stepKill kills worker-a with SIGKILL in the middle of a stream.
func (w *world) stepKill(ctx context.Context) (outcome, error) {
	c, err := w.dial(ctx, alknet.QUIC)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close()
	for range 50 { // @any may begin on either
		counted, onA, err := w.countWithKill(ctx, c)
		if err != nil || !onA {
			if err != nil {
				return outcome{}, err
			}
			continue
		}
		var at int
		for i, item := range counted {
			if err := want(item.I == i+1, fmt.Sprintf("item %d", i+1), "item %d", item.I); err != nil {
				return outcome{}, err
			}
			if item.From == "worker-b" && at == 0 {
				at = item.I
			}
		}
		err = want(len(counted) == 60 && at > 20, "60 items, the last ones from worker-b", "%d items, from worker-b since %d", len(counted), at)
		return outcome{"QUIC > TCP", fmt.Sprintf("60 items, 0 lost, 0 twice, resumed on worker-b at %d", at)}, err
	}
	return outcome{}, &mismatch{"@any chooses worker-a at least once in 50 times", "never"}
}

// countWithKill counts to 60 and kills worker-a at 20 if it is the one that counts.
func (w *world) countWithKill(ctx context.Context, c *call.Client) (items []Item, onA bool, err error) {
	for item, err := range call.Subscribe[Item](ctx, c, "demo/count@any", Count{N: 60, GapMS: 2}) {
		if err != nil {
			return items, onA, err
		}
		if len(items) == 0 && item.From != "worker-a" {
			return nil, false, nil
		}
		onA = true
		items = append(items, item)
		if len(items) == 20 {
			if err := w.workerA.kill(); err != nil {
				return items, onA, err
			}
			w.workerA, w.killed = nil, true
		}
	}
	return items, onA, nil
}

// guest is a peer that joined with an invite.
type guest struct {
	endpoint *alknet.Endpoint
	id       string
}

// join makes a guest: an invite of the head, used by a fresh key.
func (w *world) join(ctx context.Context, name string) (*guest, string, error) {
	operator, err := agent.Connect(ctx, w.head.Control())
	if err != nil {
		return nil, "", err
	}
	defer operator.Close()
	ticket, err := call.Call[node.InviteOut](ctx, operator, "node/peers/invite", node.InviteIn{Name: name, Scopes: []string{"demo:read"}})
	if err != nil {
		return nil, "", err
	}
	_, key, err := newSeed()
	if err != nil {
		return nil, "", err
	}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	if err != nil {
		return nil, "", err
	}
	t, err := pair.ParseTicket(ticket.Ticket)
	if err != nil {
		return nil, "", errors.Join(err, ep.Close())
	}
	j, err := pair.Join(ctx, ep, t, pair.Joining{Name: name})
	if err != nil {
		return nil, "", errors.Join(err, ep.Close())
	}
	return &guest{ep, j.ID}, ticket.Ticket, nil
}

func (w *world) stepJoin(ctx context.Context) (outcome, error) {
	g, ticket, err := w.join(ctx, "guest")
	if err != nil {
		return outcome{}, err
	}
	defer g.endpoint.Close()
	c, err := call.Dial(ctx, g.endpoint, w.headAddr(), nil)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close()
	sum, err := call.Call[int](ctx, c, "demo/add", Sum{20, 22})
	if err != nil {
		return outcome{}, err
	}
	if err := want(sum == 42, "42", "%d", sum); err != nil {
		return outcome{}, err
	}
	_, key, err := newSeed()
	if err != nil {
		return outcome{}, err
	}
	thief, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	if err != nil {
		return outcome{}, err
	}
	defer thief.Close()
	t, err := pair.ParseTicket(ticket)
	if err != nil {
		return outcome{}, err
	}
	_, err = pair.Join(ctx, thief, t, pair.Joining{Name: "thief"})
	return outcome{"QUIC", "a new key joined and called; the ticket does not work twice"}, want(err != nil, "the used ticket is refused", "it let somebody in")
}
