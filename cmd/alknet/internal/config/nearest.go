package config

import "strings"

// Nearest is the one of names that name was most likely meant to be; empty if
// none is near.
func Nearest(name string, names []string) string {
	best, distance := "", 1+max(2, len(name)/3)
	for _, n := range names {
		d := edits(name, n)
		if min(len(name), len(n)) >= 3 && (strings.HasPrefix(n, name) || strings.HasPrefix(name, n)) {
			d = min(d, 2)
		}
		if d < distance {
			best, distance = n, d
		}
	}
	return best
}

// edits is how many letters have to be changed, added or removed to make b of a,
// for names of at most 64 bytes.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
