package node

import (
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
)

// StatusSchema names the status document.
const StatusSchema = "alknet.status/1"

// A Status describes a running node. Field names are never changed.
type Status struct {
	Schema    string           `json:"schema"`    // StatusSchema
	Node      NodeStatus       `json:"node"`      // the node itself
	Listeners []Listener       `json:"listeners"` // open sockets
	Outside   []Outside        `json:"outside"`   // servers that the node talks to by itself
	Warnings  []Warning        `json:"warnings"`  // what an operator should look at
	Services  []ServiceStatus  `json:"services"`  // by ALPN
	Peers     []PeerStatus     `json:"peers"`     // known or connected, by id
	Calls     CallStatus       `json:"calls"`     // the control plane
	Limits    []LimitStatus    `json:"limits"`    // every bound and where it comes from
	Refused   map[string]int64 `json:"refused"`   // connections, by reason
	Runtime   RuntimeStatus    `json:"runtime"`   // the process
}

// NodeStatus is the node itself.
type NodeStatus struct {
	ID            string    `json:"id"`             // of the peer or node
	Name          string    `json:"name"`           // what people call it
	Version       string    `json:"version"`        // of the program
	Go            string    `json:"go"`             // version
	PID           int       `json:"pid"`            // of the process
	Started       time.Time `json:"started"`        // when
	State         string    `json:"state"`          // starting, ready, draining
	ConfigSHA256  string    `json:"config_sha256"`  // of the text of the file
	ConfigEpoch   int64     `json:"config_epoch"`   // 1 at the start, one more with each reload
	TicketEpoch   int64     `json:"ticket_epoch"`   // how often peers were judged again
	TestNamespace bool      `json:"test_namespace"` // operations below test/ are offered
	Handshaking   int       `json:"handshaking"`    // connections without an identity yet
	Connections   int       `json:"connections"`    // live ones
}

// Outside is a server that the node contacts by itself.
type Outside struct {
	What    string `json:"what"`    // what for
	Address string `json:"address"` // HOST:PORT
}

// A Warning is what an operator should look at.
type Warning struct {
	Code string `json:"code"`         // a word that is never changed
	Text string `json:"text"`         // for people
	Fix  string `json:"fix,omitzero"` // a command or setting
}

// ServiceStatus is one ALPN.
type ServiceStatus struct {
	ALPN        string           `json:"alpn"`        // the name of the service
	Section     string           `json:"section"`     // of the configuration
	Over        string           `json:"over"`        // transports
	Access      string           `json:"access"`      // who may use it
	Anonymous   bool             `json:"anonymous"`   // strangers too
	Handshakes  int64            `json:"handshakes"`  // finished, since the start
	Connections int              `json:"connections"` // live ones
	Handlers    int              `json:"handlers"`    // running
	Streams     int              `json:"streams"`     // open now
	BytesIn     int64            `json:"bytes_in"`    // read from streams
	BytesOut    int64            `json:"bytes_out"`   // written to streams
	Refused     map[string]int64 `json:"refused"`     // by reason
	Panics      int64            `json:"panics"`      // recovered
}

// PeerStatus is one known or connected peer.
type PeerStatus struct {
	ID         string       `json:"id"`         // of the peer or node
	Key        string       `json:"key"`        // as text
	State      string       `json:"state"`      // up, suspect, draining, left, seen, never, disabled
	Links      []LinkStatus `json:"links"`      // its connections
	Operations []string     `json:"operations"` // taken from it
	Running    int          `json:"running"`    // now
}

// LinkStatus is one connection.
type LinkStatus struct {
	ALPN      string    `json:"alpn"`      // the name of the service
	Transport string    `json:"transport"` // QUIC, Mux or Raw
	Remote    string    `json:"remote"`    // its address
	RTTMillis float64   `json:"rtt_ms"`    // 0: not measured
	Since     time.Time `json:"since"`     // when the handshake was complete
}

// CallStatus is the control plane.
type CallStatus struct {
	Connections   int              `json:"connections"`   // live ones
	Running       int              `json:"running"`       // now
	Overrunning   int              `json:"overrunning"`   // beyond their deadline
	Subscriptions int              `json:"subscriptions"` // streams of items
	Retained      int              `json:"retained"`      // kept for a caller that lost its connection
	Panics        int64            `json:"panics"`        // recovered
	ByCode        map[string]int64 `json:"by_code"`       // how calls ended; OK: without an error
}

// LimitStatus is one limit.
type LimitStatus struct {
	Name    string `json:"name"`    // what people call it
	Value   string `json:"value"`   // raw bytes
	Setting string `json:"setting"` // where the value comes from
}

// RuntimeStatus is the process.
type RuntimeStatus struct {
	Goroutines           int     `json:"goroutines"`            // of the process
	HeapInuse            uint64  `json:"heap_inuse"`            // bytes
	RSS                  int64   `json:"rss"`                   // bytes; 0: unknown
	FDs                  int     `json:"fds"`                   // 0: unknown
	MaxFDs               uint64  `json:"max_fds"`               // 0: unknown
	ReservedBytes        int64   `json:"reserved_bytes"`        // held for peers
	UnauthenticatedBytes int64   `json:"unauthenticated_bytes"` // of those, for strangers
	GCPauseP99           float64 `json:"gc_pause_p99_ms"`       // milliseconds
	CPUSeconds           float64 `json:"cpu_s"`                 // used since the start
}

// Status describes the node now.
func (n *Node) Status() Status {
	f := n.File()
	rs := n.router.Stats()
	s := Status{
		Schema:    StatusSchema,
		Listeners: n.allListeners(),
		Outside:   []Outside{},
		Warnings:  n.warnings(f),
		Services:  n.services(rs),
		Peers:     n.peers(),
		Calls:     n.callStatus(),
		Limits:    limits(f),
		Refused:   maps.Clone(rs.Refused),
	}
	if s.Refused == nil {
		s.Refused = map[string]int64{}
	}
	s.Node = NodeStatus{
		ID: n.id.String(), Version: n.opts.Version, Go: runtime.Version(), PID: os.Getpid(), Started: n.started,
		State: n.phase.Load().(string), ConfigSHA256: digest(f), ConfigEpoch: n.epochs.Load(), TicketEpoch: n.tickets.Load(),
		Handshaking: rs.Handshaking, Connections: rs.Connections,
	}
	if f.Node != nil {
		s.Node.Name, s.Node.TestNamespace = f.Node.Name, f.Node.TestNamespace
	}
	s.Runtime = runtimeStatus(rs)
	return s
}

// allListeners are those of the node, and of sections that open their own.
func (n *Node) allListeners() []Listener {
	all := append([]Listener{}, n.listeners...)
	n.mu.Lock()
	defer n.mu.Unlock()
	all = append(all, n.sshd.network("ssh.listen")...)
	all = append(all, n.admin.network("admin.listen")...)
	all = append(all, n.socks.network("socks.listen")...)
	return all
}

func (n *Node) services(rs alknet.Stats) []ServiceStatus {
	n.mu.Lock()
	byALPN := make(map[string]string)
	for name, p := range n.parts {
		byALPN[p.service.ALPN] = name
	}
	n.mu.Unlock()
	all := []ServiceStatus{}
	for _, svc := range n.router.Services() {
		st := rs.Services[svc.ALPN]
		over := svc.Over
		if over == 0 {
			over = alknet.QUIC | alknet.Mux
		}
		refused := maps.Clone(st.Refused)
		if refused == nil {
			refused = map[string]int64{}
		}
		all = append(all, ServiceStatus{
			ALPN: svc.ALPN, Section: byALPN[svc.ALPN], Over: over.String(), Access: access(svc), Anonymous: svc.AllowAnonymous,
			Handshakes: st.Handshakes, Connections: st.Connections, Handlers: st.Handlers, Streams: st.Streams,
			BytesIn: st.BytesIn, BytesOut: st.BytesOut, Refused: refused, Panics: st.Panics,
		})
	}
	return all
}

// access says who may use a service.
func access(s alknet.Service) string {
	if err := s.Access.Check(&alknet.Identity{ID: "somebody"}); err != nil {
		return err.Error()
	}
	if s.AllowAnonymous {
		return "anyone"
	}
	return "known peers"
}

func (n *Node) callStatus() CallStatus {
	cs := CallStatus{ByCode: map[string]int64{}}
	n.mu.Lock()
	h := n.calls
	n.mu.Unlock()
	if h == nil {
		return cs
	}
	st := h.Stats()
	cs.Connections, cs.Running, cs.Overrunning, cs.Subscriptions = st.Connections, st.Running, st.Overrunning, st.Subscriptions
	cs.Retained, cs.Panics = st.Retained, st.Panics
	for _, op := range st.Operations {
		for code, count := range op.Codes {
			if code == "" {
				code = "OK"
			}
			cs.ByCode[code] += count
		}
	}
	return cs
}

// callStats are the counters of [call]; ok is false without the section.
func (n *Node) callStats() (call.Stats, bool) {
	n.mu.Lock()
	h := n.calls
	n.mu.Unlock()
	if h == nil {
		return call.Stats{}, false
	}
	return h.Stats(), true
}

// limits lists what config calls a limit.
func limits(f *config.File) []LimitStatus {
	all := []LimitStatus{}
	for _, s := range f.Explain() {
		if s.IsLimit() {
			all = append(all, LimitStatus{Name: s.Key, Value: s.Value, Setting: s.Origin})
		}
	}
	return all
}

func (n *Node) warnings(f *config.File) []Warning {
	all := []Warning{}
	if len(n.router.Services()) == 0 {
		all = append(all, Warning{"no_services", "no section of a service is configured: the node answers nothing", "alknet config example"})
	}
	if f.Node != nil && f.Node.TestNamespace {
		all = append(all, Warning{"test_namespace", "the operations below test/ are offered", "node.test_namespace = false"})
	}
	if n.vault != nil && !n.vault.Status().Unlocked {
		all = append(all, Warning{"vault_locked", "the vault is locked: nobody can connect, and nothing is signed", "alknet vault unlock"})
	}
	for _, s := range f.Explain() {
		if s.IsLimit() && s.Origin != "default" && s.None() && s.Key != "call.limits.rate" && s.Key != "call.limits.burst" {
			all = append(all, Warning{"no_limit", s.Key + " is none", "set it to 0 for the default"})
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.problems {
		all = append(all, Warning{"part_failed", p, "alknet reload"})
	}
	return all
}

// peers are the ones that are known or connected, by id.
func (n *Node) peers() []PeerStatus {
	byID := make(map[string]*PeerStatus)
	for _, p := range n.known.all() {
		byID[p.ID] = &p
	}
	for c := range n.router.Conns() {
		id := c.Identity()
		name := id.ID
		if name == "" {
			continue // strangers are counted, not listed
		}
		p := byID[name]
		if p == nil {
			p = &PeerStatus{ID: name, Links: []LinkStatus{}, Operations: []string{}}
			byID[name] = p
		}
		p.Key, p.State = id.Peer.String(), "up"
		p.Links = append(p.Links, linkOf(c))
	}
	n.addGraph(byID)
	all := []PeerStatus{}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		all = append(all, *byID[id])
	}
	return all
}

func linkOf(c *alknet.Conn) LinkStatus {
	st := c.Stats()
	return LinkStatus{ALPN: c.ALPN(), Transport: c.Transport().String(), Remote: c.RemoteAddr().String(),
		RTTMillis: float64(st.RTT.Microseconds()) / 1000, Since: st.Since}
}

func runtimeStatus(rs alknet.Stats) RuntimeStatus {
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	r := RuntimeStatus{Goroutines: runtime.NumGoroutine(), HeapInuse: ms.HeapInuse,
		ReservedBytes: rs.ReservedBytes, UnauthenticatedBytes: rs.UnauthenticatedBytes}
	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 101)}
	debug.ReadGCStats(&gc)
	r.GCPauseP99 = float64(gc.PauseQuantiles[99].Microseconds()) / 1000
	r.RSS, r.FDs, r.MaxFDs, r.CPUSeconds = process()
	if r.CPUSeconds == 0 {
		sample := []metrics.Sample{{Name: "/cpu/classes/user:cpu-seconds"}}
		metrics.Read(sample)
		if sample[0].Value.Kind() == metrics.KindFloat64 {
			r.CPUSeconds = sample[0].Value.Float64()
		}
	}
	return r
}
