package forward

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet/internal/apigolden"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAPI(t *testing.T) { apigolden.Check(t) }
