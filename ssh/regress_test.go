package ssh_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/internal/testenv"
)

// regressScripts are the regression tests of OpenSSH that a server other than
// its own can pass. Those that mostly sleep run with the build tag soak.
var regressScripts = append([]string{
	"exit-status-signal", "stderr-after-eof", "transfer", "broken-pipe", "forwarding", "key-options", "hostkey-rotate",
}, slowScripts...)

// TestOpenSSHRegression runs OpenSSH's scripts with a server of ours in the
// place of sshd. What is different here by intent is taken out of them, or turned
// round: environment= is refused, DSA and SHA-1 too, files of revocations are lists of
// keys, a certificate that names nobody is for nobody, and no host key is a security
// key.
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
	adapt(t, filepath.Join(dir, "key-options.sh"), `(?s)# Test environment=.*(# Test from=)`, "$1")
	cert := filepath.Join(dir, "cert-userkey.sh")
	adapt(t, cert, `sed 's/\^ssh-dss/ssh-dsa/;s/\^ssh-//'`, `grep -v -e dss -e ^sk- -e 384 -e 521 | sed 's/^ssh-//'`)
	adapt(t, cert, `s/\^rsa/ssh-rsa/`, `s/^rsa/rsa-sha2-512/`)
	adapt(t, cert, `(?s)\t\tverbose "\$tid: \$\{_prefix\} empty KRL".*?\n\t\tfi\n`, "")
	adapt(t, cert, `(test_one "empty principals"\t)success ("" authorized_keys)`, "${1}failure $2")
	adapt(t, filepath.Join(dir, "hostkey-rotate.sh"), `(tid="hostkey rotate"\n)`, "${1}SSH_HOSTKEY_TYPES=`echo \"$$SSH_HOSTKEY_TYPES\" | grep -v -e dss -e ^sk-`\n")
	adapt(t, filepath.Join(dir, "forwarding.sh"), `base=33`, fmt.Sprint("base=", 11+os.Getpid()%50)) // its ports are fixed
	for _, script := range regressScripts {
		t.Run(script, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "test-exec.sh", dir, script+".sh")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "OBJ="+dir, "SRC="+dir, "BUILDDIR="+dir, "SUDO=", "USER=root", "LOGNAME=root",
				"TEST_SSH_PORT="+freePort(t), "TEST_SHELL=sh", "TEST_SSH_SSH="+testenv.Tool(t, "ssh"), "TEST_SSH_SSHD="+sshd,
				"TEST_SSH_SFTPSERVER=/usr/lib/openssh/sftp-server", "TEST_SSH_UNSAFE_PERMISSIONS=1")
			timer := time.AfterFunc(4*time.Minute, func() { _ = cmd.Process.Kill() })
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

// adapt replaces a part of a script, which must be there.
func adapt(t *testing.T, name, pattern, with string) {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	re := regexp.MustCompile(pattern)
	require.True(t, re.Match(text), "%s: %s", name, pattern)
	require.NoError(t, os.WriteFile(name, re.ReplaceAll(text, []byte(with)), 0o700))
}
