// Summ reads the lines that conn printed, with a line "round N" before those of
// each round, and writes a Markdown table for everything that was measured.
//
//	summ FILE
//
// A figure is the median of the rounds, the first one of a table with its
// lowest and highest. A ratio is the median of the ratios of the rounds: two
// stacks are compared within a round only, because a shared machine changes its
// speed between them.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A kind is how one sort of measurement is shown.
type kind struct {
	prefix string
	peers  []string // ratios are made to these, where they were measured
	better string
	figs   []string // the first is the one that ratios are made of
}

var kinds = []kind{
	{"bulk", []string{"quic", "tls"}, "more", []string{"MB/s", "CPU s/GiB sender", "CPU s/GiB receiver"}},
	{"handshake", []string{"quic", "quic-verify", "quic-mtls", "tls"}, "more", []string{"per s", "p50 µs", "p99 µs", "CPU µs server", "CPU µs client", "allocs server", "resumed"}},
	{"stream", []string{"quic"}, "more", []string{"per s", "p50 µs", "p99 µs", "CPU µs server", "CPU µs client", "allocs server"}},
	{"idle", []string{"quic", "quic-mtls"}, "less", []string{"server KiB/conn", "server MiB", "server MiB collected", "server heap KiB/conn", "server stack KiB/conn", "server goroutines/conn", "conns/s"}},
}

// A cell is one figure of one stack, by round.
type cell map[int]float64

// A table is everything that was measured of one run.
type table struct {
	name   string
	stacks []string
	cells  map[string]map[string]cell // by stack and figure
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: summ FILE")
		os.Exit(2)
	}
	f, err := os.Open(os.Args[1])
	if err == nil {
		var tables []*table
		if tables, err = read(f); err == nil {
			for _, t := range tables {
				t.print(os.Stdout)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "summ:", err)
		os.Exit(1)
	}
}

// read returns the tables in the order in which their runs come up.
func read(r io.Reader) ([]*table, error) {
	var tables []*table
	byName := map[string]*table{}
	round := 0
	for sc := bufio.NewScanner(r); ; {
		if !sc.Scan() {
			return tables, sc.Err()
		}
		if n, _ := fmt.Sscanf(sc.Text(), "round %d", &round); n == 1 {
			continue
		}
		var line struct {
			Run, Stack string
			Figures    map[string]float64
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("%q: %w", sc.Text(), err)
		}
		t := byName[line.Run]
		if t == nil {
			t = &table{name: line.Run, cells: map[string]map[string]cell{}}
			byName[line.Run] = t
			tables = append(tables, t)
		}
		if t.cells[line.Stack] == nil {
			t.cells[line.Stack] = map[string]cell{}
			t.stacks = append(t.stacks, line.Stack)
		}
		for name, v := range line.Figures {
			if t.cells[line.Stack][name] == nil {
				t.cells[line.Stack][name] = cell{}
			}
			t.cells[line.Stack][name][round] = v
		}
	}
}

func (t *table) print(w io.Writer) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return strings.HasPrefix(t.name, k.prefix) })
	if i < 0 {
		fmt.Fprintf(w, "unknown run %q\n", t.name)
		return
	}
	k := kinds[i]
	peers := slices.DeleteFunc(slices.Clone(k.peers), func(p string) bool { return t.cells[p] == nil })
	figs := slices.DeleteFunc(slices.Clone(k.figs), func(f string) bool {
		return !slices.ContainsFunc(t.stacks, func(s string) bool { return t.cells[s][f] != nil })
	})
	fmt.Fprintf(w, "**%s** (%s is better)\n\n| stack | rounds | %s |", t.name, k.better, figs[0])
	for _, p := range peers {
		fmt.Fprintf(w, " ÷ %s |", p)
	}
	for _, f := range figs[1:] {
		fmt.Fprintf(w, " %s |", f)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", 1+len(peers)+len(figs)))
	for _, s := range t.stacks {
		main := t.cells[s][figs[0]]
		v := values(main)
		fmt.Fprintf(w, "| %s | %d | %s (%s–%s) |", s, len(main), short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
		for _, p := range peers {
			fmt.Fprintf(w, " %s |", ratio(main, t.cells[p][figs[0]]))
		}
		for _, f := range figs[1:] {
			if v := values(t.cells[s][f]); len(v) > 0 {
				fmt.Fprintf(w, " %s |", short(median(v)))
			} else {
				fmt.Fprint(w, " – |")
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

// ratio is the median of the ratios of the rounds that both have.
func ratio(a, b cell) string {
	var rs []float64
	for round, v := range a {
		if peer := b[round]; peer != 0 {
			rs = append(rs, v/peer)
		}
	}
	if len(rs) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", median(rs))
}

func values(c cell) []float64 {
	var v []float64
	for _, x := range c {
		v = append(v, x)
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[n/2]
}

// short is three digits of f.
func short(f float64) string {
	switch {
	case f >= 100 || f == float64(int(f)):
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
