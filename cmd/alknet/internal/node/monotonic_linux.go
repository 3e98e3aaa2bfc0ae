package node

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// monotonicMicros is CLOCK_MONOTONIC, which systemd wants to know with RELOADING.
func monotonicMicros() string {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return ""
	}
	return strconv.FormatInt(ts.Nano()/1000, 10)
}
