package pair

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/alkdev/alknet"
)

// A Ticket is an invite as it is handed over: whom to dial, where, and the
// secret. Whoever has it can join: it is handed over where nobody listens.
type Ticket struct {
	// Head is the key that must answer.
	Head alknet.PeerID
	// Addrs are where it can be reached, "host:port"; 1 to 16.
	Addrs []string
	// Secret is 128 random bits, 26 characters.
	Secret string
}

// The bounds of a ticket.
const (
	ticketScheme   = "alknet://"
	ticketQuery    = "/?join="
	secretLen      = 26
	maxTicketAddrs = 16
	maxTicketBytes = 8 << 10
)

// errTicket is a ticket that cannot be read.
var errTicket = errors.New("pair: no ticket")

// String is alknet://PEERID@host:port[,host:port]/?join=SECRET.
func (t Ticket) String() string {
	return ticketScheme + t.Head.String() + "@" + strings.Join(t.Addrs, ",") + ticketQuery + t.Secret
}

// ParseTicket reads what [Ticket.String] writes.
func ParseTicket(s string) (Ticket, error) {
	var t Ticket
	bad := func(why string) (Ticket, error) { return Ticket{}, fmt.Errorf("%w: %s", errTicket, why) }
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), ticketScheme)
	if !ok || len(s) > maxTicketBytes {
		return bad("it does not begin with " + ticketScheme)
	}
	where, secret, ok := strings.Cut(rest, ticketQuery)
	if !ok || !validSecret(secret) {
		return bad("it does not end in " + ticketQuery + " and a secret")
	}
	head, addrs, ok := strings.Cut(where, "@")
	if !ok {
		return bad("it names no key")
	}
	var err error
	if t.Head, err = alknet.ParsePeerID(head); err != nil || t.Head.String() != head {
		return bad("its key is none")
	}
	t.Secret, t.Addrs = secret, strings.Split(addrs, ",")
	if len(t.Addrs) > maxTicketAddrs {
		return bad("it has too many addresses")
	}
	for _, a := range t.Addrs {
		if !validAddr(a) {
			return bad("an address is none")
		}
	}
	return t, nil
}

// validAddr reports whether a is "host:port" that can stand in a ticket.
func validAddr(a string) bool {
	parsed, err := alknet.ParseAddr(a)
	if err != nil || !parsed.Peer.IsZero() || parsed.String() != a {
		return false
	}
	host, _, err := net.SplitHostPort(a)
	return err == nil && host != "" && !strings.ContainsAny(a, ",/?#@ ")
}

// newSecret is 128 random bits in base32.
func newSecret() string { return rand.Text()[:secretLen] }

func validSecret(s string) bool {
	return len(s) == secretLen && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// hashOf is what is kept of a secret.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// codeOf is what both ends show, so that people can compare: eight digits over
// both keys and the secret.
func codeOf(head, joiner alknet.PeerID, secret string) string {
	h := sha256.New()
	for _, b := range [][]byte{head[:], joiner[:], []byte(secret)} {
		_, _ = h.Write(b) // it never fails
	}
	sum := h.Sum(nil)
	n := uint64(0)
	for _, b := range sum[:8] {
		n = n<<8 | uint64(b)
	}
	return fmt.Sprintf("%08d", n%100_000_000)
}
