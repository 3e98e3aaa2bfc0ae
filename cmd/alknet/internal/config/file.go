package config

import (
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/ssh"
)

// A File is a configuration: one pointer for each section, nil where the file
// has none. Keys are the names of the fields in snake_case.
type File struct {
	// Node: the node itself.
	Node *Node `doc:"the node itself"`
	// Vault: where the node's keys are and how they are unlocked.
	Vault *Vault `doc:"where the node's keys are and how they are unlocked"`
	// Log: the log on standard error.
	Log *Log `doc:"the log on standard error"`
	// Limits: what strangers and peers may cost; 0 is the default, negative none.
	Limits *alknet.Limits `doc:"what strangers and peers may cost; 0 is the default, negative none"`
	// Roles: names for lists of scopes.
	Roles map[string][]string `doc:"names for lists of scopes"`
	// Peer: who is known; more are in the book, which peer add and join write.
	Peer []Peer `doc:"who is known; more are in the book, which peer add and join write"`
	// Call: alknet/call: operations.
	Call *Call `doc:"alknet/call: operations"`
	// Graph: what peers serve and the way to it.
	Graph *Graph `doc:"what peers serve and the way to it"`
	// Pair: alknet/pair: the door for one-time invites.
	Pair *Pair `doc:"alknet/pair: the door for one-time invites"`
	// SSH: alknet/ssh: shells, commands and forwards for stock clients.
	SSH *SSH `doc:"alknet/ssh: shells, commands and forwards for stock clients"`
	// Forward: who may dial, listen and publish through this node.
	Forward *Forward `doc:"who may dial, listen and publish through this node"`
	// Tunnel: alknet/tunnel: forwards without SSH.
	Tunnel *Tunnel `doc:"alknet/tunnel: forwards without SSH"`
	// Socks: a local SOCKS5 and HTTP proxy through a peer.
	Socks *Socks `doc:"a local SOCKS5 and HTTP proxy through a peer"`
	// Admin: health, readiness, metrics and status in the clear, on loopback or a unix socket.
	Admin *Admin `doc:"health, readiness, metrics and status in the clear, on loopback or a unix socket"`

	name     string
	source   []byte
	origins  map[string]string // key → "alknet.toml:12" or "--set"
	position map[string]Problem
}

// Name is the name of the file as it was given to Load.
func (f *File) Name() string { return f.name }

// Source is the text of the file.
func (f *File) Source() []byte { return f.source }

// Node is section [node].
type Node struct {
	// Listen: UDP and TCP addresses; "udp:HOST:PORT" and "tcp:HOST:PORT" open one of the two, "systemd:NAME" takes activated sockets; [] only dials.
	Listen []string `doc:"UDP and TCP addresses; \"udp:HOST:PORT\" and \"tcp:HOST:PORT\" open one of the two, \"systemd:NAME\" takes activated sockets; [] only dials"`
	// Advertise: HOST:PORT that invites tell others to dial; without it the addresses of the interfaces.
	Advertise []string `doc:"HOST:PORT that invites tell others to dial; without it the addresses of the interfaces"`
	// Name: what people call the node.
	Name string `doc:"what people call the node"`
	// State: folder of the node's own files.
	State string `doc:"folder of the node's own files"`
	// Control: path of the control socket.
	Control string `doc:"path of the control socket"`
	// Drain: how long running work may take when the node stops.
	Drain time.Duration `doc:"how long running work may take when the node stops"`
	// TestNamespace: offers the operations below test/; only with loopback listeners.
	TestNamespace bool `doc:"offers the operations below test/; only with loopback listeners"`
}

// Vault is section [vault].
type Vault struct {
	// Dir: folder of the vault.
	Dir string `doc:"folder of the vault"`
	// Unlock: where the passphrase or age key comes from: prompt, file:PATH, fd:N, credential:NAME, keyring.
	Unlock string `doc:"where the passphrase or age key comes from: prompt, file:PATH, fd:N, credential:NAME, keyring"`
	// AutoLock: locks the stored secrets after so long without use; 0 never.
	AutoLock time.Duration `doc:"locks the stored secrets after so long without use; 0 never"`
}

// Log is section [log].
type Log struct {
	// Level: debug, info, warn or error.
	Level string `doc:"debug, info, warn or error"`
	// Format: text or json.
	Format string `doc:"text or json"`
	// Burst: lines a second that one kind of event may write; the rest is counted.
	Burst int `doc:"lines a second that one kind of event may write; the rest is counted"`
}

// Service is what every section of a service may say.
type Service struct {
	// Access: who may use the service.
	Access alknet.AccessControl `doc:"who may use the service"`
	// AllowAnonymous: admits peers that nobody knows.
	AllowAnonymous bool `doc:"admits peers that nobody knows"`
	// Over: transports: quic, mux, raw.
	Over []string `doc:"transports: quic, mux, raw"`
}

// Peer is one [[peer]].
type Peer struct {
	// ID: stable name, [a-z0-9][a-z0-9._-]{0,62}.
	ID string `doc:"stable name, [a-z0-9][a-z0-9._-]{0,62}"`
	// Name: what people call it.
	Name string `doc:"what people call it"`
	// Keys: its keys as text; several during a rotation.
	Keys []string `doc:"its keys as text; several during a rotation"`
	// Roles: names from [roles].
	Roles []string `doc:"names from [roles]"`
	// Scopes: what it may do.
	Scopes []string `doc:"what it may do"`
	// Resources: resource type to actions or ids.
	Resources map[string][]string `doc:"resource type to actions or ids"`
	// Labels: for choosing among peers.
	Labels map[string]string `doc:"for choosing among peers"`
	// Addrs: HOST:PORT where it is reached.
	Addrs []string `doc:"HOST:PORT where it is reached"`
	// Import: operations that are taken from it, as globs.
	Import []string `doc:"operations that are taken from it, as globs"`
	// Export: callers of this node may use what was taken.
	Export bool `doc:"callers of this node may use what was taken"`
	// Disabled: refused.
	Disabled bool `doc:"refused"`
	// Note: for people.
	Note string `doc:"for people"`
}

// Call is section [call].
type Call struct {
	Service
	// Limits: what callers can make the node do and hold; 0 is the default, negative none.
	Limits call.Limits `doc:"what callers can make the node do and hold; 0 is the default, negative none"`
}

// Graph is section [graph].
type Graph struct {
	// Connect: ids of peers, as globs, to which a connection is kept up.
	Connect []string `doc:"ids of peers, as globs, to which a connection is kept up"`
	// Heartbeat: how often a peer with calls under way is asked whether it lives.
	Heartbeat time.Duration `doc:"how often a peer with calls under way is asked whether it lives"`
	// IdleHeartbeat: how often an idle one is.
	IdleHeartbeat time.Duration `doc:"how often an idle one is"`
	// Limits: 0 is the default, negative none.
	Limits GraphLimits `doc:"0 is the default, negative none"`
}

// GraphLimits are [graph.limits].
type GraphLimits struct {
	// MaxPeers: peers that are attached.
	MaxPeers int `doc:"peers that are attached"`
	// MaxLinksPerPeer: connections of one peer.
	MaxLinksPerPeer int `doc:"connections of one peer"`
	// MaxWatchers: subscriptions to the graph's events.
	MaxWatchers int `doc:"subscriptions to the graph's events"`
	// MaxCatalogEntries: attachments that other heads publish.
	MaxCatalogEntries int `doc:"attachments that other heads publish"`
}

// Pair is section [pair].
type Pair struct {
	// Over: transports: quic, raw.
	Over []string `doc:"transports: quic, raw"`
}

// SSH is section [ssh].
type SSH struct {
	Service
	// Accounts: as whom shells run: own (the node's user), system (the peer's resources ssh:user; needs root), or empty for no shells.
	Accounts string `doc:"as whom shells run: own (the node's user), system (the peer's resources ssh:user; needs root), or empty for no shells"`
	// AcceptAnyKey: lets a proven peer log in with any public key, for clients that cannot do without.
	AcceptAnyKey bool `doc:"lets a proven peer log in with any public key, for clients that cannot do without"`
	// AllowAgent: peers with ssh:agent may forward their agent.
	AllowAgent bool `doc:"peers with ssh:agent may forward their agent"`
	// Listen: HOST:PORT where stock ssh clients log in without alknet; none by default.
	Listen []string `doc:"HOST:PORT where stock ssh clients log in without alknet; none by default"`
	// AuthorizedKeys: file of sshd(8)'s format for those; a key's comment names the peer whose rights it has.
	AuthorizedKeys string `doc:"file of sshd(8)'s format for those; a key's comment names the peer whose rights it has"`
	// RevokedKeys: file of keys that log in nowhere, whatever else says so.
	RevokedKeys string `doc:"file of keys that log in nowhere, whatever else says so"`
	// Environ: variables a client may set; a name may end in *.
	Environ []string `doc:"variables a client may set; a name may end in *"`
	// Limits: 0 is the default, negative none.
	Limits ssh.Limits `doc:"0 is the default, negative none"`
}

// Forward is section [forward].
type Forward struct {
	// Policy: one rule a line: ACTION WHO OP NETWORK TARGET [in PREFIX,...].
	Policy string `doc:"one rule a line: ACTION WHO OP NETWORK TARGET [in PREFIX,...]"`
	// DialTimeout: for looking up and connecting.
	DialTimeout time.Duration `doc:"for looking up and connecting"`
	// MaxFlows: connections and listeners of one identity.
	MaxFlows int `doc:"connections and listeners of one identity"`
}

// Tunnel is section [tunnel].
type Tunnel struct {
	Service
	// MaxListeners: listeners and published names of one connection.
	MaxListeners int `doc:"listeners and published names of one connection"`
}

// Socks is section [socks].
type Socks struct {
	// Listen: loopback address of the proxy.
	Listen string `doc:"loopback address of the proxy"`
	// Peer: id of the peer through which it dials.
	Peer string `doc:"id of the peer through which it dials"`
	// UDP: answers UDP ASSOCIATE.
	UDP bool `doc:"answers UDP ASSOCIATE"`
	// MaxConns: connections of clients.
	MaxConns int `doc:"connections of clients"`
	// MaxAssociations: of them carrying datagrams.
	MaxAssociations int `doc:"of them carrying datagrams"`
	// HandshakeTimeout: until a client has said what it wants.
	HandshakeTimeout time.Duration `doc:"until a client has said what it wants"`
}

// Admin is section [admin].
type Admin struct {
	// Listen: loopback HOST:PORT, or unix:PATH.
	Listen string `doc:"loopback HOST:PORT, or unix:PATH"`
	// Profiling: serves /debug/pprof too.
	Profiling bool `doc:"serves /debug/pprof too"`
}
