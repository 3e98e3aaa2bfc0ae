// Package ssh is an SSH server and client over any stream, ALPN "alknet/ssh" on
// QUIC and Mux: sessions, terminals, every kind of forward, without a port 22
// and without trust on first use.
//
//	gate := &forward.Gate{}
//	gate.SetPolicy(policy)
//	h := &ssh.Handler{
//		HostKeys: []crypto.Signer{hostKey}, Node: nodeKey, // the node's key certifies the host key
//		Accounts: ssh.OwnAccount, Gate: gate,
//		Commands: map[string]ssh.CommandFunc{"git-upload-pack": repos.ServeExec},
//	}
//	router.Register(ssh.Service(h))
//
// Stock clients reach it with a ProxyCommand: [WriteConfig] prints the blocks of
// ssh_config(5), and [KnownHosts] the line with which StrictHostKeyChecking=yes
// passes at the first connection, since the host key is certified by the key
// that is the peer's id.
//
// Inside an alknet connection the peer has proven its key, and that identity is
// the SSH identity; a user name gives no rights, it selects an account. On a
// plain listener, [Handler.Serve], users log in with the public keys and
// certificates of [Users].
//
// The zero Handler lets peers in and refuses everything they ask for. A shell or
// a free command needs Accounts (or Session) and the scope [ScopeShell]; forwards
// need a [forward.Gate] with a policy and its scopes; a registered command or
// subsystem decides access itself. Passwords, X11, compression and VPN tunnels
// are not offered, and PAM, utmp and rc files are not used.
//
// It follows RFC 4251 to 4254, RFC 8308, RFC 8731, OpenSSH's PROTOCOL and
// PROTOCOL.certkeys, and sshd(8) for the format of authorized keys.
package ssh
