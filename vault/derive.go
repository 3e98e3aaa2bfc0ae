package vault

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// A branch is where the keys of a kind are; a number follows.
type branch uint8

const (
	identityPath branch = iota // node identities, by rotation index
	hostKeyPath                // SSH host keys
	userKeyPath                // SSH user keys
	sitePath                   // root of the site passwords, 0
	secretPath                 // keys of stored secrets, key version - 2
	childPath                  // seeds of child vaults
	purposePath                // root of the purpose keys, 0
	agePath                    // age identities
)

// branches are the paths of all keys, without the last number.
var branches = [...]string{
	identityPath: "m/74'/0'/0'/",
	hostKeyPath:  "m/74'/0'/1'/",
	userKeyPath:  "m/74'/0'/2'/",
	sitePath:     "m/74'/1'/0'/",
	secretPath:   "m/74'/2'/0'/",
	childPath:    "m/74'/3'/",
	purposePath:  "m/74'/4'/",
	agePath:      "m/74'/5'/",
}

const (
	// nodeBytes is the size of a node: key and chain code.
	nodeBytes = 64

	// maxLevels is the most numbers a path has.
	maxLevels = 10

	// hardened is added to a number of a path; SLIP-0010 knows nothing else for ed25519.
	hardened = 1 << 31
)

// A form is what of a node of the tree is used. Together with the path it is
// what a cached key goes by.
type form uint8

const (
	formKey     form = iota // the key, 32 bytes
	formNode                // key and chain code, 64 bytes
	formEd25519             // the key as RFC 8032 seed and its public key, 64 bytes
)

// A place is the key of a number in a branch.
type place struct {
	branch branch
	n      uint32
}

// String is the path. A number of 2^31 or more makes one that parsePath refuses.
func (p place) String() string {
	return branches[p.branch] + strconv.FormatUint(uint64(p.n), 10) + "'"
}

// parsePath reads m(/[0-9]+['h])*: at most 10 numbers below 2^31, without
// leading zeros. Numbers are returned without the hardened bit.
func parsePath(s string) ([]uint32, error) {
	rest, ok := strings.CutPrefix(s, "m")
	if !ok || strings.Count(rest, "/") > maxLevels {
		return nil, errPath(s)
	}
	var path []uint32
	for rest != "" {
		rest, ok = strings.CutPrefix(rest, "/")
		end := strings.IndexAny(rest, "'h")
		if !ok || end < 1 || rest[0] == '0' && end > 1 {
			return nil, errPath(s)
		}
		// ParseUint takes digits only, and no underscore in base 10.
		n, err := strconv.ParseUint(rest[:end], 10, 31)
		if err != nil {
			return nil, errPath(s)
		}
		path = append(path, uint32(n))
		rest = rest[end+1:]
	}
	return path, nil
}

func errPath(s string) error {
	return fmt.Errorf("%w: path %.80q: at most %d numbers below 2^31, each hardened", ErrMalformed, s, maxLevels)
}

// derive writes the node at a path of the tree of seed: 32 bytes of key, 32 of
// chain code (SLIP-0010, "Master key generation" and "Private parent key →
// private child key").
func derive(seed []byte, path []uint32, node *[nodeBytes]byte) {
	hash(node, []byte("ed25519 seed"), seed)
	descend(node, path)
}

// descend makes node the one at a path below it.
func descend(node *[nodeBytes]byte, path []uint32) {
	for _, n := range path {
		var i [4]byte
		binary.BigEndian.PutUint32(i[:], n+hardened)
		hash(node, node[32:], []byte{0}, node[:32], i[:])
	}
}

// hash makes node the HMAC of parts, which may be pieces of it.
func hash(node *[nodeBytes]byte, key []byte, parts ...[]byte) {
	mac := hmac.New(sha512.New, key)
	for _, p := range parts {
		mac.Write(p)
	}
	mac.Sum(node[:0])
}

// as turns the node out into a form of it and returns its length.
func (f form) as(out *[nodeBytes]byte) int {
	switch f {
	case formKey:
		clear(out[32:])
		return 32
	case formEd25519:
		key := ed25519.NewKeyFromSeed(out[:32])
		copy(out[:], key)
		clear(key)
	}
	return len(out)
}

// checkOf is the check value of a seed: identity 0, in clear in vault.json.
func checkOf(seed []byte) string {
	path, err := parsePath(place{identityPath, 0}.String())
	if err != nil {
		panic(err) // a constant of ours
	}
	var out [nodeBytes]byte
	defer clear(out[:])
	guarded(func() {
		derive(seed, path, &out)
		formEd25519.as(&out)
	})
	return checkPrefix + hex.EncodeToString(out[32:])
}
