package call

import (
	"context"
	"time"
)

// The operations that the protocol itself has.
const (
	opHello    = "services/hello"
	opPing     = "services/ping"
	opList     = "services/list"
	opSchema   = "services/schema"
	opChanges  = "services/changes"
	opDelegate = "services/delegate"
	opExplain  = "services/explain"
)

// A hello is what one end announces. The flags are the features of
// docs/protocol.md, section "Call".
type hello struct {
	mux, meta, credit, input, raw, resume, drain, notice, abort bool

	instance string
	window   int64
	maxFrame int64
}

// helloBody is a hello on the wire, in both directions.
type helloBody struct {
	V          int      `json:"v"`
	Features   []string `json:"features"`
	Instance   string   `json:"instance"`
	Agent      string   `json:"agent,omitzero"`
	Window     int64    `json:"window,omitzero"`
	MaxFrame   int64    `json:"max_frame,omitzero"`
	Delegation string   `json:"delegation,omitzero"`
}

// ourFeatures is what this implementation understands.
var ourFeatures = []string{"mux", "meta", "credit", "input", "raw", "resume", "drain", "notice", "abort"}

// agent names the implementation.
const agent = "alknet-go"

func (s *state) hello() helloBody {
	return helloBody{
		V: 1, Features: ourFeatures, Instance: s.instance, Agent: agent, Window: s.lim.WindowBytes, MaxFrame: s.lim.MaxFrameBytes,
	}
}

// parse reads what the peer announced.
func (b *helloBody) parse() *hello {
	h := &hello{window: defaultWindowBytes, maxFrame: defaultMaxFrameBytes}
	if len(b.Instance) <= maxIDBytes && printableASCII([]byte(b.Instance)) {
		h.instance = b.Instance
	}
	if b.Window > 0 {
		h.window = min(b.Window, defaultMaxWindowBytes)
	}
	if b.MaxFrame > 0 {
		h.maxFrame = min(b.MaxFrame, largestFrameBytes)
	}
	flags := map[string]*bool{
		"mux": &h.mux, "meta": &h.meta, "credit": &h.credit, "input": &h.input, "raw": &h.raw,
		"resume": &h.resume, "drain": &h.drain, "notice": &h.notice, "abort": &h.abort,
	}
	for _, name := range b.Features {
		if f := flags[name]; f != nil {
			*f = true
		}
	}
	return h
}

// greet says hello to a peer that we dialled. An error, or no answer in time,
// means a base peer.
func (l *link) greet() {
	defer l.announceNothing()
	ctx, cancel := context.WithTimeout(l.ctx, helloTimeout)
	defer cancel()
	body := l.s.hello()
	body.Delegation = l.s.delegateTo(l)
	begun := time.Now()
	answer, err := Call[helloAnswer](ctx, l.client, opHello, body)
	if err != nil {
		return // a base peer, or none any more
	}
	l.rttNS.Store(int64(time.Since(begun)))
	l.announce(answer.helloBody.parse())
	l.renewDelegation()
}

// helloAnswer ignores members that are newer than we are.
type helloAnswer struct{ helloBody }

// announceNothing settles that the peer is a base peer, unless it announced.
func (l *link) announceNothing() { l.known.Do(func() { close(l.helloc) }) }

// answerHello notes what a peer announces and says what we are.
func (l *link) answerHello(body helloBody) helloBody {
	h := body.parse()
	l.announce(h)
	if len(body.Delegation) > 0 {
		l.hand(body.Delegation)
	}
	return l.s.hello()
}

// peerDrains notes that the peer takes no new calls.
func (l *link) peerDrains() { l.drainSet.Do(func() { close(l.drainc) }) }

func (l *link) peerDraining() bool {
	select {
	case <-l.drainc:
		return true
	default:
		return false
	}
}
