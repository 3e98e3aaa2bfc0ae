// Sshd takes the place of sshd(8) in OpenSSH's own regression tests: "-t -f
// CONFIG" checks, "-i -f CONFIG" serves one connection on standard input and
// output, "-f CONFIG" listens in the background. Of the configuration it takes
// Port, PidFile, HostKey, AuthorizedKeysFile, TrustedUserCAKeys,
// AuthorizedPrincipalsFile, RevokedKeys, AcceptEnv and Subsystem sftp.
package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/dsa"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
)

// everything is what OpenSSH allows by default.
const everything = `
allow * dial tcp *:* in 0.0.0.0/0,::/0
allow * listen tcp *:* in 127.0.0.0/8,::1/128,0.0.0.0/0
allow * dial unix *
allow * listen unix *`

type config struct {
	port, pidFile, keys, sftp        string
	authorities, principals, revoked string // files; "": none
	hostKeys                         []crypto.Signer
	env                              []string
}

func main() {
	file, mode := "", "listen"
	for i, arg := range os.Args {
		switch {
		case arg == "-f":
			file = os.Args[i+1]
		case arg == "-t", arg == "-i":
			mode = arg
		}
	}
	c := parse(file)
	switch {
	case mode == "-t":
	case mode == "-i":
		serveOne(c)
	case os.Getenv("SSHD_DAEMON") == "":
		background(c)
	default:
		listen(c)
	}
}

func parse(file string) *config {
	f, err := os.Open(file)
	must(err)
	defer f.Close()
	c := &config{}
	u, err := user.Current()
	must(err)
	for scan := bufio.NewScanner(f); scan.Scan(); {
		words := strings.Fields(strings.ReplaceAll(scan.Text(), "=", " "))
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "port":
			c.port = words[1]
		case "pidfile":
			c.pidFile = words[1]
		case "authorizedkeysfile":
			c.keys = strings.ReplaceAll(words[1], "%u", u.Username)
		case "trustedusercakeys":
			c.authorities = words[1]
		case "authorizedprincipalsfile":
			c.principals = strings.ReplaceAll(words[1], "%u", u.Username)
		case "revokedkeys":
			c.revoked = words[1]
		case "acceptenv":
			c.env = append(c.env, words[1:]...)
		case "subsystem":
			c.sftp = words[len(words)-1]
		case "hostkey":
			text, err := os.ReadFile(words[1])
			must(err)
			key, err := xssh.ParseRawPrivateKey(text)
			if err != nil {
				continue // such as a security key's
			}
			if _, isDSA := key.(*dsa.PrivateKey); isDSA {
				continue
			}
			if s, ok := key.(crypto.Signer); ok {
				c.hostKeys = append(c.hostKeys, s)
			}
		}
	}
	return c
}

func (c *config) handler() *ssh.Handler {
	gate := &forward.Gate{MaxFlows: -1}
	policy, err := forward.ParsePolicy(everything)
	must(err)
	gate.SetPolicy(policy)
	return &ssh.Handler{
		HostKeys: c.hostKeys, Accounts: ssh.OwnAccount, Gate: gate, Environ: c.env, AllowAgent: true,
		Users: &ssh.Users{
			AuthorizedKeys: c.authorizedKeys,
			Revoked:        c.revokedKeys,
			Identity: func(_ context.Context, name string) (alknet.Identity, error) {
				return alknet.Identity{ID: "user", Scopes: []string{ssh.ScopeShell, ssh.ScopeAgent, forward.ScopeDial, forward.ScopeListen}}, nil
			},
		},
		Subsystems: map[string]ssh.SubsystemFunc{"sftp": c.serveSFTP},
		Limits:     ssh.Limits{MaxPenalty: -1, MaxStartupsPerAddr: -1, MaxChannels: -1},
	}
}

// authorizedKeys are the lines of the file, and one for each authority and each
// of the principals that it may name.
func (c *config) authorizedKeys() ([]byte, error) {
	text, err := os.ReadFile(c.keys)
	if os.IsNotExist(err) {
		text, err = nil, nil
	}
	if err != nil || c.authorities == "" {
		return text, err
	}
	authorities, err := os.ReadFile(c.authorities)
	if err != nil {
		return nil, err
	}
	options := []string{"cert-authority "}
	if c.principals != "" {
		list, _ := os.ReadFile(c.principals) // without it nobody is named
		options = nil
		for l := range strings.Lines(string(list)) {
			if l = strings.TrimSpace(l); l == "" {
				continue
			}
			i := strings.LastIndexByte(l, ' ') + 1
			o := "cert-authority,principals=\"" + l[i:] + "\""
			if i > 0 {
				o += "," + strings.TrimSpace(l[:i])
			}
			options = append(options, o+" ")
		}
	}
	for _, o := range options {
		text = append(append(text, '\n'), o+string(authorities)...)
	}
	return text, nil
}

func (c *config) revokedKeys() ([]byte, error) {
	if c.revoked == "" {
		return nil, nil
	}
	return os.ReadFile(c.revoked)
}

func (c *config) serveSFTP(ctx context.Context, rw io.ReadWriteCloser, _ *alknet.Identity) error {
	cmd := exec.CommandContext(ctx, c.sftp)
	cmd.Stdout = rw
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, _ = io.Copy(in, rw)
	_ = in.Close()
	return cmd.Wait()
}

// A one is a listener with one connection.
type one struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *one) Close() error   { return nil }
func (l *one) Addr() net.Addr { return &net.TCPAddr{} }

// A stdio is standard input and output as a connection.
type stdio struct {
	in, out *os.File
	done    chan struct{}
}

func (s *stdio) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *stdio) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *stdio) Close() error {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	_ = s.in.Close()
	return s.out.Close()
}
func (s *stdio) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 22} }
func (s *stdio) RemoteAddr() net.Addr { return &net.UnixAddr{} } // not known
func (s *stdio) SetDeadline(t time.Time) error {
	_ = s.in.SetDeadline(t)
	return s.out.SetDeadline(t)
}
func (s *stdio) SetReadDeadline(t time.Time) error  { return s.in.SetReadDeadline(t) }
func (s *stdio) SetWriteDeadline(t time.Time) error { return s.out.SetWriteDeadline(t) }

func serveOne(c *config) {
	for fd := range 2 {
		_ = syscall.SetNonblock(fd, true)
	}
	s := &stdio{in: os.NewFile(0, "in"), out: os.NewFile(1, "out"), done: make(chan struct{})}
	l := &one{conn: make(chan net.Conn, 1), done: s.done}
	l.conn <- s
	h := c.handler()
	_ = h.Serve(l)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = h.Shutdown(ctx)
}

func background(c *config) {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "SSHD_DAEMON=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(cmd.Start())
	for range 200 {
		if _, err := os.Stat(c.pidFile); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	log.Fatal("the server did not start")
}

func listen(c *config) {
	l, err := net.Listen("tcp", "127.0.0.1:"+c.port)
	must(err)
	must(os.WriteFile(c.pidFile, []byte(strconv.Itoa(os.Getpid())), 0o600))
	h := c.handler()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		_ = os.Remove(c.pidFile)
		os.Exit(0)
	}()
	must(h.Serve(l))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
