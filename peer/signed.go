package peer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alkdev/alknet"
)

// errSigner is a signer that is not of Ed25519.
var errSigner = errors.New("the signer is not an Ed25519 key")

// publicKey is the key of a signer.
func publicKey(s crypto.Signer) (alknet.PeerID, error) {
	if s == nil {
		return alknet.PeerID{}, errSigner
	}
	pub, ok := s.Public().(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return alknet.PeerID{}, errSigner
	}
	return alknet.PeerID(pub), nil
}

// sign signs claims under a label that no other signature of ours begins with.
func sign(s crypto.Signer, label string, claims []byte) ([]byte, error) {
	sig, err := s.Sign(rand.Reader, append([]byte(label), claims...), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

// verify judges what sign made.
func verify(key alknet.PeerID, label string, claims, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(key[:], append([]byte(label), claims...), sig)
}

// encode64 and decode64 are base64url without padding, to the letter.
func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode64(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || encode64(b) != s { // the decoder skips line breaks
		return nil, errors.New("not base64url")
	}
	return b, nil
}

// marshal is a value of ours as JSON.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	return b
}

// second is t as it is signed.
func second(t time.Time) int64 { return t.Unix() }
