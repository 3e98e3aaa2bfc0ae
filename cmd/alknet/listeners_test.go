package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// listeners compares the sockets that the node of a folder listens on, as the
// system lists them, with those that its status names: listeners DIR.
func listeners(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listeners DIR")
	}
	if _, err := os.Stat("/proc/self/net/tcp"); err != nil {
		return // this system does not list them
	}
	ts.Check(ts.Exec("alknet", "--dir", args[0], "--json", "status"))
	var s struct {
		Node struct {
			PID int `json:"pid"`
		} `json:"node"`
		Listeners []struct{ UDP, TCP string } `json:"listeners"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &s))
	var want []string
	for _, l := range s.Listeners {
		if l.TCP != "" {
			want = append(want, "tcp "+l.TCP)
		}
		if l.UDP != "" {
			want = append(want, "udp "+l.UDP)
		}
	}
	have := open(ts, s.Node.PID)
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		ts.Fatalf("listens on %v, configured are %v", have, want)
	}
}

var socketLink = regexp.MustCompile(`^socket:\[(\d+)\]$`)

// open lists the sockets of a process that wait for anybody.
func open(ts *testscript.TestScript, pid int) (all []string) {
	proc := fmt.Sprintf("/proc/%d", pid)
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	ts.Check(err)
	inodes := make(map[string]bool)
	for _, fd := range fds {
		link, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if m := socketLink.FindStringSubmatch(link); err == nil && m != nil {
			inodes[m[1]] = true
		}
	}
	for _, table := range []struct{ file, network, state string }{{"tcp", "tcp", "0A"}, {"tcp6", "tcp", "0A"}, {"udp", "udp", "07"}, {"udp6", "udp", "07"}} {
		b, err := os.ReadFile(filepath.Join(proc, "net", table.file))
		ts.Check(err)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == table.state && inodes[f[9]] {
				all = append(all, table.network+" "+address(ts, f[1]))
			}
		}
	}
	return all
}

// address reads "0100007F:1151".
func address(ts *testscript.TestScript, s string) string {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	ts.Check(err)
	for i := 0; i+4 <= len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	ip, _ := netip.AddrFromSlice(b)
	var n uint16
	_, err = fmt.Sscanf(port, "%x", &n)
	ts.Check(err)
	return netip.AddrPortFrom(ip, n).String()
}
