package handlertest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/alkdev/alknet"
)

// oneStream reports whether the peer gets one stream only: on Raw, and over Pipe
// where it stands for Raw.
func (s *suite) oneStream() bool { return s.over == alknet.Raw || s.svc.Over == alknet.Raw }

// open opens a stream. It returns nil where the handler has already ended the
// connection, which it may.
func (n *node) open(c *alknet.Conn) (*alknet.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), n.wait)
	defer cancel()
	st, err := c.OpenStream(ctx)
	if err != nil && hasEnded(c) {
		return nil, nil
	}
	return st, err
}

func hasEnded(c *alknet.Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// connections calls end with an idle connection and with one on which a stream
// has begun, and waits for the handler of each.
func (n *node) connections(end func(*alknet.Conn, *visit) error, wrong error) error {
	for _, begun := range []bool{false, true} {
		c, v, err := n.connect()
		if err != nil {
			return err
		}
		kind := "idle"
		if begun {
			kind = "a stream has begun"
			if st, err := n.open(c); err != nil {
				return err
			} else if st != nil {
				_, _ = st.Write([]byte("x")) // the handler may have ended it
			}
		}
		if err := end(c, v); err != nil {
			return err
		}
		if err := n.wants(v.ended, wrong); err != nil {
			return fmt.Errorf("%w (%s)", err, kind)
		}
		_ = c.CloseWithError(alknet.CodeOK, "") // the handler's return has closed it
	}
	return nil
}

// endsWithConn: the peer closes the connection, with a good code and with a bad one.
func endsWithConn(n *node) error {
	for _, code := range []alknet.ErrorCode{alknet.CodeOK, alknet.CodeInternal, 77} {
		end := func(c *alknet.Conn, _ *visit) error { return c.CloseWithError(code, "") }
		if err := n.connections(end, errConnEnded); err != nil {
			return fmt.Errorf("%w, with code %v", err, code)
		}
	}
	return n.healthy()
}

// endsWithContext: the context of the handler ends while its connection lives.
func endsWithContext(n *node) error {
	end := func(_ *alknet.Conn, v *visit) error { v.cancel(); return nil }
	if err := n.connections(end, errCtxEnded); err != nil {
		return err
	}
	return n.healthy()
}

// endsWhenDraining: Router.Shutdown need not cut an idle connection.
func endsWhenDraining(n *node) error {
	if n.shared {
		return nil // at the end, when it is told
	}
	c, v, err := n.connect()
	if err != nil {
		return err
	}
	if err := n.rest(c, v); err != nil {
		return err
	}
	if err := n.shutdown(); err != nil {
		return err
	}
	if err := n.end(c); errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errPeerUnaware
	}
	return n.calm()
}

// rest makes c idle: a stream has come and gone. On Raw, where there is but one,
// c is as it was dialled.
func (n *node) rest(c *alknet.Conn, v *visit) error {
	if !n.oneStream() {
		st, err := n.open(c)
		if err != nil || st == nil {
			return err
		}
		return st.Close()
	}
	_, streamFunc := n.svc.Handler.(alknet.StreamFunc)
	if !streamFunc || n.over != alknet.Raw {
		return nil
	}
	st, err := n.open(c)
	if err != nil || st == nil {
		return err
	}
	n.goes(func() {
		select {
		case <-v.conn.Draining():
			_ = st.CloseWrite() // the handler may be faster
		case <-v.ended:
		}
	})
	return nil
}

// shutdown drains the Router, which must not need all of the time it has.
func (n *node) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), n.wait)
	defer cancel()
	err := n.router.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", errDraining, err)
	}
	return err
}

// shutsDown drains, and tells the handler, with an idle connection over each
// transport.
func (s *suite) shutsDown() error {
	list := carriers(s.svc)
	told := *s
	told.shared = false
	told.over = list[len(list)-1] // a node with sockets
	n, err := told.start()
	if err != nil {
		return err
	}
	for _, told.over = range list {
		if _, _, err := n.connect(); err != nil {
			return errors.Join(err, n.stop())
		}
	}
	return errors.Join(n.shutdown(), n.stop())
}
