package ssh_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

// S4: packets that no honest client sends end the connection or mean nothing;
// they cost little, and nobody else notices.
func TestRawPackets(t *testing.T) {
	testenv.Tool(t, "python3:paramiko")
	x := newHost(t, nil)
	key := newKey(t)
	x.allow(line(t, "", key, "bob"))
	hostname, port, _ := net.SplitHostPort(x.addr)
	before := heap()
	out, errs, status := run(t, testenv.Command(t, "python3:paramiko", "testdata/packets.py", hostname, port, writeKey(t, t.TempDir(), key)))
	require.Zero(t, status, errs)
	require.Equal(t, []string{
		"alive: packet size 0", "alive: packet size 2^32-1", // the channel is refused
		"alive: window 2^32-1",
		"alive: data after EOF",
		"closed: window overflow",
		"closed: window adjusted beyond 2^32",
		"closed: EOF and close twice", // of a channel that is closed
		"alive: unsolicited replies",
		"alive: unsolicited replies on a channel",
		"closed: data on a channel that is not open", "closed: channel 2^31", "closed: channel 2^32-1",
		"closed: confirmation of nothing", "closed: failure of nothing",
		"alive: extended data of any kind",
		"closed: data cut off", "closed: open cut off",
		"closed: unknown message",
		"closed: login again",
	}, strings.Split(strings.TrimSpace(out), "\n"))
	require.Less(t, heap(), before+32<<20)
	c, err := x.login(key)
	require.NoError(t, err)
	require.Equal(t, "ok\n", output(t, c, "echo ok"))
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return strings.Count(x.log.String(), "ssh logout") == 20 }, 30*time.Second, time.Millisecond, "connections are left")
}
