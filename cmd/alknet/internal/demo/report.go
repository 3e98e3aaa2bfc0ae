package demo

import (
	"fmt"
	"io"
	"strings"
)

// A Result is how one step went.
type Result struct {
	Event    string  `json:"event"`             // "step"
	Number   int     `json:"number"`            // of the step, from 1
	Part     string  `json:"part"`              // of the program
	Step     string  `json:"step"`              // its name
	OK       bool    `json:"ok"`                // it may
	With     string  `json:"with"`              // transports, or the stock tool with its version
	Millis   float64 `json:"ms"`                // how long it took
	Result   string  `json:"result,omitzero"`   // what it showed
	Expected string  `json:"expected,omitzero"` // of a step that failed
	Got      string  `json:"got,omitzero"`      // of one that failed
	Log      string  `json:"log,omitzero"`      // nil: silent
}

// A Summary ends a demo.
type Summary struct {
	Event   string  `json:"event"`   // "summary"
	Passed  int     `json:"passed"`  // steps that showed it
	Steps   int     `json:"steps"`   // that ran
	Seconds float64 `json:"seconds"` // from start to end
	Version string  `json:"version"` // of the program
	Go      string  `json:"go"`      // version
	System  string  `json:"system"`  // GOOS/GOARCH
	Calls   int64   `json:"calls"`   // that the head has served or routed
}

// Line prints a step as a person reads it.
func (r *Result) Line(w io.Writer, colour bool) {
	mark, on, off := " ok ", "", ""
	if !r.OK {
		mark = "FAIL"
	}
	if colour {
		on, off = "\x1b[32m", "\x1b[0m"
		if !r.OK {
			on = "\x1b[31m"
		}
	}
	fmt.Fprintf(w, "%s%s%s  %-31s %-19s %6.0f ms   %s\n", on, mark, off, r.Step, r.With, r.Millis, r.Result)
	if r.OK {
		return
	}
	fmt.Fprintf(w, "      expected: %s\n      got:      %s\n", r.Expected, r.Got)
	for line := range strings.Lines(r.Log) {
		fmt.Fprintf(w, "      | %s\n", strings.TrimRight(line, "\n"))
	}
}

// drawing shows who is connected to whom at the end.
func (w *world) drawing(out io.Writer, s Summary, unicode bool) {
	line, cross, dot, corner, arrow := "--", "x", "*", "`", ">"
	if unicode {
		line, cross, dot, corner, arrow = "──", "✗", "●", "└", "─"
	}
	a := fmt.Sprintf("%squic%s worker-a", line, line)
	if w.killed {
		a += "  " + cross + " killed"
	} else {
		a += "  " + dot
	}
	fmt.Fprintf(out, "\n        you %squic%s head %stcp%s%s worker-b  %s %d calls      %d of %d steps, %.1f s\n", line, line, line, line, arrow, dot, s.Calls, s.Passed, s.Steps, s.Seconds)
	fmt.Fprintf(out, "       stranger %s     %s%s\n", cross, corner, a)
}
