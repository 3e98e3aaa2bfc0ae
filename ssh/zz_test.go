package ssh_test

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

func TestZZCat(t *testing.T) {
	x := newHost(t, nil)
	dir := t.TempDir()
	key := newKey(t)
	x.allow(line(t, "", key, "bob"))
	keyFile := writeKey(t, dir, key)
	hostname, port, _ := net.SplitHostPort(x.addr)
	begun := time.Now()
	cmd := testenv.Command(t, "ssh", "-F", "none", "-i", keyFile, "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-c", os.Getenv("CIPHER"), "-p", port, "bob@"+hostname, "head -c 2147483648 /dev/zero")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	n, _ := io.Copy(struct{ io.Writer }{io.Discard}, out)
	t.Log(n, time.Since(begun))
	require.NoError(t, cmd.Wait())
}
