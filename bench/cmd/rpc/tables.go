package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// base is what ratios are made to.
const base = "grpc"

// tables prints a Markdown table for each measurement of a file: medians, and
// medians of the ratios within a round.
func tables(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	runs := make(map[string]map[string][]map[string]float64) // by measurement and stack
	var order, stacks []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var line struct {
			Key string
			Fig map[string]float64
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return err
		}
		parts := strings.Split(line.Key, "/")
		what := parts[0] + " " + strings.Join(parts[2:], " ")
		if runs[what] == nil {
			runs[what] = make(map[string][]map[string]float64)
			order = append(order, what)
		}
		if !slices.Contains(stacks, parts[1]) {
			stacks = append(stacks, parts[1])
		}
		runs[what][parts[1]] = append(runs[what][parts[1]], line.Fig)
	}
	for _, what := range order {
		rate, figs := "ops", []string{"p50us", "p99us", "cpu_us"}
		if strings.HasPrefix(what, "stream") {
			rate, figs = "items_s", []string{"MB_s", "cpu_us_item"}
		}
		fmt.Printf("\n**%s**\n\n| stack | n | %s | ratio | %s | p50 ratio | allocs both sides |\n|---|---|---|---|%s---|---|\n",
			what, rate, strings.Join(figs, " | "), strings.Repeat("---|", len(figs)))
		for _, stack := range stacks {
			if list := runs[what][stack]; len(list) > 0 {
				printRow(stack, rate, figs, list, runs[what][base])
			}
		}
	}
	return sc.Err()
}

func printRow(stack, rate string, figs []string, list, to []map[string]float64) {
	fmt.Printf("| %s | %d | %.0f | %s |", stack, len(list), median(list, func(m map[string]float64) float64 { return m[rate] }), ratio(list, to, rate))
	for _, fig := range figs {
		fmt.Printf(" %.3g |", median(list, func(m map[string]float64) float64 { return m[fig] }))
	}
	fmt.Printf(" %s | %.1f |\n", ratio(list, to, "p50us"),
		median(list, func(m map[string]float64) float64 { return m["cli_allocs"] + m["srv_allocs"] }))
}

func median(list []map[string]float64, f func(map[string]float64) float64) float64 {
	var v []float64
	for _, m := range list {
		v = append(v, f(m))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// ratio compares within rounds.
func ratio(list, to []map[string]float64, fig string) string {
	var v []float64
	for i := range min(len(list), len(to)) {
		if to[i][fig] > 0 {
			v = append(v, list[i][fig]/to[i][fig])
		}
	}
	if len(v) == 0 {
		return "–"
	}
	slices.Sort(v)
	return fmt.Sprintf("%.2f", v[len(v)/2])
}
