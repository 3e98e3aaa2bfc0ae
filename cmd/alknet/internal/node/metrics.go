package node

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/alkdev/alknet/internal/safe"
)

// A family is one metric: its samples by the text of their labels.
type family struct {
	name, kind, help string
	samples          []string
}

// add appends a sample. labels are pairs of name and value.
func (f *family) add(value float64, labels ...string) { f.addAs("", value, labels...) }

func (f *family) addAs(suffix string, value float64, labels ...string) {
	var b strings.Builder
	b.WriteString(f.name + suffix)
	for i := 0; i+1 < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(labels[i] + `="` + escape(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64))
	f.samples = append(f.samples, b.String())
}

// escape writes a label's value (text format 0.0.4).
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "�"))
}

// writeMetrics writes the metrics in Prometheus's text format. No label holds what
// a peer chose.
func (n *Node) writeMetrics(w io.Writer) {
	for _, f := range n.families() {
		if len(f.samples) == 0 {
			continue
		}
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s\n", f.name, f.help, f.name, f.kind, strings.Join(f.samples, "\n"))
	}
}

func (n *Node) families() []family {
	build := family{"alknet_build_info", "gauge", "The version that runs.", nil}
	build.add(1, "version", n.opts.Version, "go", runtime.Version())
	all := append([]family{build}, n.routerFamilies()...)
	all = append(all, n.callFamilies()...)

	peers := family{"alknet_peers", "gauge", "Known and connected peers.", nil}
	states := make(map[string]int)
	for _, p := range n.peers() {
		states[p.State]++
	}
	for _, s := range slices.Sorted(maps.Keys(states)) {
		peers.add(float64(states[s]), "state", s)
	}
	process := n.Status().Runtime
	goroutines := family{"alknet_goroutines", "gauge", "Goroutines.", nil}
	goroutines.add(float64(process.Goroutines))
	rss := family{"alknet_resident_bytes", "gauge", "Resident memory.", nil}
	rss.add(float64(process.RSS))
	epoch := family{"alknet_config_epoch", "gauge", "1 at the start, one more with each reload.", nil}
	epoch.add(float64(n.epochs.Load()))
	return append(all, peers, goroutines, rss, epoch)
}

func (n *Node) routerFamilies() []family {
	st := n.router.Stats()
	handshakes := family{"alknet_handshakes_total", "counter", "Finished handshakes.", nil}
	conns := family{"alknet_connections", "gauge", "Live connections.", nil}
	streams := family{"alknet_streams", "gauge", "Open streams.", nil}
	bytes := family{"alknet_bytes_total", "counter", "Bytes of streams.", nil}
	denied := family{"alknet_denied_total", "counter", "Connections that were refused after their handshake.", nil}
	panics := family{"alknet_panics_total", "counter", "Panics that were recovered.", nil}
	for _, svc := range n.router.Services() {
		alpn, s := svc.ALPN, st.Services[svc.ALPN]
		handshakes.add(float64(s.Handshakes), "alpn", alpn, "result", "ok")
		conns.add(float64(s.Connections), "alpn", alpn)
		streams.add(float64(s.Streams), "alpn", alpn)
		bytes.add(float64(s.BytesIn), "alpn", alpn, "dir", "in")
		bytes.add(float64(s.BytesOut), "alpn", alpn, "dir", "out")
		panics.add(float64(s.Panics), "alpn", alpn)
		for _, rule := range slices.Sorted(maps.Keys(s.Refused)) {
			denied.add(float64(s.Refused[rule]), "alpn", alpn, "rule", rule)
		}
	}
	refusals := family{"alknet_refused_total", "counter", "Connections that were refused, by reason.", nil}
	for _, reason := range slices.Sorted(maps.Keys(st.Refused)) {
		refusals.add(float64(st.Refused[reason]), "reason", reason)
	}
	recovered := family{"alknet_recovered_total", "counter", "Panics of goroutines that were recovered.", nil}
	recovered.add(float64(safe.Panics()))
	return []family{handshakes, conns, streams, bytes, denied, refusals, panics, recovered}
}

// callFamilies are the counters of our own operations; names that peers chose are
// one label.
func (n *Node) callFamilies() []family {
	st, ok := n.callStats()
	if !ok {
		return nil
	}
	calls := family{"alknet_calls_total", "counter", "Calls that ended.", nil}
	durations := family{"alknet_call_duration_seconds", "histogram", "From the request to the end.", nil}
	running := family{"alknet_calls_running", "gauge", "Handlers that run.", nil}
	running.add(float64(st.Running))
	for _, name := range slices.Sorted(maps.Keys(st.Operations)) {
		op, own := n.registry.Lookup(name)
		if !own {
			continue
		}
		kind := string(op.Func.Type)
		o := st.Operations[name]
		for _, code := range slices.Sorted(maps.Keys(o.Codes)) {
			shown := code
			if shown == "" {
				shown = "OK"
			}
			calls.add(float64(o.Codes[code]), "op", name, "kind", kind, "code", shown)
		}
		histogram(&durations, o.Latency, name, kind)
	}
	return []family{calls, durations, running}
}

// histogram writes counts by powers of two of microseconds.
func histogram(f *family, latency []int64, op, kind string) {
	var total int64
	sum := 0.0
	for i, count := range latency {
		total += count
		bound := float64(uint64(1)<<min(i, 62)) / 1e6
		sum += float64(count) * bound * 0.75 // the middle of the bucket
		if count > 0 || i%4 == 0 && i <= 24 {
			f.addAs("_bucket", float64(total), "op", op, "kind", kind, "le", strconv.FormatFloat(bound, 'g', -1, 64))
		}
	}
	f.addAs("_bucket", float64(total), "op", op, "kind", kind, "le", "+Inf")
	f.addAs("_sum", sum, "op", op, "kind", kind)
	f.addAs("_count", float64(total), "op", op, "kind", kind)
}
