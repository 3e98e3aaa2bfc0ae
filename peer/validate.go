package peer

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
)

// maxPeerName is how long an id may be: what fits behind "@".
const maxPeerName = 63

// reservedIDs are ids that mean something else behind "@".
var reservedIDs = []string{"local", anyPeer, "all", "self"}

// reservedPrefix begins names that are ours.
const reservedPrefix = "alk_"

// tokenPrefix begins Token.Hash.
const tokenPrefix = "sha256:"

// The bounds of an entry.
const (
	maxEntryItems = 256 // keys, tokens, scopes, addresses, labels, imports
	maxTextBytes  = 1 << 10
)

// validID reports whether s has the form of an id.
func validID(s string) bool {
	if s == "" || len(s) > maxPeerName || strings.HasPrefix(s, reservedPrefix) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// check refuses an entry that is not right.
func (p *Peer) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("peer %s: %s", printable.Quote(p.ID), fmt.Sprintf(format, args...))
	}
	switch {
	case !validPeerName(p.ID):
		return bad("an id has up to %d of a-z, 0-9, \".\", \"_\" and \"-\", begins with a letter or digit, and is none of %s and not %s…",
			maxPeerName, strings.Join(reservedIDs, ", "), reservedPrefix)
	case len(p.Keys) > maxEntryItems || len(p.Tokens) > maxEntryItems || len(p.Scopes) > maxEntryItems || len(p.Resources) > maxEntryItems ||
		len(p.Labels) > maxEntryItems || len(p.Addrs) > maxEntryItems || len(p.Import) > maxEntryItems:
		return bad("more than %d of something", maxEntryItems)
	case len(p.Name) > maxTextBytes || len(p.Note) > 8*maxTextBytes:
		return bad("name has at most %d bytes and note %d", maxTextBytes, 8*maxTextBytes)
	}
	for _, k := range p.Keys {
		if _, err := alknet.ParsePeerID(k.ID.String()); err != nil || k.ID.IsZero() {
			return bad("a key is no key")
		}
	}
	for _, t := range p.Tokens {
		if !validTokenHash(t.Hash) {
			return bad("a token's hash is \"sha256:\" and 64 of 0-9 and a-f")
		}
	}
	for _, s := range slices.Concat(p.Scopes, p.Import) {
		if !plainWord(s) {
			return bad("%s is no scope and no name of operations", printable.Quote(s))
		}
	}
	for k, v := range p.Labels {
		if !plainWord(k) || len(v) > maxTextBytes {
			return bad("label %s: a name is a plain word, a value has at most %d bytes", printable.Quote(k), maxTextBytes)
		}
	}
	for k, list := range p.Resources {
		if !plainWord(k) || len(list) > maxEntryItems || slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > maxTextBytes }) {
			return bad("resource %s: a type is a plain word, its actions have 1 to %d bytes", printable.Quote(k), maxTextBytes)
		}
	}
	for _, a := range p.Addrs {
		if back, err := parseAddr(formatAddr(a)); err != nil || back.String() != a.String() {
			return bad("address %s is none", printable.Quote(a.String()))
		}
	}
	return nil
}

// plainWord reports whether s is printable ASCII without blanks.
func plainWord(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func validTokenHash(s string) bool {
	digits, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(digits) != 64 {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// indexOf checks a list and makes its index: ids, keys and token hashes occur
// once in all of it. lines are where the entries stand; nil: nowhere.
func indexOf(list []Peer, lines []int) (*index, error) {
	at := func(i int, err error) error {
		if lines == nil {
			return err
		}
		return fmt.Errorf("line %d: %w", lines[i], err)
	}
	if len(list) > maxBookPeers {
		return nil, fmt.Errorf("more than %d peers", maxBookPeers)
	}
	ix := &index{peers: make(map[string]*Peer, len(list)), keys: make(map[alknet.PeerID]*Peer), tokens: make(map[string]*Peer)}
	for i := range list {
		p := &list[i]
		if err := p.check(); err != nil {
			return nil, at(i, err)
		}
		if ix.peers[p.ID] != nil {
			return nil, at(i, fmt.Errorf("a second peer %q", p.ID))
		}
		ix.peers[p.ID] = p
		for _, k := range p.Keys {
			if had := ix.keys[k.ID]; had != nil {
				return nil, at(i, fmt.Errorf("peer %q: key %v is %q's already", p.ID, k.ID, had.ID))
			}
			ix.keys[k.ID] = p
		}
		for _, t := range p.Tokens {
			hash := strings.TrimPrefix(t.Hash, tokenPrefix)
			if had := ix.tokens[hash]; had != nil {
				return nil, at(i, fmt.Errorf("peer %q: a token hash is %q's already", p.ID, had.ID))
			}
			ix.tokens[hash] = p
		}
	}
	return ix, nil
}

// equal reports whether two lists say the same.
func (ix *index) equal(o *index) bool {
	if len(ix.peers) != len(o.peers) {
		return false
	}
	for id, p := range ix.peers {
		if q := o.peers[id]; q == nil || !reflect.DeepEqual(toFile(p), toFile(q)) {
			return false
		}
	}
	return true
}

// semanticOffset is where a value does not fit its place.
func semanticOffset(err error) int {
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		return int(e.ByteOffset)
	}
	return 0
}
