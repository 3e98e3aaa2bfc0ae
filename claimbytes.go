package alknet

import (
	"errors"

	"github.com/alkdev/alknet/internal/budget"
)

// claimMemory lends a connection's budget to the multiplexer.
type claimMemory struct{ c *claim }

// errBudget stops a window from growing, or a stream from being opened.
var errBudget = errors.New("alknet: the memory for peers is used up")

// Reserve charges n bytes to the connection.
func (m claimMemory) Reserve(n int64) error {
	if !m.c.grow(n) {
		return errBudget
	}
	return nil
}

// Release gives n of them back.
func (m claimMemory) Release(n int64) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.c.closed {
		return // close gave them back
	}
	m.c.cost -= n
	if m.c.anon {
		m.c.l.unauth.Release(n)
	} else if m.c.known {
		m.c.l.total.Release(n)
	}
}

// budgetError is the refusal of a budget: the peer hears the limit's name.
func budgetError(err error) error {
	le, ok := errors.AsType[*budget.LimitError](err)
	if !ok {
		return err
	}
	name := le.Setting
	if len(name) > len("limits.") {
		name = name[len("limits."):]
	}
	return limitError(name, le.Max)
}
