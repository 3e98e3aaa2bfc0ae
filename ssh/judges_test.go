package ssh_test

import (
	"crypto"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/ssh"
)

// judged is a node whose host key is known, for clients without certificates.
func judged(t *testing.T, over alknet.Transport) (*node, *stock, xssh.PublicKey) {
	t.Helper()
	key := newKey(t)
	n := newNode(t, func(h *ssh.Handler) {
		h.HostKeys = []crypto.Signer{key}
		h.AcceptAnyKey = true
		h.Subsystems = map[string]ssh.SubsystemFunc{"sftp": openSSHSFTP}
	})
	return n, n.stock(over, allScopes...), signerOf(t, key).PublicKey()
}

// proxy is the ProxyCommand as one word of a shell.
func (s *stock) proxy() string { return s.alknet + " pipe " + s.id + " " + ssh.ALPN }

const judgement = "echo out; echo err >&2; cat; exit 7"

func TestDropbear(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		_, s, _ := judged(t, over)
		cmd := testenv.Command(t, "dbclient", "-y", "-y", "-J", s.proxy(), "bob@node", judgement)
		cmd.Env = append(os.Environ(), "HOME="+s.dir)
		cmd.Stdin = strings.NewReader("in\n")
		out, errs, status := run(t, cmd)
		require.Equal(t, "out\nin\n", out, errs)
		require.Contains(t, errs, "err\n")
		require.Equal(t, 7, status)
		// It wants a terminal of its own.
		cmd = testenv.Command(t, "python3", "-c", "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
			testenv.Tool(t, "dbclient"), "-y", "-y", "-t", "-J", s.proxy(), "bob@node", "tty && exit 5")
		cmd.Env = append(os.Environ(), "HOME="+s.dir)
		out, errs, status = run(t, cmd)
		require.Contains(t, out, "/dev/pts/", errs)
		require.Equal(t, 5, status)
	})
}

func TestPlink(t *testing.T) {
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		n, s, host := judged(t, over)
		_, port := web(t)
		n.policy("allow * dial tcp 127.0.0.1:" + port)
		args := []string{"-batch", "-ssh", "-hostkey", xssh.FingerprintSHA256(host), "-proxycmd", s.proxy()}
		cmd := testenv.Command(t, "plink", append(args, "bob@node", judgement)...)
		cmd.Env = append(os.Environ(), "HOME="+s.dir)
		cmd.Stdin = strings.NewReader("in\n")
		out, errs, status := run(t, cmd)
		require.Equal(t, "out\nin\n", out, errs)
		require.Equal(t, "err\n", errs)
		require.Equal(t, 7, status)
		cmd = testenv.Command(t, "plink", append(args, "-t", "bob@node", "tty && exit 5")...)
		cmd.Env = append(os.Environ(), "HOME="+s.dir)
		out, errs, status = run(t, cmd)
		require.Contains(t, out, "/dev/pts/", errs)
		require.Equal(t, 5, status)
		cmd = testenv.Command(t, "plink", append(args, "-nc", "127.0.0.1:"+port, "bob@node")...)
		cmd.Env = append(os.Environ(), "HOME="+s.dir)
		cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
		out, errs, _ = run(t, cmd)
		require.Contains(t, out, "hello", errs)
	})
}

const paramikoScript = `
import paramiko, sys, io, socket
proxy, keyfile, hostkey, port = sys.argv[1:5]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.RejectPolicy())
kind, blob = hostkey.split()[:2]
client.get_host_keys().add("node", kind, paramiko.Ed25519Key(data=__import__("base64").b64decode(blob)))
client.connect("node", username="bob", sock=paramiko.ProxyCommand(proxy), pkey=paramiko.Ed25519Key.from_private_key_file(keyfile), allow_agent=False, look_for_keys=False, timeout=20)
i, o, e = client.exec_command("echo out; echo err >&2; cat; exit 7")
i.write("in\n"); i.channel.shutdown_write()
assert o.read() == b"out\nin\n"; assert e.read() == b"err\n"; assert o.channel.recv_exit_status() == 7
ch = client.get_transport().open_session(); ch.get_pty("vt100", 77, 22); ch.exec_command("stty size; tty")
out = b""
while True:
    d = ch.recv(4096)
    if not d: break
    out += d
assert out.startswith(b"22 77\r\n/dev/pts/"), out
sftp = client.open_sftp()
sftp.putfo(io.BytesIO(b"x" * 100000), keyfile + ".sftp"); assert sftp.stat(keyfile + ".sftp").st_size == 100000
ch = client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", int(port)), ("127.0.0.1", 0))
ch.sendall(b"GET / HTTP/1.0\r\n\r\n"); got = b""
while True:
    d = ch.recv(4096)
    if not d: break
    got += d
assert b"hello" in got
try:
    client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 0)); sys.exit("a forbidden target")
except paramiko.ChannelException as ex:
    assert ex.code == 1, ex
bound = client.get_transport().request_port_forward("127.0.0.1", 0)
s = socket.create_connection(("127.0.0.1", bound)); ch = client.get_transport().accept(10); ch.sendall(b"from the client"); ch.close()
assert s.recv(100) == b"from the client"
print("all good")
client.close()
`

func TestParamiko(t *testing.T) {
	testenv.Tool(t, "python3:paramiko")
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		n, s, host := judged(t, over)
		_, port := web(t)
		n.policy("allow * dial tcp 127.0.0.1:" + port + "\nallow * listen tcp 127.0.0.1:*")
		keyFile := writeKey(t, s.dir, newKey(t))
		out, errs, status := run(t, testenv.Command(t, "python3:paramiko", "-c", paramikoScript, s.proxy(), keyFile, string(xssh.MarshalAuthorizedKey(host)), port))
		require.Equal(t, 0, status, "%s%s", out, errs)
		require.Equal(t, "all good\n", out)
	})
}

const ssh2Script = `
const {Client} = require("ssh2"), {spawn} = require("child_process"), {Duplex} = require("stream"), assert = require("assert");
const [cmd, hostkey, port] = process.argv.slice(1);
const p = spawn("sh", ["-c", "exec " + cmd], {stdio: ["pipe", "pipe", "inherit"]});
const sock = Duplex.from({readable: p.stdout, writable: p.stdin});
const c = new Client();
c.on("error", e => { console.error(e); process.exit(1) });
c.on("ready", () => {
  c.exec("echo out; echo err >&2; cat; exit 7", (e, s) => {
    if (e) throw e;
    let out = "", err = "", code;
    s.on("data", d => out += d); s.stderr.on("data", d => err += d); s.on("exit", x => code = x);
    s.on("close", () => {
      assert.deepStrictEqual([out, err, code], ["out\nin\n", "err\n", 7]);
      c.exec("tty; kill -TERM $$", {pty: {term: "vt100", cols: 70, rows: 20}}, (e, s) => {
        if (e) throw e;
        let out = "", sig;
        s.on("data", d => out += d); s.on("exit", (x, name) => sig = name);
        s.on("close", () => {
          assert(out.startsWith("/dev/pts/"), out); assert.strictEqual(sig, "SIGTERM");
          c.forwardOut("127.0.0.1", 1, "127.0.0.1", +port, (e, s) => {
            if (e) throw e;
            let got = ""; s.on("data", d => got += d);
            s.on("close", () => { assert(got.includes("hello"));
              c.sftp((e, sftp) => { if (e) throw e; sftp.readdir("/", (e, l) => { if (e) throw e; assert(l.length > 3); console.log("all good"); c.end(); }) }) });
            s.end("GET / HTTP/1.0\r\n\r\n");
          });
        });
      });
    });
    s.end("in\n");
  });
});
c.connect({sock, username: "bob", hostVerifier: k => k.toString("base64") === hostkey.split(" ")[1].trim()});
`

func TestNpmSSH2(t *testing.T) {
	const modules = "../internal/tools/npm"
	testenv.Tool(t, "node")
	if _, err := os.Stat(filepath.Join(modules, "node_modules", "ssh2")); err != nil {
		if os.Getenv("ALKNET_REQUIRE_TOOLS") == "1" {
			t.Fatal("npm ci in internal/tools/npm was not run")
		}
		t.Skip("npm ci in internal/tools/npm was not run")
	}
	eachTransport(t, func(t *testing.T, over alknet.Transport) {
		n, s, host := judged(t, over)
		_, port := web(t)
		n.policy("allow * dial tcp 127.0.0.1:" + port)
		cmd := testenv.Command(t, "node", "-e", ssh2Script, s.proxy(), string(xssh.MarshalAuthorizedKey(host)), port)
		cmd.Dir = modules
		out, errs, status := run(t, cmd)
		require.Equal(t, 0, status, "%s%s", out, errs)
		require.Equal(t, "all good\n", out)
	})
}

func TestSSHFS(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no /dev/fuse")
	}
	_, s, _ := judged(t, alknet.QUIC)
	mount := filepath.Join(s.dir, "mnt")
	require.NoError(t, os.Mkdir(mount, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "f"), []byte("through sshfs"), 0o600))
	cmd := testenv.Command(t, "sshfs", "-f", "-F", s.config, "node:"+s.dir, mount)
	errs, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	go func() { _, _ = io.Copy(io.Discard, errs) }()
	defer unmount(cmd, mount)
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(mount, "f"))
		return err == nil && string(text) == "through sshfs"
	}, 30*time.Second, 20*time.Millisecond)
}

// unmount ends sshfs, which does not always hear the signal.
func unmount(cmd *exec.Cmd, mount string) {
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	_ = cmd.Process.Signal(os.Interrupt)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = exec.Command("umount", "-l", mount).Run() // of a program that is killed it would stay
		_ = cmd.Process.Kill()
		<-done
	}
}
