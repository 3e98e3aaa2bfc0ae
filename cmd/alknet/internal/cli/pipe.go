package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/safe"
)

func (a *app) pipeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "pipe PEER ALPN",
		Short: "Make standard input and output one stream to a service of a peer",
		Long: "Make standard input and output one stream to a service of a peer.\n" +
			"The end of standard input ends that direction only. The status is 0 if both directions ended cleanly.",
		Args: count(2, 2),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, cancel := a.bounded(c.Context())
		defer cancel()
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // whoever reads from us may be gone: the peer is still told
		w, err := a.way(ctx)
		if err != nil {
			return err
		}
		defer w.close()
		conn, err := w.dial(ctx, args[0], transports(args[1]), args[1])
		if err != nil {
			return err
		}
		defer conn.Close()
		s, err := conn.OpenStream(ctx)
		if err != nil {
			return unreachable(args[0], err)
		}
		if err := a.pipe(ctx, s); err != nil {
			return unreachable(args[0], err)
		}
		return nil
	}
	return c
}

// pipeBuffer is how much is copied at once.
const pipeBuffer = 64 << 10

// pipe copies both ways until both directions have ended.
func (a *app) pipe(ctx context.Context, s *alknet.Stream) error {
	stop := context.AfterFunc(ctx, func() { s.Reset(alknet.CodeOK) })
	defer stop()
	defer s.Close()
	var wg sync.WaitGroup
	up := make(chan error, 1)
	safe.Go(&wg, func(err error) { up <- err }, func() {
		_, err := io.CopyBuffer(onlyWriter{s}, onlyReader{a.Stdin}, make([]byte, pipeBuffer))
		if err == nil {
			err = s.CloseWrite()
		}
		up <- err
	})
	_, err := io.CopyBuffer(onlyWriter{a.Stdout}, onlyReader{s}, make([]byte, pipeBuffer))
	if f, ok := a.Stdout.(*os.File); ok {
		_ = f.Close() // whoever reads from us sees the end now, not when we have sent all
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("receive: %w", err)
	}
	select {
	case err = <-up:
	case <-s.Conn().Done():
		select {
		case err = <-up:
		default:
			return nil // the peer has said all and gone; nobody reads what we would still send
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// onlyReader and onlyWriter hide methods by which io.CopyBuffer would not use the
// buffer.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
