package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

type figures map[string]float64

// tables prints medians, and medians of the ratios within a round: of the time to
// the direct call, of the rate to NATS.
func tables(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	runs := make(map[string]map[string][]figures)
	var order []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var line struct {
			Key string
			Fig figures
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return err
		}
		parts := strings.Split(line.Key, "/")
		what := parts[2] + " " + parts[3]
		if runs[what] == nil {
			runs[what] = make(map[string][]figures)
			order = append(order, what)
		}
		runs[what][parts[1]] = append(runs[what][parts[1]], line.Fig)
	}
	fmt.Println("| size, calls at once | stack | rounds | p50 µs | ÷ direct | p99 µs | calls/s | ÷ NATS | allocations, client and middle |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, what := range order {
		for _, stack := range []string{"direct", "head", "nats"} {
			list := runs[what][stack]
			if len(list) == 0 {
				continue
			}
			fmt.Printf("| %s | %s | %d | %.0f | %s | %.0f | %.0f | %s | %.1f + %.1f |\n", what, stack, len(list), median(list, "p50us"),
				ratio(list, runs[what]["direct"], "p50us"), median(list, "p99us"), median(list, "ops"), ratio(list, runs[what]["nats"], "ops"),
				median(list, "cli_allocs"), median(list, "srv_allocs"))
		}
	}
	return sc.Err()
}

func middle(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func median(list []figures, fig string) float64 {
	var v []float64
	for _, m := range list {
		v = append(v, m[fig])
	}
	return middle(v)
}

func ratio(list, to []figures, fig string) string {
	var v []float64
	for i := range min(len(list), len(to)) {
		v = append(v, list[i][fig]/to[i][fig])
	}
	if len(v) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", middle(v))
}
