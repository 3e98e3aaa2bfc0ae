// Package delegation proves who asked first for a call that was handed on, over
// any number of hops (docs/protocol.md, section "Delegation"). The first issuer
// lets an audience act for it, within operations, scopes, resources and a time;
// each audience may narrow that for the next, and nobody on the way can widen it.
//
//	token, err := delegation.Sign(key, delegation.Claims{Audience: head, Operations: []string{"box/*"}, Expires: soon})
//	token, err = delegation.Narrow(headKey, token, delegation.Claims{Audience: worker, Expires: soon})
//	id, err := delegation.Verify(token, delegation.Options{Presenter: proven, Lookup: book})
package delegation

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/strictjson"
)

// The format's bounds.
const (
	prefix   = "alkd1."
	context  = "alknet/delegation/1\x00"
	maxLinks = 8
	maxBytes = 8 << 10
	skew     = 60 * time.Second
	// bearerTime is how long a token without an audience may be valid.
	bearerTime = time.Hour
	nonceBytes = 16
)

// ErrInvalid is in every error of a token that does not verify.
var ErrInvalid = errors.New("delegation: does not verify")

// Claims are what one link says.
type Claims struct {
	// Issuer is whose rights are lent: the signing key. Set by Sign and Narrow.
	Issuer alknet.PeerID
	// Audience may present the token, and narrow it. Zero: whoever has the token,
	// for at most an hour.
	Audience alknet.PeerID
	// Operations are globs: "box/*", "fs/read", "*". Nil: all that the previous
	// link allows.
	Operations []string
	// Scopes are those that are lent. Nil: all.
	Scopes []string
	// Resources are those that are lent. Nil: all.
	Resources map[string][]string
	// Issued is when; zero: now. Expires must be set.
	Issued, Expires time.Time
}

// wireClaims is a link on the wire.
type wireClaims struct {
	Iss   string              `json:"iss"`
	Aud   string              `json:"aud,omitzero"`
	Ops   []string            `json:"ops,omitzero"`
	Sc    []string            `json:"scopes,omitzero"`
	Res   map[string][]string `json:"res,omitzero"`
	Iat   int64               `json:"iat"`
	Exp   int64               `json:"exp"`
	Nonce string              `json:"nonce"`
}

// A link is one part of a token.
type link struct {
	claims    wireClaims
	raw       []byte // the claims as they were sent
	signature []byte
	iss, aud  alknet.PeerID
}

// Sign makes a token of one link, signed by key, an Ed25519 signer.
func Sign(key crypto.Signer, c Claims) (string, error) {
	return extend(key, prefix[:len(prefix)-1], nil, c)
}

// Narrow appends a link to a token whose audience is key. What c leaves out is
// as before; what it widens is refused, here and by every verifier.
func Narrow(key crypto.Signer, token string, c Claims) (string, error) {
	links, err := parse(token)
	if err != nil {
		return "", err
	}
	last := links[len(links)-1]
	if c.Expires.IsZero() || c.Expires.After(time.Unix(last.claims.Exp, 0)) {
		c.Expires = time.Unix(last.claims.Exp, 0)
	}
	if len(links) == maxLinks {
		return "", fmt.Errorf("delegation: narrow: a token has at most %d links", maxLinks)
	}
	id, err := publicKey(key)
	if err != nil {
		return "", err
	}
	if last.aud != id {
		return "", errors.New("delegation: narrow: the key is not the token's audience")
	}
	if err := narrower(&last.claims, toWire(id, c)); err != nil {
		return "", err
	}
	return extend(key, token, &last, c)
}

// extend appends a link to what begins as text.
func extend(key crypto.Signer, text string, last *link, c Claims) (string, error) {
	id, err := publicKey(key)
	if err != nil {
		return "", err
	}
	if c.Expires.IsZero() {
		return "", errors.New("delegation: sign: Expires is not set")
	}
	w := toWire(id, c)
	var nonce [nonceBytes]byte
	_, _ = rand.Read(nonce[:]) // it never fails, or ends the process
	w.Nonce = base64.RawURLEncoding.EncodeToString(nonce[:])
	raw, err := jsonv2.Marshal(w, jsonv2.Deterministic(true))
	if err != nil {
		return "", fmt.Errorf("delegation: sign: %w", err)
	}
	signature, err := key.Sign(rand.Reader, message(last, raw), crypto.Hash(0))
	if err != nil {
		return "", fmt.Errorf("delegation: sign: %w", err)
	}
	text += "." + base64.RawURLEncoding.EncodeToString(raw) + "." + base64.RawURLEncoding.EncodeToString(signature)
	if len(text) > maxBytes {
		return "", fmt.Errorf("delegation: sign: a token has at most %d bytes", maxBytes)
	}
	return text, nil
}

func toWire(iss alknet.PeerID, c Claims) *wireClaims {
	if c.Issued.IsZero() {
		c.Issued = time.Now()
	}
	w := &wireClaims{Iss: iss.String(), Ops: c.Operations, Sc: c.Scopes, Res: c.Resources, Iat: c.Issued.Unix(), Exp: c.Expires.Unix()}
	if !c.Audience.IsZero() {
		w.Aud = c.Audience.String()
	}
	return w
}

// message is what a link's signature is over.
func message(last *link, raw []byte) []byte {
	var before [sha256.Size]byte
	if last != nil {
		before = sha256.Sum256(slices.Concat(last.raw, last.signature))
	}
	return slices.Concat([]byte(context), before[:], raw)
}

func publicKey(key crypto.Signer) (alknet.PeerID, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return alknet.PeerID{}, errors.New("delegation: the key is not an Ed25519 one")
	}
	return alknet.PeerID(pub), nil
}

// Options say how a token is judged.
type Options struct {
	// Presenter is the key that the connection has proven: the last audience, or
	// the audience before, which made the last link for who verifies.
	Presenter alknet.PeerID
	// Lookup finds the identity of the first issuer, if it is known and enabled.
	Lookup func(alknet.PeerID) (alknet.Identity, bool)
	// Operation must be allowed by every link; "": the result carries no such
	// limit, and the caller must check Allowed itself.
	Operation string
	// Bearer admits a token without an audience.
	Bearer bool
	// Now is the time; zero: the clock's.
	Now time.Time
}

// Verify judges a token and returns the identity of its first issuer, with the
// rights that all links leave it. The error wraps [ErrInvalid].
func Verify(token string, o Options) (alknet.Identity, error) {
	links, err := parse(token)
	if err != nil {
		return alknet.Identity{}, err
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if err := chain(links, o); err != nil {
		return alknet.Identity{}, err
	}
	id, ok := o.Lookup(links[0].iss)
	if !ok || id.ID == "" {
		return alknet.Identity{}, invalid("the first issuer is not known")
	}
	return restrict(id, links), nil
}

// chain checks signatures, times, order and that nothing widens.
func chain(links []link, o Options) error {
	for i := range links {
		l := &links[i]
		var last *link
		if i > 0 {
			last = &links[i-1]
			if last.aud.IsZero() || l.iss != last.aud {
				return invalid("a link was not made by the one before's audience")
			}
			if err := narrower(&last.claims, &l.claims); err != nil {
				return err
			}
		}
		if !ed25519.Verify(l.iss[:], message(last, l.raw), l.signature) {
			return invalid("a signature is wrong")
		}
		if now := o.Now; now.Before(time.Unix(l.claims.Iat, 0).Add(-skew)) || !now.Before(time.Unix(l.claims.Exp, 0).Add(skew)) {
			return invalid("expired, or not yet valid")
		}
		if o.Operation != "" && l.claims.Ops != nil && !matchAny(l.claims.Ops, o.Operation) {
			return invalid("the operation is not among those that are lent")
		}
	}
	last := &links[len(links)-1]
	switch {
	case last.aud.IsZero() && (!o.Bearer || last.claims.Exp-last.claims.Iat > int64(bearerTime/time.Second)):
		return invalid("it has no audience")
	case !last.aud.IsZero() && last.aud != o.Presenter && (len(links) < 2 || last.iss != o.Presenter):
		return invalid("it was made for another presenter")
	}
	return nil
}

// narrower reports whether next stays within prev.
func narrower(prev, next *wireClaims) error {
	switch {
	case next.Exp > prev.Exp:
		return invalid("it outlives the link before")
	case prev.Ops != nil && (next.Ops != nil && slices.ContainsFunc(next.Ops, func(g string) bool { return !globWithin(prev.Ops, g) })):
		return invalid("it widens the operations")
	case prev.Sc != nil && slices.ContainsFunc(next.Sc, func(s string) bool { return !slices.Contains(prev.Sc, s) }):
		return invalid("it widens the scopes")
	}
	if prev.Res == nil {
		return nil
	}
	for kind, list := range next.Res {
		for _, r := range list {
			if !slices.Contains(prev.Res[kind], r) {
				return invalid("it widens the resources")
			}
		}
	}
	return nil
}

// restrict leaves of id what every link lends.
func restrict(id alknet.Identity, links []link) alknet.Identity {
	id.Scopes = slices.Clone(id.Scopes)
	res := make(map[string][]string, len(id.Resources))
	for kind, list := range id.Resources {
		res[kind] = slices.Clone(list)
	}
	for i := range links {
		c := &links[i].claims
		if c.Sc != nil {
			id.Scopes = slices.DeleteFunc(id.Scopes, func(s string) bool { return !slices.Contains(c.Sc, s) })
		}
		if c.Res == nil {
			continue
		}
		for kind, list := range res {
			if list = slices.DeleteFunc(list, func(r string) bool { return !slices.Contains(c.Res[kind], r) }); len(list) == 0 {
				delete(res, kind)
			} else {
				res[kind] = list
			}
		}
	}
	id.Resources = res
	return id
}

// Allowed reports whether every link of a token that verified lends op.
func Allowed(token, op string) bool {
	links, err := parse(token)
	if err != nil {
		return false
	}
	for i := range links {
		if ops := links[i].claims.Ops; ops != nil && !matchAny(ops, op) {
			return false
		}
	}
	return true
}

// Expires is when a token ends: the earliest of its links. Zero: it is none.
func Expires(token string) time.Time {
	links, err := parse(token)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(links[len(links)-1].claims.Exp, 0) // none outlives the one before
}

// parse reads a token. Nothing is believed yet.
func parse(token string) ([]link, error) {
	rest, ok := strings.CutPrefix(token, prefix)
	if !ok || len(token) > maxBytes {
		return nil, invalid("not a token of this kind")
	}
	parts := strings.Split(rest, ".")
	if len(parts)%2 != 0 || len(parts) > 2*maxLinks {
		return nil, invalid("not a token of this kind")
	}
	links := make([]link, 0, len(parts)/2)
	for i := 0; i < len(parts); i += 2 {
		l, err := parseLink(parts[i], parts[i+1])
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

func parseLink(claims, signature string) (l link, err error) {
	if l.raw, err = decode(claims); err != nil {
		return l, err
	}
	if l.signature, err = decode(signature); err != nil {
		return l, err
	}
	if err := strictjson.DecodeExact(l.raw, &l.claims); err != nil {
		return l, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if l.iss, err = alknet.ParsePeerID(l.claims.Iss); err != nil || strings.HasPrefix(l.claims.Iss, "ed25519:") {
		return l, invalid("iss is no peer id")
	}
	if l.claims.Aud != "" {
		if l.aud, err = alknet.ParsePeerID(l.claims.Aud); err != nil || strings.HasPrefix(l.claims.Aud, "ed25519:") {
			return l, invalid("aud is no peer id")
		}
	}
	if len(l.signature) != ed25519.SignatureSize || l.claims.Nonce == "" || l.claims.Exp < l.claims.Iat || l.claims.Exp > maxTime || l.claims.Iat < 0 {
		return l, invalid("a claim is out of its range")
	}
	return l, nil
}

// maxTime is the year 9999: later times are no times.
const maxTime = 253402300799

// decode reads base64url in its only spelling.
func decode(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != s {
		return nil, invalid("not base64url")
	}
	return b, nil
}

func invalid(why string) error { return fmt.Errorf("%w: %s", ErrInvalid, why) }

// matchAny reports whether one of globs means an operation.
func matchAny(globs []string, op string) bool {
	return slices.ContainsFunc(globs, func(g string) bool { return matches(g, op) })
}

// matches reports whether glob g, a name, "namespace/*" or "*", means op.
func matches(g, op string) bool {
	if g == op || g == "*" {
		return true
	}
	p, ok := strings.CutSuffix(g, "*")
	return ok && strings.HasSuffix(p, "/") && strings.HasPrefix(op, p)
}

// globWithin reports whether everything that g means is meant by one of outer.
func globWithin(outer []string, g string) bool {
	return slices.ContainsFunc(outer, func(o string) bool {
		if o == g || o == "*" {
			return true
		}
		p, ok := strings.CutSuffix(o, "*")
		return ok && strings.HasSuffix(p, "/") && strings.HasPrefix(g, p)
	})
}
