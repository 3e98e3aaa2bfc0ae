package call

import "context"

// Golden are the frames of docs/protocol.md, as this package writes them.
func Golden() [][]byte {
	in := []byte(`{"a":2,"b":3}`)
	req := &request{op: []byte("math/add")}
	frame := func(t eventType, id string, payload func(b []byte) []byte) []byte {
		return endFrame(payload(appendFrameHead(nil, t, []byte(id))), 0)
	}
	unary := &inCall{id: "q1", answered: true, reply: []byte("5"), peer: &basePeer}
	items := &inCall{id: "s1", items: true, peer: &basePeer}
	return [][]byte{
		frame(evRequested, "q1", func(b []byte) []byte { return req.appendPayload(b, in, true) }),
		unary.appendEnd(nil, nil), unary.appendEnd(nil, notFound("math/add")), items.appendEnd(nil, nil),
		frame(evAborted, "s1", func(b []byte) []byte { return append(b, emptyObject...) }),
	}
}

func add1[T any](_ context.Context, in T) (T, error) { return in, nil }

// EndLinks ends the connections of h as their transport would that says err.
func EndLinks(h *Handler, err error) {
	s := h.state()
	s.mu.Lock()
	links := make([]*link, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
	for _, l := range links {
		l.fail(err)
	}
}

// HoldWriter begins a frame on a new stream of c; release ends it, for a flusher
// to write.
func HoldWriter(c *Client) (release func(), err error) {
	ln, err := c.l.ownLane(context.Background())
	if err != nil {
		return nil, err
	}
	return func() { ln.w.end(false, 0) }, ln.w.begin()
}

// Runner waits until what serves c has returned.
func Runner(c *Client) { c.l.runner.Wait() }

// Fail is what who notices first that the connection is over calls.
func Fail(c *Client) { c.l.fail(nil) }
