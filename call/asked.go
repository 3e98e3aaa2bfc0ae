package call

import "github.com/go-json-experiment/json/jsontext"

// A request is what call.requested says beside its input.
type request struct {
	op        []byte // without the leading "/"
	deadline  int64  // remaining milliseconds; 0: none was sent
	window    int64  // a stream is expected, with this credit; 0: none was sent
	after     uint64 // resume: after this item
	hops      int
	inputs    bool // input_stream
	rawInput  bool
	resumable bool
	resumes   bool  // resume was sent
	some      *rare // nil: nothing of it
}

// rare is what few requests say: those that do not pay for no room for it.
type rare struct {
	key        []byte // idempotency key
	trace      []byte // traceparent
	state      []byte // tracestate
	token      []byte // auth_token
	resume     []byte // resume token
	delegation []byte
	path       []string
	claimed    jsontext.Value // forwarded_for
}

// nothing is what most requests say of it.
var nothing rare

// rare is for reading.
func (r *request) rare() *rare {
	if r.some == nil {
		return &nothing
	}
	return r.some
}

// more is for writing.
func (r *request) more() *rare {
	if r.some == nil {
		r.some = new(rare)
	}
	return r.some
}

// reset forgets everything but memory.
func (r *request) reset() {
	if r.some != nil {
		*r.some = rare{path: r.some.path[:0]}
	}
	*r = request{op: r.op[:0], some: r.some}
}
