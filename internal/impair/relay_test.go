package impair

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echoUDP answers each datagram with "address of the sender|datagram".
func echoUDP(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", listenAddr)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(append([]byte(from.String()+"|"), buf[:n]...), from)
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	return pc.LocalAddr().String()
}

// dialUDP connects a client to a relay.
func dialUDP(t *testing.T, r *Relay) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", r.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

// ask sends a datagram and returns who the server saw, and what it got.
func ask(t *testing.T, conn net.Conn, text string) (sender, got string) {
	t.Helper()
	_, err := conn.Write([]byte(text))
	require.NoError(t, err)
	buf := make([]byte, maxDatagram)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	from, rest, found := bytes.Cut(buf[:n], []byte("|"))
	require.True(t, found)
	return string(from), string(rest)
}

func TestUDPPassesBothWays(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{})
	a, b := dialUDP(t, r), dialUDP(t, r)
	senderA, got := ask(t, a, "one")
	require.Equal(t, "one", got)
	senderB, got := ask(t, b, "two")
	require.Equal(t, "two", got)
	require.NotEqual(t, senderA, senderB, "each client has a port of its own")
	again, _ := ask(t, a, "three")
	require.Equal(t, senderA, again, "and keeps it")
	toServer, toClient := r.Counts()
	require.Equal(t, Counts{Packets: 3, Bytes: 11}, toServer)
	require.Equal(t, int64(3), toClient.Packets)
	require.Equal(t, int64(11+3+2*len(senderA)+len(senderB)), toClient.Bytes)
}

func TestUDPDelayIsEachWay(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{Delay: 20 * time.Millisecond})
	begin := time.Now()
	ask(t, dialUDP(t, r), "x")
	require.GreaterOrEqual(t, time.Since(begin), 40*time.Millisecond)
}

func TestUDPLossIsSilence(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{Loss: 1})
	conn := dialUDP(t, r)
	_, err := conn.Write([]byte("lost"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { toServer, _ := r.Counts(); return toServer.Lost == 1 }, 10*time.Second, time.Millisecond)
	r.SetProfile(Profile{})
	_, got := ask(t, conn, "found")
	require.Equal(t, "found", got, "the first never comes")
}

func TestUDPCorruptsOneBit(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{Corrupt: 1})
	conn := dialUDP(t, r)
	text := bytes.Repeat([]byte{0x55}, 1000)
	_, err := conn.Write(text)
	require.NoError(t, err)
	buf := make([]byte, 2000)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	require.False(t, bytes.HasSuffix(buf[:n], text))
	require.Greater(t, n, len(text))
}

func TestUDPDuplicates(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{Duplicate: 1})
	conn := dialUDP(t, r)
	ask(t, conn, "x")
	buf := make([]byte, 100)
	for range 3 { // twice there, each twice back
		n, err := conn.Read(buf)
		require.NoError(t, err)
		require.True(t, bytes.HasSuffix(buf[:n], []byte("|x")))
	}
}

func TestUDPRebindChangesThePort(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{Rebind: time.Nanosecond})
	conn := dialUDP(t, r)
	seen := make(map[string]bool)
	for i := range 20 {
		sender, got := ask(t, conn, fmt.Sprint(i))
		require.Equal(t, fmt.Sprint(i), got, "the answer to the new port arrives")
		seen[sender] = true
	}
	require.Greater(t, len(seen), 10)
}

func TestUDPCut(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{})
	conn := dialUDP(t, r)
	first, _ := ask(t, conn, "x")
	r.Cut()
	second, got := ask(t, conn, "y")
	require.Equal(t, "y", got)
	require.NotEqual(t, first, second)
}

// A server that is not there yet makes errors at the relay's socket, which must
// not end it.
func TestUDPServerThatComesLater(t *testing.T) {
	pc, err := net.ListenPacket("udp", listenAddr)
	require.NoError(t, err)
	target := pc.LocalAddr().String()
	require.NoError(t, pc.Close())
	r := UDP(t, target, Profile{})
	conn := dialUDP(t, r)
	for range 10 {
		_, err := conn.Write([]byte("early"))
		require.NoError(t, err)
	}
	pc, err = net.ListenPacket("udp", target)
	require.NoError(t, err)
	defer pc.Close()
	require.NoError(t, pc.SetDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 100)
	for text := ""; text != "late"; text = string(buf) {
		_, err := conn.Write([]byte("late"))
		require.NoError(t, err)
		n, _, err := pc.ReadFrom(buf[:cap(buf)])
		require.NoError(t, err)
		buf = buf[:n]
	}
}

// echoTCP answers a stream with itself, and its end with its end.
func echoTCP(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", listenAddr)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// dialTCP connects a client to a relay.
func dialTCP(t *testing.T, r *Relay) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	return conn.(*net.TCPConn)
}

// roundTrip sends data, ends the stream, and returns what comes back.
func roundTrip(t *testing.T, conn *net.TCPConn, data []byte) []byte {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = conn.Write(data) // the reader notices
		_ = conn.CloseWrite()
	})
	got, err := io.ReadAll(conn)
	wg.Wait()
	require.NoError(t, err)
	return got
}

func TestTCPStreamIsWhole(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, p := range []Profile{
		{Name: "clean"},
		{Name: "delay", Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond},
		{Name: "rate", BytesPerSecond: 20 << 20},
		{Name: "ignored", Reorder: 1, Duplicate: 1, Rebind: 1, MaxQueue: 1},
		{Name: "blackhole", Up: 20 * time.Millisecond, Down: 10 * time.Millisecond},
	} {
		t.Run(p.Name, func(t *testing.T) {
			r := TCP(t, echoTCP(t), p)
			got := roundTrip(t, dialTCP(t, r), data)
			require.Equal(t, sha256.Sum256(data), sha256.Sum256(got), "%d bytes of %d", len(got), len(data))
			toServer, toClient := r.Counts()
			require.Equal(t, int64(len(data)), toServer.Bytes)
			require.Equal(t, int64(len(data)), toClient.Bytes)
		})
	}
}

func TestTCPLossIsAPause(t *testing.T) {
	r := TCP(t, echoTCP(t), Profile{Loss: 0.99, Seed: 1})
	begin := time.Now()
	require.Equal(t, "x", string(roundTrip(t, dialTCP(t, r), []byte("x"))))
	require.GreaterOrEqual(t, time.Since(begin), retransmit)
}

func TestTCPTotalLossHoldsTheStream(t *testing.T) {
	r := TCP(t, echoTCP(t), Profile{Loss: 1})
	conn := dialTCP(t, r)
	_, err := conn.Write([]byte("held"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	r.SetProfile(Profile{})
	buf := make([]byte, 4)
	_, err = io.ReadFull(conn, buf)
	require.NoError(t, err)
	require.Equal(t, "held", string(buf))
}

func TestTCPCorrupts(t *testing.T) {
	data := make([]byte, 1<<16)
	r := TCP(t, echoTCP(t), Profile{Corrupt: 1})
	got := roundTrip(t, dialTCP(t, r), data)
	require.Len(t, got, len(data))
	require.NotEqual(t, data, got)
}

func TestTCPCutResets(t *testing.T) {
	for _, p := range []Profile{{}, {Delay: time.Hour}, {Loss: 1}} {
		r := TCP(t, echoTCP(t), p)
		conn := dialTCP(t, r)
		_, err := conn.Write([]byte("x"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { toServer, _ := r.Counts(); return toServer.Packets > 0 }, 10*time.Second, time.Millisecond)
		r.Cut()
		_, err = io.ReadAll(conn)
		require.Error(t, err, "it ends, and not as if it were over")
		require.NotErrorIs(t, err, io.EOF)
		r.SetProfile(Profile{})
		require.Equal(t, "y", string(roundTrip(t, dialTCP(t, r), []byte("y"))), "new connections are taken")
	}
}

func TestTCPNoServerIsAReset(t *testing.T) {
	ln, err := net.Listen("tcp", listenAddr)
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	r := TCP(t, ln.Addr().String(), Profile{})
	conn, err := net.Dial("tcp", r.Addr())
	if err == nil { // else the reset came first
		defer conn.Close()
		_, err = io.ReadAll(conn)
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestCloseEndsEverythingAndWaits(t *testing.T) {
	for name, start := range map[string]func() *Relay{
		"TCP": func() *Relay {
			r := TCP(t, echoTCP(t), Profile{Delay: time.Hour})
			_, err := dialTCP(t, r).Write(make([]byte, 1<<20))
			require.NoError(t, err)
			return r
		},
		"UDP": func() *Relay {
			r := UDP(t, echoUDP(t), Profile{Delay: time.Hour})
			_, err := dialUDP(t, r).Write([]byte("x"))
			require.NoError(t, err)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start()
			r.Close()
			r.Close()
			r.Cut() // does nothing
		})
	}
}

// A burst that one client sends while others are served: nothing is shared but
// the line.
func TestUDPManyClients(t *testing.T) {
	r := UDP(t, echoUDP(t), Profile{Delay: time.Millisecond})
	var wg sync.WaitGroup
	for c := range 8 {
		conn := dialUDP(t, r)
		wg.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf("client %d packet %d", c, i)
				if _, got := ask(t, conn, want); got != want {
					t.Errorf("%q instead of %q", got, want)
				}
			}
		})
	}
	wg.Wait()
}
