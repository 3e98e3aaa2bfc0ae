package call

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// TestDrainDeliversTheLastAnswer: the end of a drained connection reset the
// streams that calls share, and with them answers that were on their way.
func TestDrainDeliversTheLastAnswer(t *testing.T) {
	for range 40 {
		drainWithAnswer(t)
	}
}

func drainWithAnswer(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var reg Registry
	require.NoError(t, reg.Register(Operation{Name: "slow/answer", AllowAnonymous: true, Func: QueryFunc(func(context.Context, struct{}) (string, error) {
		close(begun)
		<-release
		return strings.Repeat("answered", 7<<10), nil // 56 KiB take a moment
	})}))
	server, err := alknet.Listen(t.Context(), "127.0.0.1:0", nil)
	require.NoError(t, err)
	defer server.Close()
	client, err := alknet.NewEndpoint(nil, nil, nil)
	require.NoError(t, err)
	defer client.Close()
	router := &alknet.Router{}
	require.NoError(t, router.Register(Service(&Handler{Registry: &reg})))
	served := make(chan error, 1)
	go func() { served <- router.Serve(server) }()

	to := server.Addr()
	to.Over = alknet.QUIC
	c, err := Dial(t.Context(), client, to, nil)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Settled(t.Context()))
	answers := make(chan error, 1)
	go func() {
		out, err := Call[string](t.Context(), c, "slow/answer", struct{}{})
		if err == nil && len(out) != 56<<10 {
			err = errors.New(out)
		}
		answers <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- router.Shutdown(ctx) }()
	<-c.Draining()
	close(release)
	require.NoError(t, <-answers, "the call ran to its end while the node drained")
	require.NoError(t, <-drained)
	require.NoError(t, server.Close())
	require.ErrorIs(t, <-served, alknet.ErrRouterClosed)
}

// TestDrainWaitsForAnAnswerThatIsBeingMade: between the end of a handler and the
// writing of its answer the call was counted nowhere, and a drain took the
// connection for idle.
func TestDrainWaitsForAnAnswerThatIsBeingMade(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var reg Registry
	require.NoError(t, reg.Register(Operation{Name: "slow/answer", AllowAnonymous: true, Func: QueryFunc(func(context.Context, struct{}) (string, error) {
		close(begun)
		<-release
		return "answered", nil
	})}))
	drained := make(chan error, 1)
	h := &Handler{Registry: &reg, Audit: func(_ context.Context, r Record) error {
		if r.Operation == "slow/answer" && r.Decision == "ended" {
			select {
			case err := <-drained: // too early
				drained <- err
			case <-time.After(300 * time.Millisecond):
			}
		}
		return nil
	}}
	client, server := alknet.Pipe(ALPN, alknet.Identity{ID: "client"}, alknet.Identity{ID: "server"})
	router := &alknet.Router{}
	require.NoError(t, router.Register(Service(h)))
	served := make(chan error, 1)
	go func() { served <- router.ServeConn(t.Context(), server) }()
	c := NewClient(client, nil)
	defer c.Close()
	require.NoError(t, c.Settled(t.Context()))
	answers := make(chan error, 1)
	go func() {
		_, err := Call[string](t.Context(), c, "slow/answer", struct{}{})
		answers <- err
	}()
	<-begun
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- router.Shutdown(ctx)
	}()
	<-c.Draining()
	close(release)
	require.NoError(t, <-answers)
	require.NoError(t, <-drained)
	require.NoError(t, <-served)
}
