package call

import "github.com/alkdev/alknet"

// inherit adds what a call made on behalf of another says of it.
func (c *outCall) inherit(req *request) {
	r, ok := RequestFromContext(c.ctx)
	if !ok {
		return
	}
	x := req.more()
	if len(x.trace) == 0 {
		x.trace = []byte(r.Trace)
	}
	x.state = r.c.meta.rare().state
	origin := r.c
	for origin.l == nil && origin.parent != nil {
		origin = origin.parent
	}
	req.hops = origin.meta.hops + 1
	x.path = append(x.path, origin.meta.rare().path...)
	if self := c.l.conn.LocalID(); !self.IsZero() {
		x.path = append(x.path, c.l.selfText())
	}
	x.claimed = origin.who.claim()
	x.delegation = c.l.s.onward(origin, c.l)
}

// selfText is the text of our own key on the link.
func (l *link) selfText() string {
	if s := l.self.Load(); s != nil {
		return *s
	}
	s := l.conn.LocalID().String()
	l.self.Store(&s)
	return s
}

// claim is forwarded_for of a caller, made once.
func (w *caller) claim() []byte {
	if b := w.claimed.Load(); b != nil {
		return *b
	}
	b := claim(w.id)
	w.claimed.Store(&b)
	return b
}

// claim is forwarded_for: whom our gate checked.
func claim(id *alknet.Identity) []byte {
	if id.ID == "" {
		return nil
	}
	w := wireIdentity{ID: id.ID, Scopes: []string{}, Resources: map[string][]string{}} // its rights are nobody's business
	if !id.Peer.IsZero() {
		w.Peer = id.Peer.String()
	}
	buf := getBuffer()
	defer putBuffer(buf)
	if encode(buf, &w) != nil {
		return nil
	}
	return append([]byte(nil), buf.Bytes()...)
}
