package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// keyLine is a line with a key that nobody has.
func keyLine(t testing.TB) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := xssh.NewPublicKey(pub)
	require.NoError(t, err)
	return strings.TrimSpace(string(xssh.MarshalAuthorizedKey(key))) + "\n"
}

// A list that is as it was is not parsed again; one that is another list in the
// same memory, or of the same length, is; and an error is not remembered.
func TestListsAreParsedWhenTheyChange(t *testing.T) {
	one, other := keyLine(t), keyLine(t)
	text := []byte(one)
	u := &Users{Revoked: func() ([]byte, error) { return text, nil }}
	key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(other))
	require.NoError(t, err)
	first, err := u.revocations()
	require.NoError(t, err)
	require.False(t, first.has(key))
	again, err := u.revocations()
	require.NoError(t, err)
	require.Same(t, first, again)
	require.Equal(t, copy(text, other), len(text))
	changed, err := u.revocations()
	require.NoError(t, err)
	require.True(t, changed.has(key), "a key that was just revoked")
	text = []byte("garbage")
	for range 2 {
		_, err = u.revocations()
		require.Error(t, err)
	}
	text = []byte(other)
	changed, err = u.revocations()
	require.NoError(t, err)
	require.True(t, changed.has(key))
	u.Revoked = func() ([]byte, error) { return nil, errors.New("planted") }
	_, err = u.revocations()
	require.Error(t, err, "what is remembered does not stand for a list that is gone")
}

// BenchmarkJudge is what one login costs when it is judged again, beside lists as
// long as they may be: Reauthenticate does it for each.
func BenchmarkJudge(b *testing.B) {
	var list, revoked strings.Builder
	for range maxKeys - 1 {
		list.WriteString(keyLine(b))
	}
	for i := range maxKeys {
		fmt.Fprintf(&revoked, "serial:SHA256:x:%d\n", i)
	}
	mine := keyLine(b)
	key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(mine))
	require.NoError(b, err)
	text, out := []byte(list.String()+mine), []byte(revoked.String())
	u := &Users{AuthorizedKeys: func() ([]byte, error) { return text, nil }, Revoked: func() ([]byte, error) { return out, nil }}
	for b.Loop() {
		_, err := u.judge(b.Context(), &Handler{}, proof{user: "bob", key: key})
		require.NoError(b, err)
	}
}
