package vault

import (
	"bytes"
	"encoding/gob"
	stdjson "encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"
)

// A holder has secrets where printers do not call methods.
type holder struct {
	Public  Secret
	private Secret
	phrase  Phrase
	list    []Secret
	byName  map[string]Secret
	pointer *Secret
}

// A box has a secret where encoders look.
type box struct{ Public Secret }

func holders(t *testing.T) (holder, [][]byte) {
	s := secret(canary)
	p := phrase(t, legal)
	needles := [][]byte{[]byte(canary), []byte("winner"), []byte(fmt.Sprintf("%x", canary)), []byte(fmt.Sprint([]byte(canary))), []byte("67, 65, 78, 65, 82, 89"), []byte("0x43, 0x41, 0x4e")}
	return holder{s, s, p, []Secret{s}, map[string]Secret{"a": s}, &s}, needles
}

// TestSecretIsNeverPrinted: no formatter, logger or encoder shows one.
func TestSecretIsNeverPrinted(t *testing.T) {
	h, needles := holders(t)
	absent := func(how string, out []byte) {
		t.Helper()
		for _, n := range needles {
			require.False(t, bytes.Contains(out, n), how)
			require.False(t, bytes.Contains(bytes.ToLower(out), bytes.ToLower(n)), how)
		}
	}
	vault := inMemoryVault(t, nil)
	require.NoError(t, vault.Put("a", "b", secret(canary)))
	must(vault.Get("a", "b"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%c", "%U", "%T", "%p", "%08.3f", "%!", "%b"} {
		for _, v := range []any{vault, vault.current(), vault.contents, must(vault.Identity(0)), h, &h, h.Public, &h.Public, h.phrase, h.list, h.byName, Passphrase(h.Public), PassphraseRecipient(h.Public, nil)} {
			absent(verb, fmt.Appendf(nil, verb, v))
		}
		require.NotContains(t, fmt.Sprintf(verb, h.Public), "func")
	}
	absent("Errorf", []byte(fmt.Errorf("%v %w", h, errors.New(h.Public.String())).Error()))
	for name, encode := range map[string]func(any) ([]byte, error){
		"encoding/json": stdjson.Marshal,
		"json/v2":       func(v any) ([]byte, error) { return json.Marshal(v) },
		"xml":           xml.Marshal,
	} {
		out, err := encode(box{h.Public})
		require.NoError(t, err, name)
		require.Contains(t, string(out), "[redacted]")
		absent(name, out)
		out, _ = encode(h)
		absent(name, out)
	}
	var out bytes.Buffer
	for _, l := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(l).Info("x", "secret", h.Public, "phrase", h.phrase, "all", h, "list", h.list, slog.Group("g", "s", h.private))
	}
	absent("slog", out.Bytes())
	require.ErrorIs(t, gob.NewEncoder(&out).Encode(box{h.Public}), ErrRedacted)
	absent("gob", out.Bytes())
	require.Equal(t, "[redacted]", h.Public.String())
	require.Equal(t, "[redacted]", h.phrase.GoString())
}

// The text of a secret is not the secret: nothing reads it back.
func TestSecretIsNeverDecoded(t *testing.T) {
	var in struct{ S Secret }
	require.ErrorIs(t, stdjson.Unmarshal([]byte(`{"S":"[redacted]"}`), &in), ErrRedacted)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"S":"[redacted]"}`), &in), ErrRedacted)
	require.Error(t, xml.Unmarshal([]byte(`<x><S>[redacted]</S></x>`), &in))
	var s Secret
	for _, err := range []error{s.UnmarshalText(nil), s.UnmarshalJSON(nil), s.UnmarshalBinary(nil), s.GobDecode(nil)} {
		require.ErrorIs(t, err, ErrRedacted)
	}
	_, err := s.MarshalBinary()
	require.ErrorIs(t, err, ErrRedacted)
}

func TestSecretTakesItsBytesOver(t *testing.T) {
	b := []byte(canary)
	s := NewSecret(b)
	require.Equal(t, make([]byte, len(b)), b, "wiped")
	require.True(t, reveal(t, s) == canary)
	var zero Secret
	require.NoError(t, zero.Use(func(b []byte) error {
		require.Empty(t, b)
		return nil
	}))
	zero.Destroy()
	require.True(t, zero.Equal(NewSecret(nil)))
	require.ErrorIs(t, s.Use(func([]byte) error { return errors.ErrUnsupported }), errors.ErrUnsupported)
}

func TestSecretEqual(t *testing.T) {
	a, b := secret(canary), secret(canary)
	require.True(t, a.Equal(b))
	require.False(t, a.Equal(secret(canary+"x")))
	require.False(t, a.Equal(secret(canary[1:]+"x")))
	require.False(t, a.Equal(Secret{}))
	b.Destroy()
	require.False(t, a.Equal(b))
	require.False(t, b.Equal(b))
}

// TestSecretDestroyWaitsForUse and wipes what those before it saw.
func TestSecretDestroyWaitsForUse(t *testing.T) {
	for name, make := range map[string]func() Secret{
		"own": func() Secret { return secret(canary) },
		"vault's": func() Secret {
			v := inMemoryVault(t, nil)
			require.NoError(t, v.Put("a", "b", secret(canary)))
			return must(v.Get("a", "b"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := make()
			copied := s
			inside, leave, gone := newChan(), newChan(), newChan()
			release := sync.OnceFunc(func() { close(leave) })
			t.Cleanup(release)
			var seen []byte
			var wg sync.WaitGroup
			wg.Go(func() {
				require.NoError(t, s.Use(func(b []byte) error {
					seen = b
					close(inside)
					<-leave
					require.True(t, string(b) == canary, "not wiped under a use")
					return nil
				}))
			})
			<-inside
			var done atomic.Bool
			wg.Go(func() { copied.Destroy(); done.Store(true); close(gone) })
			for s.Use(func([]byte) error { return nil }) == nil {
				runtime.Gosched() // until Destroy has begun
			}
			require.False(t, done.Load())
			release()
			<-gone
			wg.Wait()
			require.Equal(t, bytes.Repeat([]byte{0}, len(canary)), seen)
			require.ErrorIs(t, copied.Use(func([]byte) error { return nil }), ErrLocked)
			s.Destroy()
		})
	}
}

func newChan() chan struct{} { return make(chan struct{}) }

// TestSecretDroppedIsWiped by the collector; what is kept is not, though it
// shares a tray with them.
func TestSecretDroppedIsWiped(t *testing.T) {
	for kind, tray := range trays {
		t.Run(fmt.Sprint(tray.most), func(t *testing.T) {
			v := inMemoryVault(t, nil)
			text := canary
			if kind > 0 {
				text = strings.Repeat(canary, 2+trays[kind-1].most/len(canary))
			}
			require.NoError(t, v.Put("a", "b", secret(text)))
			kept := must(v.Get("a", "b"))
			s := v.current()
			count := func() int {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.handed)
			}
			var bytes [][]byte // as no program may keep them
			for range min(10*tray.buffers, 300) {
				require.NoError(t, must(v.Get("a", "b")).Use(func(b []byte) error {
					bytes = append(bytes, b)
					return nil
				}))
			}
			require.Greater(t, count(), 2)
			for count() > 2 { // the kept one's tray, and the current
				runtime.GC()
			}
			left := 0
			s.mu.Lock() // the collector's wiping is over
			for _, b := range bytes {
				if !slices.Equal(b, make([]byte, len(b))) {
					left++
				}
			}
			s.mu.Unlock()
			require.Less(t, left, 2*tray.buffers)
			require.True(t, reveal(t, kept) == text)
			v.Lock()
			require.Zero(t, count())
			require.ErrorIs(t, kept.Use(func([]byte) error { return nil }), ErrLocked)
			for _, b := range bytes {
				require.True(t, slices.Equal(b, make([]byte, len(b))), "wiped by the lock")
			}
		})
	}
}

// TestSecretDestroyedIsNotKept by others of its tray.
func TestSecretDestroyedIsNotKept(t *testing.T) {
	v := inMemoryVault(t, nil)
	require.NoError(t, v.Put("a", "b", secret(strings.Repeat(canary, 100))))
	kept, gone := must(v.Get("a", "b")), must(v.Get("a", "b"))
	held := func() (n int) {
		s := v.current()
		s.mu.Lock()
		defer s.mu.Unlock()
		for h := range s.handed {
			for _, b := range h.bytes() {
				n += len(b)
			}
		}
		return n
	}
	before := held()
	gone.Destroy()
	require.Equal(t, before-100*len(canary), held())
	require.True(t, reveal(t, kept) == strings.Repeat(canary, 100))
	bad := must(v.Encrypt(EncryptedData{Envelope: 2, Name: "a", Purpose: "b"}, secret(strings.Repeat(canary, 100))))
	bad.Name = "c"
	_, err := v.Decrypt(bad)
	require.ErrorIs(t, err, ErrDecrypt)
	require.Equal(t, before-100*len(canary), held(), "nor what did not decrypt")
}
