package call

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// A Secret is bytes that no formatter, logger or encoder shows: text encoders
// write "[redacted]", binary ones fail. Copies share the bytes, so Destroy
// reaches all of them. The zero value holds nothing.
type Secret struct{ box *secretBox }

// secretBox holds the bytes behind a function, so that printing its address or
// its fields with reflection shows none.
type secretBox struct {
	mu   sync.Mutex
	data func() []byte // guarded by mu; nil: destroyed
}

// redacted is what everybody sees of a Secret.
const redacted = "[redacted]"

// errSecret refuses to encode a Secret where no text can stand for it.
var errSecret = errors.New("call: a secret is not encoded")

// NewSecret holds a copy of b. The caller may wipe b.
func NewSecret(b []byte) Secret {
	own := append([]byte(nil), b...)
	return Secret{box: &secretBox{data: func() []byte { return own }}}
}

// Bytes returns a copy of the bytes; nil after Destroy.
func (s Secret) Bytes() []byte {
	if s.box == nil {
		return nil
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.box.data == nil {
		return nil
	}
	return append([]byte(nil), s.box.data()...)
}

// Destroy wipes the bytes, for all copies of s.
func (s Secret) Destroy() {
	if s.box == nil {
		return
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.box.data != nil {
		clear(s.box.data())
		s.box.data = nil
	}
}

// String is "[redacted]".
func (Secret) String() string { return redacted }

// GoString is "[redacted]".
func (Secret) GoString() string { return redacted }

// Format prints "[redacted]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) } // a State has nowhere to report it

// LogValue is "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON is "[redacted]" as a string.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalBinary fails.
func (Secret) MarshalBinary() ([]byte, error) { return nil, errSecret }

// GobEncode fails.
func (Secret) GobEncode() ([]byte, error) { return nil, errSecret }
