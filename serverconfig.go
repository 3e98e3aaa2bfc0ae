package alknet

import (
	"crypto/tls"
	"slices"
	"sync"
	"time"
)

// handshakeConfigs are the configurations of the handshakes for services of one
// Endpoint, each of which names one ALPN and asks for a certificate. They are
// made when first asked for, and anew when the services or the ticket keys
// have changed. The zero value is empty.
type handshakeConfigs struct {
	mu       sync.Mutex
	services *[]*service                   // guarded by mu; for which the rest was made
	keys     *[][32]byte                   // guarded by mu; likewise
	configs  map[handshakeKind]*tls.Config // guarded by mu
}

// A handshakeKind is what the configurations of one Endpoint differ in.
type handshakeKind struct {
	svc     *service
	resumes bool // the client may resume
}

// of returns the configuration for kind with the certificate cert, which is the
// node's own.
func (h *handshakeConfigs) of(r *Router, kind handshakeKind, cert *tls.Certificate) *tls.Config {
	services, keys := r.services.Load(), r.tickets.current(time.Now())
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.services != services || h.keys != keys {
		h.services, h.keys, h.configs = services, keys, make(map[handshakeKind]*tls.Config)
	}
	conf := h.configs[kind]
	if conf == nil {
		conf = newHandshakeConfig(cert, *keys, kind.svc.ALPN)
		conf.SessionTicketsDisabled = !kind.resumes
		askForKey(conf)
		h.configs[kind] = conf
	}
	return conf
}

// newHandshakeConfig is the configuration of a handshake that shows cert and
// agrees on alpn.
func newHandshakeConfig(cert *tls.Certificate, keys [][32]byte, alpn string) *tls.Config {
	conf := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*cert},
		NextProtos:   []string{alpn},
	}
	conf.SetSessionTicketKeys(keys)
	return conf
}

// askForKey makes conf ask for the client's certificate.
func askForKey(conf *tls.Config) {
	conf.ClientAuth = tls.RequestClientCert
	conf.VerifyConnection = verifyClient
}

// pskKeyExchangeModes is the extension without which a client can use no ticket,
// and should be sent none (RFC 8446, section 4.2.9). crypto/tls sees to that on
// TCP; on QUIC it makes one for every client (docs/adr/0056).
const pskKeyExchangeModes = 45

// resumes reports whether the client of hello may resume what it is told.
func resumes(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.Extensions, pskKeyExchangeModes)
}
