package ssh_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

// regressScripts are the regression tests of OpenSSH that a server other than
// its own can pass. Those that mostly sleep run with the build tag soak.
var regressScripts = append([]string{
	"exit-status-signal", "stderr-after-eof", "transfer", "broken-pipe", "forwarding", "key-options",
}, slowScripts...)

// TestOpenSSHRegression runs OpenSSH's scripts with a server of ours in the
// place of sshd. Left out are those that test sshd_config(5): cert-userkey
// (AuthorizedPrincipalsFile) and hostkey-rotate, which TestCertificates and
// TestHostKeysRotate stand for. environment= is refused here by intent.
func TestOpenSSHRegression(t *testing.T) {
	const source = "/usr/lib/openssh/regress"
	if _, err := os.Stat(source); err != nil {
		if os.Getenv("ALKNET_REQUIRE_TOOLS") == "1" {
			t.Fatal("the package openssh-tests is not installed")
		}
		t.Skip("install the package openssh-tests to run this test")
	}
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	dir := t.TempDir()
	sshd := filepath.Join(dir, "sshd")
	out, err := exec.Command("go", "build", "-o", sshd, "./testdata/sshd").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("cp", "-a", source, dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	dir = filepath.Join(dir, "regress")
	withoutEnvironment(t, filepath.Join(dir, "key-options.sh"))
	for _, script := range regressScripts {
		t.Run(script, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "test-exec.sh", dir, script+".sh")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "OBJ="+dir, "SRC="+dir, "BUILDDIR="+dir, "SUDO=", "USER=root", "LOGNAME=root",
				"TEST_SSH_PORT="+freePort(t), "TEST_SHELL=sh", "TEST_SSH_SSH="+testenv.Tool(t, "ssh"), "TEST_SSH_SSHD="+sshd,
				"TEST_SSH_SFTPSERVER=/usr/lib/openssh/sftp-server", "TEST_SSH_UNSAFE_PERMISSIONS=1")
			timer := time.AfterFunc(90*time.Second, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.True(t, strings.HasPrefix(lastLine(string(out)), "ok "), "%s", out)
		})
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// withoutEnvironment takes the part about environment= out of a script.
func withoutEnvironment(t *testing.T, name string) {
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), "# Test environment=")
	require.True(t, ok)
	_, after, ok := strings.Cut(rest, "# Test from=")
	require.True(t, ok)
	require.NoError(t, os.WriteFile(name, []byte(before+"# Test from="+after), 0o700))
}
