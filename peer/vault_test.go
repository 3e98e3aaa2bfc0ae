package peer

import (
	"crypto"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/vault"
)

// TestSuccessorOfAVault: the statement is made with the two signers that a vault's
// rotation returns, neither of which shows its key, and with none after a lock.
func TestSuccessorOfAVault(t *testing.T) {
	phrase, err := vault.NewPhrase(12)
	require.NoError(t, err)
	v, err := vault.New(phrase, vault.Secret{}, nil)
	require.NoError(t, err)
	defer v.Close()
	old, next, err := v.RotateIdentity()
	require.NoError(t, err)
	idOf := func(k crypto.Signer) alknet.PeerID {
		public, ok := k.Public().(ed25519.PublicKey)
		require.True(t, ok)
		return alknet.PeerID(public)
	}
	b := openBook(t, "")
	require.NoError(t, b.Update(put(Peer{ID: "worker-a", Keys: []Key{{ID: idOf(old)}}})))
	statement, err := SignSuccessor(old, next, time.Hour)
	require.NoError(t, err)
	require.NoError(t, b.Succeed(statement))
	for _, k := range []crypto.Signer{old, next} {
		id, err := b.Authenticate(t.Context(), provenBy(idOf(k)), "x")
		require.NoError(t, err)
		require.Equal(t, "worker-a", id.ID)
	}
	old, next, err = v.RotateIdentity()
	require.NoError(t, err)
	statement, err = SignSuccessor(old, next, time.Hour)
	require.NoError(t, err)
	require.NoError(t, b.Succeed(statement), "and so on")
	v.Lock()
	_, err = SignSuccessor(old, next, time.Hour)
	require.ErrorIs(t, err, vault.ErrLocked)
}
