package peer

import (
	"crypto"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/strictjson"
)

// The bounds of a succession.
const (
	successorPrefix   = "alks1."
	successorLabel    = "alknet/successor/1\x00"
	defaultOverlap    = 7 * 24 * time.Hour
	maxOverlap        = 30 * 24 * time.Hour
	maxStatementBytes = 2 << 10
	clockSkew         = time.Minute
)

// successorClaims is what a statement says: docs/protocol.md, section "Peers".
type successorClaims struct {
	Old      alknet.PeerID `json:"old"`
	New      alknet.PeerID `json:"new"`
	Issued   int64         `json:"iat"`
	OverlapS int64         `json:"overlap_s"`
}

// ErrSuccessor is in the error of a statement that is not taken.
var ErrSuccessor = errors.New("no valid successor statement")

// SignSuccessor states that a new key follows an old one, which then ends after
// overlap. 0: 7 days, and at most 30. The statement needs both private keys, and
// no trust in who carries it: [Book.Succeed] takes it from anybody.
func SignSuccessor(old, new crypto.Signer, overlap time.Duration) (string, error) {
	var c successorClaims
	var err error
	if c.Old, err = publicKey(old); err == nil {
		c.New, err = publicKey(new)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("peer: sign a successor: %w", err)
	case c.Old == c.New:
		return "", errors.New("peer: sign a successor: it is the same key")
	case overlap < 0 || overlap > maxOverlap:
		return "", fmt.Errorf("peer: sign a successor: the overlap is from 0 to %v", maxOverlap)
	case overlap == 0:
		overlap = defaultOverlap
	}
	c.Issued, c.OverlapS = second(time.Now()), int64(overlap/time.Second)
	claims := marshal(&c)
	parts := []string{encode64(claims)}
	for _, s := range []crypto.Signer{old, new} {
		sig, err := sign(s, successorLabel, claims)
		if err != nil {
			return "", fmt.Errorf("peer: sign a successor: %w", err)
		}
		parts = append(parts, encode64(sig))
	}
	return successorPrefix + strings.Join(parts, "."), nil
}

// openSuccessor reads a statement that both keys have signed.
func openSuccessor(statement string, now time.Time) (c successorClaims, err error) {
	bad := func(why string) (successorClaims, error) {
		return successorClaims{}, fmt.Errorf("peer: %w: %s", ErrSuccessor, why)
	}
	rest, ok := strings.CutPrefix(statement, successorPrefix)
	if !ok || len(statement) > maxStatementBytes {
		return bad("it does not begin with " + successorPrefix)
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return bad("it has not three parts")
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], err = decode64(p); err != nil {
			return bad(err.Error())
		}
	}
	if err := strictjson.DecodeExact(raw[0], &c); err != nil {
		return bad(err.Error())
	}
	switch {
	case c.Old == c.New:
		return bad("a key follows itself")
	case !verify(c.Old, successorLabel, raw[0], raw[1]):
		return bad("the signature of the old key does not verify")
	case !verify(c.New, successorLabel, raw[0], raw[2]):
		return bad("the signature of the new key does not verify")
	case c.OverlapS < 0 || c.OverlapS > int64(maxOverlap/time.Second):
		return bad("the overlap is too long")
	case time.Unix(c.Issued, 0).After(now.Add(clockSkew)):
		return bad("it is from the future")
	case now.Sub(time.Unix(c.Issued, 0)) > maxOverlap:
		return bad("it is too old")
	}
	return c, nil
}

// Succeed takes a statement of [SignSuccessor]: the new key is added to the
// entry of the old one, which must be valid now and ends after the overlap. It
// is on the disk when Succeed returns. The same statement again is no error; a
// different successor of a key that has one is. Errors wrap [ErrSuccessor] where
// the statement is to blame.
func (b *Book) Succeed(statement string) error { return b.succeed(statement, "") }

// succeed is Succeed, for a key of that entry only unless id is "".
func (b *Book) succeed(statement, id string) error {
	now := b.now()
	c, err := openSuccessor(statement, now)
	if err != nil {
		return err
	}
	return b.Update(func(peers map[string]Peer) error {
		p, i := holder(peers, c.Old)
		switch {
		case p == nil || id != "" && p.ID != id:
			return fmt.Errorf("%w: the old key is nobody's here", ErrSuccessor)
		case p.Disabled || ended(p.Keys[i].NotAfter, now):
			return fmt.Errorf("%w: the old key is not valid any more", ErrSuccessor)
		case !p.RevokedBefore.IsZero() && time.Unix(c.Issued, 0).Before(p.RevokedBefore):
			return fmt.Errorf("%w: it was revoked", ErrSuccessor)
		}
		next, _ := holder(peers, c.New)
		switch {
		case next == nil:
		case next.ID == p.ID && p.Keys[i].successor == c.New:
			return nil // the same again
		default:
			return fmt.Errorf("%w: the new key is %q's already", ErrSuccessor, next.ID)
		}
		if s := p.Keys[i].successor; !s.IsZero() {
			return fmt.Errorf("%w: the old key has another successor, %v", ErrSuccessor, s)
		}
		end := now.Add(time.Duration(c.OverlapS) * time.Second)
		if had := p.Keys[i].NotAfter; had.IsZero() || end.Before(had) {
			p.Keys[i].NotAfter = end
		}
		p.Keys[i].successor = c.New
		p.Keys = append(p.Keys, Key{ID: c.New})
		peers[p.ID] = *p
		return nil
	})
}

// holder finds who has a key, and which of its keys that is.
func holder(peers map[string]Peer, key alknet.PeerID) (*Peer, int) {
	for _, p := range peers {
		for i, k := range p.Keys {
			if k.ID == key {
				return &p, i
			}
		}
	}
	return nil, 0
}
