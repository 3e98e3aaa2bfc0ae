package pair

import (
	"testing"

	"github.com/alkdev/alknet/internal/apigolden"
)

func TestAPI(t *testing.T) { apigolden.Check(t) }
