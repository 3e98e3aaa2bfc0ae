package ssh_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet/internal/apigolden"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if bridgePath != "" {
			_ = os.RemoveAll(filepath.Dir(bridgePath))
		}
		os.Exit(code)
	}))
}

func TestAPI(t *testing.T) { apigolden.Check(t) }
