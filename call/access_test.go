package call

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
)

// checkAccess compares what the gate does with the oracle: call, list, schema
// and explain agree.
func checkAccess(t require.TestingT, c accessCase) {
	if !utf8.ValidString(c.named) {
		return
	}
	var reg Registry
	require.NoError(t, reg.Register(c.op))
	h := &Handler{Registry: &reg, Owns: func(_ context.Context, _ *alknet.Identity, _, id, _ string) bool { return c.owns[id] }}
	who := h.state().callerFor(c.id)
	runs, code := oracle(c)

	entry, err := h.state().visible(nil, []byte("x/op"), false)
	if err == nil {
		err = h.state().access(context.Background(), entry, who, c.input)
	}
	if runs {
		require.Nil(t, err, "%+v", c)
	} else {
		require.NotNil(t, err, "%+v", c)
		require.Equal(t, code, err.Code, "%+v", c)
	}
	// Discovery judges without an input: by ownership of any resource.
	c.named = ""
	c.op.ResourceID = ""
	seen, _ := oracle(c)
	ops, _ := h.Operations(c.id)
	listed := slices.ContainsFunc(ops, func(op *Operation) bool { return op.Name == "x/op" })
	require.Equal(t, seen, listed, "list: %+v", c)
	_, serr := Call[json.RawMessage](context.Background(), h.As(c.id), opSchema, schemaInput{Name: "x/op"})
	require.Equal(t, seen, serr == nil, "schema: %+v", c)
	if c.id.ID == "" {
		return // no token means nobody
	}
	h.Authenticate = func(context.Context, alknet.Identity, string) (alknet.Identity, error) { return c.id, nil }
	boss := h.As(alknet.Identity{ID: "boss", Scopes: []string{scopeExplain}})
	out, eerr := Call[explainOutput](context.Background(), boss, opExplain, explainInput{Operation: "x/op", As: "c"})
	require.NoError(t, eerr)
	require.Equal(t, seen, out.Allowed, "explain: %+v, %+v", c, out)
}

// TestAccessMatchesTheOracle runs random callers and operations.
func TestAccessMatchesTheOracle(t *testing.T) {
	n := 10_000
	switch {
	case Soak:
		n = 100_000
	case testing.Short():
		n = 2_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		b := make([]byte, 8)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		checkAccess(t, newAccessCase(b, []string{"", "a", "b,c", "*"}[r.IntN(4)], []string{"", "r", "other"}[r.IntN(3)]))
	}
}
