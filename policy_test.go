package alknet_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/policy"
)

// TestPolicy applies the rules of the house to the whole module. The rules and
// their reasons are in internal/policy; they are not edited to make a build pass.
func TestPolicy(t *testing.T) {
	found, err := policy.Check(os.DirFS("."))
	require.NoError(t, err)
	for _, f := range found {
		t.Error(f)
	}
}
