package vault

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
)

// redactedText is what every formatter and text encoder shows.
const redactedText = "[redacted]"

// redacted has the methods by which formatters, loggers and encoders look at a
// value. It is embedded in what must not be seen.
type redacted struct{}

// String is "[redacted]".
func (redacted) String() string { return redactedText }

// GoString is "[redacted]".
func (redacted) GoString() string { return redactedText }

// Format writes "[redacted]" for every verb and flag.
func (redacted) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedText) }

// LogValue is "[redacted]".
func (redacted) LogValue() slog.Value { return slog.StringValue(redactedText) }

// MarshalText gives "[redacted]".
func (redacted) MarshalText() ([]byte, error) { return []byte(redactedText), nil }

// MarshalJSON gives "[redacted]" as a JSON string.
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedText + `"`), nil }

// MarshalBinary fails: what it gave could not be read back.
func (redacted) MarshalBinary() ([]byte, error) { return nil, ErrRedacted }

// GobEncode fails as MarshalBinary does.
func (redacted) GobEncode() ([]byte, error) { return nil, ErrRedacted }

// UnmarshalText fails, as all decoders do: "[redacted]" is not the secret.
func (redacted) UnmarshalText([]byte) error { return ErrRedacted }

// UnmarshalJSON fails.
func (redacted) UnmarshalJSON([]byte) error { return ErrRedacted }

// UnmarshalBinary fails.
func (redacted) UnmarshalBinary([]byte) error { return ErrRedacted }

// GobDecode fails.
func (redacted) GobDecode([]byte) error { return ErrRedacted }

// A Secret is bytes that must not be seen. fmt, log/slog and text encoders show
// "[redacted]" in its place, binary encoders and all decoders fail with
// [ErrRedacted], and printers that walk through fields find an address.
//
// Copies of a Secret share the bytes. The zero Secret is empty, as in "no
// passphrase". A Secret that came from a [Vault] is wiped when the vault is
// locked, and one that is dropped some time after the garbage collector notices.
// All methods may be called concurrently.
type Secret struct {
	redacted
	get func() *buffer // nil: empty; a function so that the bytes are not reachable by reflection
}

// A buffer is the bytes of a Secret.
type buffer struct {
	gate  gate
	data  []byte
	mu    sync.Mutex // held while a buffer without an owner is wiped
	owner *session   // whose end also ends this buffer; nil: nobody's
	own   *[]byte    // where the owner finds data; nil: it is a piece of a tray's room; guarded by owner.mu
}

// NewSecret takes b over: it is copied, then wiped.
func NewSecret(b []byte) Secret {
	data := append([]byte(nil), b...)
	clear(b)
	return newBuffer(&buffer{data: data})
}

func newBuffer(b *buffer) Secret { return Secret{get: func() *buffer { return b }} }

// Use calls f with the bytes and returns its error. They are valid during f
// only and must not be changed; f must not call Destroy on s or lock its vault,
// which would wait for f. After Destroy, or Lock of the vault that s came from,
// it returns [ErrLocked] without calling f.
func (s Secret) Use(f func(b []byte) error) error {
	if s.get == nil {
		return f(nil)
	}
	b := s.get()
	if b.owner != nil {
		if !b.owner.enter() {
			return ErrLocked
		}
		defer b.owner.leave()
	}
	if !b.gate.enter() {
		return ErrLocked
	}
	defer b.gate.leave()
	defer runtime.KeepAlive(b)
	return f(b.data)
}

// Equal reports whether both hold the same bytes, in time that depends on their
// lengths only. It is false if one of them is destroyed or locked.
func (s Secret) Equal(t Secret) bool {
	same := 0
	err := s.Use(func(a []byte) error {
		return t.Use(func(b []byte) error {
			same = subtle.ConstantTimeCompare(a, b)
			return nil
		})
	})
	return err == nil && same == 1
}

// Destroy waits for Use calls under way and wipes the bytes. Later calls and
// those on the zero Secret do nothing.
func (s Secret) Destroy() {
	if s.get != nil {
		s.get().destroy()
	}
}

func (b *buffer) destroy() {
	b.gate.close()
	mu := &b.mu
	if b.owner != nil {
		mu = &b.owner.mu // its end wipes too
	}
	mu.Lock()
	defer mu.Unlock()
	clear(b.data)
	if b.own != nil {
		*b.own, b.data = nil, nil // others of the tray do not keep it
	}
}
