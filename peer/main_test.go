package peer

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(workerEnv); spec != "" {
		os.Exit(runWorker(spec))
	}
	if spec := os.Getenv(headEnv); spec != "" {
		os.Exit(runHead(spec))
	}
	goleak.VerifyTestMain(m)
}
