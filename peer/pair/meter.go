package pair

import (
	"net"
	"net/netip"
	"time"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// How many wrong guesses a minute are answered: from one IPv4 address or IPv6
// /56, and from everybody.
const (
	maxGuessesPlace = 5
	maxGuessesAll   = 50
	guessTime       = time.Minute
	maxPlaces       = 4096
)

// A meter counts wrong guesses within a minute.
type meter struct {
	begun  time.Time
	all    int
	places map[string]int
}

func newMeter() meter { return meter{places: make(map[string]int)} }

// mayGuess refuses who has guessed wrong too often.
func (h *Handler) mayGuess(from string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &h.guesses
	now := h.now()
	if now.Sub(m.begun) >= guessTime {
		m.begun, m.all = now, 0
		clear(m.places)
	}
	if m.all < maxGuessesAll && m.places[from] < maxGuessesPlace {
		return nil
	}
	return (&call.Error{
		Code: codes.ResourceExhausted, Message: "too many failed attempts", Retryable: true, RetryAfter: guessTime - now.Sub(m.begun),
	}).NotRun()
}

// guessed counts a wrong guess.
func (h *Handler) guessed(from string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guesses.all++
	if len(h.guesses.places) < maxPlaces {
		h.guesses.places[from]++
	}
}

// place is an address without what its owner can choose freely.
func place(a net.Addr) string {
	if a == nil {
		return ""
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	ip := ap.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.WithZone("").Prefix(56)
	if err != nil {
		return ip.String()
	}
	return p.String()
}
