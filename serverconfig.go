package alknet

import (
	"crypto/tls"
	"sync"
	"time"
)

// handshakeConfigs are the configurations of the handshakes for services of one
// Endpoint, each of which names one ALPN and asks for a certificate. They are
// made when first asked for, and anew when the services or the ticket keys
// have changed. The zero value is empty.
type handshakeConfigs struct {
	mu       sync.Mutex
	services *[]*service              // guarded by mu; for which the rest was made
	keys     *[][32]byte              // guarded by mu; likewise
	configs  map[*service]*tls.Config // guarded by mu
}

// of returns the configuration for svc with the certificate cert, which is the
// node's own.
func (h *handshakeConfigs) of(r *Router, svc *service, cert *tls.Certificate) *tls.Config {
	services, keys := r.services.Load(), r.tickets.current(time.Now())
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.services != services || h.keys != keys {
		h.services, h.keys, h.configs = services, keys, make(map[*service]*tls.Config)
	}
	conf := h.configs[svc]
	if conf == nil {
		conf = newHandshakeConfig(cert, *keys, svc.ALPN)
		askForKey(conf)
		h.configs[svc] = conf
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
