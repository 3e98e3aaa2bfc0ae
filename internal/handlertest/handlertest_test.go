package handlertest

import (
	"context"
	"io"
	"testing"

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
