//go:build unix

package node

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process is what the system says of this process; 0 is what it does not say.
func process() (rss int64, fds int, maxFDs uint64, cpu float64) {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
		maxFDs = uint64(lim.Cur)
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		cpu = float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		fds = len(open)
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := bytes.Fields(b); len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64) // 0 if it is no number
			rss = pages * int64(os.Getpagesize())
		}
	}
	return rss, fds, maxFDs, cpu
}

// NoCoreDumps keeps secrets out of core files.
func NoCoreDumps() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }
