package alknet

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/session"
)

// A client that cannot resume is sent no ticket on QUIC either, where the library
// leaves that to us: it holds what the server knows of the client.
func TestTicketsGoToClientsThatResume(t *testing.T) {
	e, err := NewEndpoint(nil, nil, &Config{Key: testKey(t, 1)})
	require.NoError(t, err)
	defer e.Close()
	r := &Router{}
	require.NoError(t, r.Register(Service{ALPN: "a", Handler: HandlerFunc(nil)}))
	defer r.Close()
	l := &listening{r: r, e: e, ctx: t.Context()}
	for name, ed25519 := range map[string]bool{"node": true, "browser": false} {
		conf := l.tlsConfig(QUIC)
		if !ed25519 { // which crypto/tls always offers
			inner := conf.GetConfigForClient
			conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				hello.SignatureSchemes = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}
				return inner(hello)
			}
		}
		for range 2 { // in turn: neither gets what was made for the other
			require.Zero(t, ticketBytes(t, conf, nil), "%s without a cache", name)
			require.NotZero(t, ticketBytes(t, conf, tls.NewLRUClientSessionCache(1)), "%s with a cache", name)
		}
	}
}

// ticketBytes runs the TLS part of a QUIC handshake and returns how long a ticket
// the server sends after it.
func ticketBytes(t *testing.T, conf *tls.Config, cache tls.ClientSessionCache) (n int) {
	server := tls.QUICServer(&tls.QUICConfig{TLSConfig: conf})
	anyone := session.ClientTLS{ALPN: "a", ServerName: "n", Cache: cache, Verify: func(*x509.Certificate) error { return nil }}
	client := tls.QUICClient(&tls.QUICConfig{TLSConfig: anyone.Config()})
	for _, end := range []*tls.QUICConn{client, server} {
		end.SetTransportParameters(nil)
		require.NoError(t, end.Start(t.Context()))
		defer end.Close()
	}
	for done, from, to := 0, client, server; done < 2; from, to = to, from {
		for ev := from.NextEvent(); ev.Kind != tls.QUICNoEvent; ev = from.NextEvent() {
			switch ev.Kind {
			case tls.QUICWriteData:
				require.NoError(t, to.HandleData(ev.Level, ev.Data))
			case tls.QUICHandshakeDone:
				done++
			}
		}
	}
	require.NoError(t, server.SendSessionTicket(tls.QUICSessionTicketOptions{}))
	for ev := server.NextEvent(); ev.Kind != tls.QUICNoEvent; ev = server.NextEvent() {
		n += len(ev.Data)
	}
	return n
}
