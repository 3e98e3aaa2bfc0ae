package handlertest

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testALPN = "example.com/handlertest/1"

var echo = alknet.StreamFunc(func(_ context.Context, s *alknet.Stream) error {
	_, err := io.Copy(s, s)
	return err
})

func TestEchoConforms(t *testing.T) {
	Run(t, alknet.Service{ALPN: testALPN, Handler: echo})
}

func TestEchoConformsOnRaw(t *testing.T) {
	Run(t, alknet.Service{ALPN: testALPN, Handler: echo, Over: alknet.Raw})
}

func TestAnonymousServiceConforms(t *testing.T) {
	Run(t, alknet.Service{ALPN: testALPN, Handler: echo, Over: alknet.QUIC | alknet.Raw, AllowAnonymous: true})
}

func TestServiceWithRulesConforms(t *testing.T) {
	ac := alknet.AccessControl{
		RequiredScopes: []string{"a", "b"}, RequiredScopesAny: []string{"c", "d"}, ResourceType: "repo", ResourceAction: "read",
	}
	Run(t, alknet.Service{ALPN: testALPN, Handler: echo, Over: alknet.Mux, Access: ac, AllowAnonymous: true})
}

// A server has a goroutine of its own from its first connection to its Shutdown,
// and leaves draining to that.
type server struct {
	life  context.Context
	end   context.CancelFunc // only Shutdown and the test call it
	begin sync.Once
	wg    sync.WaitGroup
}

func newServer() *server {
	s := &server{}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

func (s *server) ServeConn(ctx context.Context, conn *alknet.Conn) error {
	s.begin.Do(func() { s.wg.Go(func() { <-s.life.Done() }) })
	closed := func() { _ = conn.Close() }
	defer context.AfterFunc(ctx, closed)()
	defer context.AfterFunc(s.life, closed)()
	for {
		st, err := conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, st)
		_ = st.Close()
	}
}

func (s *server) Shutdown(context.Context) error {
	s.end()
	s.wg.Wait()
	return nil
}

func TestShutdownerConforms(t *testing.T) {
	Run(t, alknet.Service{ALPN: testALPN, Handler: newServer(), Over: alknet.QUIC | alknet.Raw})
}

// A Shutdowner that leaves its connections, or a goroutine, is detected.
func TestForgetfulShutdownerIsDetected(t *testing.T) {
	h := forgetful{newServer()}
	defer h.end()
	s := impatient(alknet.QUIC, alknet.Service{Handler: h})
	s.shared = true
	before := goleak.IgnoreCurrent()
	require.ErrorIs(t, s.shutsDown(), errDraining)
	require.ErrorIs(t, s.leaks(before), errLeaks)
}

type forgetful struct{ *server }

func (forgetful) Shutdown(context.Context) error { return nil }
