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

// A Record is where a peer says that it can be reached, signed by its own key:
// a directory can withhold it but not change it.
type Record struct {
	// Peer is the key that has signed it.
	Peer alknet.PeerID
	// Addrs are where it can be reached; at most 32.
	Addrs []alknet.Addr
	// Seq rises with each record: of two, the higher counts.
	Seq uint64
	// Expires is when it is void, to the second.
	Expires time.Time
}

// The bounds of a record.
const (
	recordPrefix   = "alkr1."
	recordLabel    = "alknet/record/1\x00"
	maxRecordBytes = 8 << 10
	maxRecordAddrs = 32
)

// recordClaims is what a record says: docs/protocol.md, section "Peers".
type recordClaims struct {
	Peer  alknet.PeerID `json:"peer"`
	Addrs []string      `json:"addrs"`
	Seq   uint64        `json:"seq"`
	Exp   int64         `json:"exp"`
}

// errRecord is a record that is not taken.
var errRecord = errors.New("peer: no valid record")

// SignRecord makes a record with the key it is of. r.Peer may be zero.
func SignRecord(key crypto.Signer, r Record) ([]byte, error) {
	id, err := publicKey(key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("peer: sign a record: %w", err)
	case !r.Peer.IsZero() && r.Peer != id:
		return nil, fmt.Errorf("peer: sign a record: it is of %v and the key is %v", r.Peer, id)
	case len(r.Addrs) > maxRecordAddrs:
		return nil, fmt.Errorf("peer: sign a record: more than %d addresses", maxRecordAddrs)
	}
	c := recordClaims{Peer: id, Addrs: []string{}, Seq: r.Seq, Exp: second(r.Expires)}
	for _, a := range r.Addrs {
		a.Peer = alknet.PeerID{} // the record says it
		c.Addrs = append(c.Addrs, formatAddr(a))
	}
	claims := marshal(&c)
	sig, err := sign(key, recordLabel, claims)
	if err != nil {
		return nil, fmt.Errorf("peer: sign a record: %w", err)
	}
	return []byte(recordPrefix + encode64(claims) + "." + encode64(sig)), nil
}

// OpenRecord reads a record whose signature verifies and that has not expired.
// The addresses have the peer's key as Addr.Peer.
func OpenRecord(b []byte, now time.Time) (Record, error) {
	bad := func(why string) (Record, error) { return Record{}, fmt.Errorf("%w: %s", errRecord, why) }
	rest, ok := strings.CutPrefix(string(b), recordPrefix)
	text, sigText, two := strings.Cut(rest, ".")
	if !ok || !two || len(b) > maxRecordBytes {
		return bad("it does not begin with " + recordPrefix)
	}
	claims, err := decode64(text)
	if err != nil {
		return bad(err.Error())
	}
	sig, err := decode64(sigText)
	if err != nil {
		return bad(err.Error())
	}
	var c recordClaims
	if err := strictjson.DecodeExact(claims, &c); err != nil {
		return bad(err.Error())
	}
	if !verify(c.Peer, recordLabel, claims, sig) {
		return bad("the signature does not verify")
	}
	if len(c.Addrs) > maxRecordAddrs {
		return bad("it has too many addresses")
	}
	r := Record{Peer: c.Peer, Seq: c.Seq, Expires: time.Unix(c.Exp, 0)}
	if !now.Before(r.Expires) {
		return bad("it has expired")
	}
	for _, s := range c.Addrs {
		a, err := parseAddr(s)
		if err != nil || !a.Peer.IsZero() {
			return bad("an address is none")
		}
		a.Peer = c.Peer
		r.Addrs = append(r.Addrs, a)
	}
	return r, nil
}
