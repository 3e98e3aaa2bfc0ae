package peer

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call/delegation"
	"github.com/alkdev/alknet/internal/strictjson"
)

// delegationPrefix begins a delegation.
const delegationPrefix = "alkd1."

// delegated is whom a delegation means: its first issuer, who must be in the
// list and enabled, and must not have been revoked since it was signed.
func (b *Book) delegated(conn alknet.Identity, token string) (alknet.Identity, error) {
	lookup := func(key alknet.PeerID) (alknet.Identity, bool) {
		id, err := b.identify(key)
		return id, err == nil && id.ID != ""
	}
	id, err := delegation.Verify(token, delegation.Options{Presenter: conn.Peer, Lookup: lookup, Bearer: true, Now: b.now()})
	if err != nil {
		return alknet.Identity{}, err
	}
	p := b.index.Load().peers[id.ID]
	if p == nil || !p.RevokedBefore.IsZero() && issued(token).Before(p.RevokedBefore) {
		return alknet.Identity{}, errToken
	}
	return id, nil
}

// issued is when the first link of a delegation that has verified was signed.
func issued(token string) time.Time {
	first, _, _ := strings.Cut(strings.TrimPrefix(token, delegationPrefix), ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Issued int64 `json:"iat"`
	}
	if strictjson.Decode(raw, &claims) != nil {
		return time.Time{}
	}
	return time.Unix(claims.Issued, 0)
}
