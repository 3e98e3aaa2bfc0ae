package tunnel

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet/internal/apigolden"
	"github.com/alkdev/alknet/internal/handlertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAPI(t *testing.T) { apigolden.Check(t) }

func TestService(t *testing.T) { handlertest.Run(t, Service(&Handler{})) }
