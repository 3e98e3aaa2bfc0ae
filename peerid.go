package alknet

import (
	"crypto/ed25519"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/alkdev/alknet/internal/printable"
)

// PeerID is a node's identity: its Ed25519 public key. The zero PeerID is no peer.
type PeerID [ed25519.PublicKeySize]byte

// zbase32 is the text form of keys, which pkarr uses as well: 52 characters.
var zbase32 = base32.NewEncoding("ybndrfg8ejkmcpqxot1uwisza345h769").WithPadding(base32.NoPadding)

// errPeerID is a text or a key that is no PeerID.
var errPeerID = errors.New("alknet: not a peer id")

// String is the z-base-32 form, 52 characters.
func (id PeerID) String() string { return zbase32.EncodeToString(id[:]) }

// IsZero reports whether id is no peer.
func (id PeerID) IsZero() bool { return id == PeerID{} }

// LogValue logs the text form.
func (id PeerID) LogValue() slog.Value { return slog.StringValue(id.String()) }

// MarshalText is String as bytes.
func (id PeerID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is [ParsePeerID].
func (id *PeerID) UnmarshalText(text []byte) error {
	v, err := ParsePeerID(string(text))
	if err == nil {
		*id = v
	}
	return err
}

// ParsePeerID reads the 52 characters of [PeerID.String], or "ed25519:" and 64
// hexadecimal digits. Other spellings of the same key are refused, and so are
// values that are no key that one node alone can hold: points of small order
// and encodings that are not canonical (RFC 8032, section 5.1.3).
func ParsePeerID(s string) (PeerID, error) {
	var id PeerID
	var b []byte
	var err error
	if digits, ok := strings.CutPrefix(s, "ed25519:"); ok {
		if b, err = hex.DecodeString(digits); err == nil && hex.EncodeToString(b) != digits {
			err = errPeerID
		}
	} else if b, err = zbase32.DecodeString(s); err == nil && zbase32.EncodeToString(b) != s {
		err = errPeerID
	}
	if err != nil || len(b) != len(id) {
		return PeerID{}, fmt.Errorf("%w: %s", errPeerID, printable.Quote(s))
	}
	copy(id[:], b)
	if !id.valid() {
		return PeerID{}, fmt.Errorf("%w: %s is a weak key", errPeerID, printable.Quote(s))
	}
	return id, nil
}

// valid refuses encodings whose holder proves nothing: with a point of small
// order a signature that verifies can be made without any secret.
func (id PeerID) valid() bool {
	y := id
	y[31] &= 0x7f
	if !lessThanP(y) {
		return false
	}
	for _, weak := range smallOrder {
		if y == weak {
			return false
		}
	}
	return true
}

// lessThanP compares a little-endian number with 2^255 - 19.
func lessThanP(y PeerID) bool {
	if y[31] != 0x7f {
		return true
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return true
		}
	}
	return y[0] < 0xed
}

// smallOrder are the y coordinates, little-endian and canonical, of the eight
// points of small order of edwards25519: 1, -1, 0 and the two of order eight.
var smallOrder = [...]PeerID{
	{0: 1},
	{
		0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	},
	{},
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
}
