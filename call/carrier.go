package call

// A carrier carries the caller's end of a call for a [Stream] that is made
// outside of this package, as package peer's routes do. Its methods are those
// of Stream and keep their contracts, except that what Send gets was checked:
// it is one JSON value, or bytes with raw.
type carrier interface {
	// Recv returns the next output, io.EOF after the last.
	Recv() (data []byte, raw bool, err error)
	// Last is the number and the resume token of the output last received.
	Last() (seq uint64, token string)
	// Send sends an input. data may be used again when it returns.
	Send(data []byte, raw bool) error
	// CloseSend ends the input.
	CloseSend() error
	// Cancel ends the call with an error that is never nil.
	Cancel(err *Error)
}

// Carry makes s, a new Stream, the caller's end of a call that c carries: what a
// [Caller] of another package returns from Open. c has the methods Recv, Last,
// Send, CloseSend and Cancel of a Stream, with their contracts, except that what
// Send gets was checked and that Cancel's error is never nil.
func (s *Stream) Carry(c carrier) { s.end = carried{c} }

// SendChecked is [Stream.Send] without the check that data is one JSON value,
// for who hands on what another Stream's Recv returned. JSON that does not keep
// to it would break the connection's frames.
func (s *Stream) SendChecked(data []byte, raw bool) error { return s.sendChecked(data, raw) }

// carried is a carrier as a streamEnd.
type carried struct{ c carrier }

func (e carried) recv() (item, error) {
	data, raw, err := e.c.Recv()
	if err != nil {
		return item{}, err
	}
	seq, token := e.c.Last()
	it := item{data: data, raw: raw, seq: seq}
	if token != "" {
		it.token = []byte(token)
	}
	return it, nil
}

func (e carried) send(data []byte, raw, checked bool) error {
	if err := checkJSON(data, raw, checked); err != nil {
		return err
	}
	return e.c.Send(data, raw)
}

func (e carried) closeSend() error  { return e.c.CloseSend() }
func (e carried) cancel(err *Error) { e.c.Cancel(err) }

// NotRun returns a copy of e that says for certain that the operation was not
// executed. A handler that hands calls on uses it: of an error that a handler
// makes itself, the caller otherwise hears that it ran.
func (e *Error) NotRun() *Error {
	c := *e
	return c.ran(runNo)
}
