package session

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// A ClientTLS says whom a dial trusts and what it shows.
type ClientTLS struct {
	ALPN        string                             // the one name that is offered
	ServerName  string                             // peers dialled by name: WebPKI, with this name
	Verify      func(leaf *x509.Certificate) error // peers dialled by key: judges the certificate instead of a CA
	Certificate func() (*tls.Certificate, error)   // ours, for peers dialled by key; nil: none
	Roots       *x509.CertPool                     // nil: the system's
	Cache       tls.ClientSessionCache             // nil: no resumption
}

// errNoCertificate is a server without one, which TLS 1.3 does not allow.
var errNoCertificate = errors.New("the peer sent no certificate")

// Config is the tls.Config of one dial. With Verify it turns off the check
// against a CA, and puts the pin in VerifyConnection, which unlike
// VerifyPeerCertificate also runs when a session is resumed.
func (c ClientTLS) Config() *tls.Config {
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{c.ALPN},
		ServerName:         c.ServerName,
		RootCAs:            c.Roots,
		ClientSessionCache: c.Cache,
	}
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != c.ALPN {
			return tls.AlertError(alertNoALPN)
		}
		return nil
	}
	if c.Verify == nil {
		return conf
	}
	conf.InsecureSkipVerify = true // the pin below is stricter than any CA
	byALPN := conf.VerifyConnection
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errNoCertificate
		}
		if err := c.Verify(cs.PeerCertificates[0]); err != nil {
			return err
		}
		return byALPN(cs)
	}
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if c.Certificate == nil {
			return &tls.Certificate{}, nil
		}
		return c.Certificate()
	}
	return conf
}

// alertNoALPN is no_application_protocol (RFC 7301, section 3.2).
const alertNoALPN = 120

// IsNoALPN reports whether err says that the peer does not serve the ALPN.
func IsNoALPN(err error) bool {
	alert, ok := errors.AsType[tls.AlertError](err)
	if ok && alert == alertNoALPN {
		return true
	}
	// crypto/tls wraps the alert of the other end in an unexported type.
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && op.Err.Error() == tls.AlertError(alertNoALPN).Error()
}
