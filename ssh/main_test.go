package ssh_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet/internal/apigolden"
)

func TestMain(m *testing.M) {
	if peer := os.Getenv(peerEnv); peer != "" {
		if err := runPeer(strings.Fields(peer)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if bridgePath != "" {
			_ = os.RemoveAll(filepath.Dir(bridgePath))
		}
		os.Exit(code)
	}))
}

func TestAPI(t *testing.T) { apigolden.Check(t) }
