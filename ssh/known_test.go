package ssh_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
)

// S8: nothing that a shell, ssh_config or known_hosts reads gets into a block.
func TestWriteConfigRefusesWhatAShellReads(t *testing.T) {
	id := peerOf(newKey(t))
	for _, name := range []string{
		"", "a b", "a\nHost *", "$(id)", "`id`", "a;id", "a|id", "a&b", "*", "?", "!a", "a%h", "-oProxyCommand=x", "A", "é", "a,b", "a/b", `a"b`, "a'b", strings.Repeat("a", 64),
		"x.alk", peerOf(newKey(t)).String(),
	} {
		var b bytes.Buffer
		require.Error(t, ssh.WriteConfig(&b, "/usr/bin/alknet", map[string]alknet.PeerID{name: id}), "%q", name)
		require.Zero(t, b.Len())
		if !strings.HasSuffix(name, ".alk") && len(name) != 52 {
			require.Empty(t, ssh.KnownHosts(id, name), "%q", name)
		}
	}
	for _, path := range []string{"alknet", "/opt/a b/alknet", "/opt/$(id)", "/opt/`id`", "/opt/%h", "/opt/a;b", "/opt/a\nb", ""} {
		require.Error(t, ssh.WriteConfig(new(bytes.Buffer), path, nil), "%q", path)
	}
	require.NoError(t, ssh.WriteConfig(new(bytes.Buffer), "/opt/alknet_1.0/bin-x/alknet", map[string]alknet.PeerID{"node-1.lan_x": id, id.String(): id}))
}

// What OpenSSH makes of the blocks; names that a shell would run match none.
func TestConfigAsOpenSSHReadsIt(t *testing.T) {
	id := peerOf(newKey(t))
	var b bytes.Buffer
	require.NoError(t, ssh.WriteConfig(&b, "/opt/alknet", map[string]alknet.PeerID{"bob": id}))
	require.Contains(t, b.String(), "\nHost *.alk !*$* !*`* !*;* !*|* !*&* !*<* !*>* !*(*\n", "newer clients refuse these by themselves")
	config := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(config, b.Bytes(), 0o600))
	read := func(host string) string {
		out, _, _ := run(t, testenv.Command(t, "ssh", "-F", config, "-G", host))
		return out
	}
	for _, host := range []string{"bob", "bob.alk", id.String()} {
		out := read(host)
		require.Contains(t, out, "\nproxycommand /opt/alknet pipe "+id.String()+" alknet/ssh\n")
		require.Contains(t, out, "\nstricthostkeychecking true\n")
		require.Contains(t, out, "\nhostkeyalias "+id.String()+"\n")
		require.Contains(t, out, "\npasswordauthentication no\n")
	}
	require.Contains(t, read(id.String()+".alk"), "proxycommand /opt/alknet pipe %h alknet/ssh\n")
	for _, host := range []string{"$(id).alk", "`id`.alk", "a;id.alk", "a|id.alk", "a&id.alk", "a>b.alk", "a<b.alk", "(id).alk"} {
		require.NotContains(t, read(host), "proxycommand /opt/alknet", host)
	}
	require.NotContains(t, read("elsewhere"), "alknet")
}
