package pair

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/strictjson"
)

// FuzzTicket: what is read is written the same.
func FuzzTicket(f *testing.F) {
	f.Add("alknet://pmmeogb4dtyhpiszupyg1emidabr61renm6quxkqo67ijnmckhbo@h:1,[::1]:2/?join=ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	f.Add("alknet://@/?join=")
	f.Fuzz(func(t *testing.T, s string) {
		ticket, err := ParseTicket(s)
		if err != nil {
			require.ErrorIs(t, err, errTicket)
			return
		}
		again, err := ParseTicket(ticket.String())
		require.NoError(t, err)
		require.Equal(t, ticket, again)
	})
}

// FuzzJoin: what a stranger says of itself is bounded, and what it is answered is
// taken only as far as the ticket proves it.
func FuzzJoin(f *testing.F) {
	f.Add([]byte(`{"secret":"ABCDEFGHIJKLMNOPQRSTUVWXYZ","name":"a","addrs":["h:1"],"labels":{"a":"b"}}`))
	f.Add([]byte(`{"id":"a","scopes":[],"head":{"id":"head","keys":["x"],"addrs":["h:1"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in joinInput
		if strictjson.DecodeExact(data, &in) == nil && in.check() == nil {
			require.LessOrEqual(t, len(in.Name), maxName)
			require.True(t, validSecret(in.Secret))
		}
		var out joinOutput
		if strictjson.Decode(data, &out) == nil {
			var ticket Ticket
			ticket.Addrs = []string{"h:1"}
			if j, err := out.joined(ticket); err == nil {
				require.Equal(t, ticket.Head, j.Head.Keys[0].ID)
			}
		}
	})
}
