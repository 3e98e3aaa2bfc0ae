package socks

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/things-go/go-socks5/statute"
)

// S6: an association has so many destinations, and more are lost.
func TestDestinationsOfAnAssociation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &Server{Dial: func(ctx context.Context, _, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	a := &association{c: &client{s: s, nc: here}, ctx: ctx, flows: make(map[string]*flow)}
	for i := range 100 {
		d, err := statute.NewDatagram(fmt.Sprintf("x%d.test:7", i), []byte("x"))
		require.NoError(t, err)
		a.send(d)
	}
	a.mu.Lock()
	require.Len(t, a.flows, maxFlows)
	a.mu.Unlock()
	cancel()
	a.wg.Wait()
	require.Empty(t, a.flows)
}

// S6: what a client may write before it has said what it wants is bounded,
// however long it may take.
func TestEndlessHandshakes(t *testing.T) {
	long := strings.Repeat("x", maxHTTPHead)
	for name, text := range map[string]string{
		"HTTP head":    "CONNECT x.test:1 HTTP/1.1\r\nA: " + long,
		"SOCKS4 user":  "\x04\x01\x00\x01\x7f\x00\x00\x01" + long,
		"SOCKS4a name": "\x04\x01\x00\x01\x00\x00\x00\x01\x00" + long,
	} {
		nc, err := net.Dial("tcp", serve(t, &Server{HandshakeTimeout: -1}))
		require.NoError(t, err)
		defer nc.Close()
		_, err = io.WriteString(nc, text)
		require.NoError(t, err)
		_ = nc.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err = io.ReadAll(nc)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "%s: it waits for more", name)
	}
}
