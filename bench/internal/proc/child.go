// Package proc runs a server as a child process and accounts for what both
// processes use, so that a benchmark's client does not measure itself.
package proc

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

// A Stat is what one process has used up to a moment.
type Stat struct {
	CPUMicros  int64 // user and system
	Mallocs    uint64
	RSSKiB     int64
	StackKiB   int64
	HeapKiB    int64
	Goroutines int
}

// Self is the Stat of this process.
func Self() Stat {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Stat{
		CPUMicros: (ru.Utime.Sec+ru.Stime.Sec)*1e6 + ru.Utime.Usec + ru.Stime.Usec,
		Mallocs:   m.Mallocs, RSSKiB: rss(), StackKiB: int64(m.StackInuse >> 10), HeapKiB: int64(m.HeapInuse >> 10), Goroutines: runtime.NumGoroutine(),
	}
}

func rss() (kib int64) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscanf(v, "%d", &kib)
		}
	}
	return kib
}

// A Child is a server in a process of its own. It ends with its standard input.
type Child struct {
	Hello string // the line it printed first: where it is reached
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

// Spawn starts this program again with args.
func Spawn(args ...string) (*Child, error) {
	c := &Child{cmd: exec.Command("/proc/self/exe", args...)}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	line, err := c.out.ReadString('\n')
	c.Hello = strings.TrimSpace(line)
	return c, err
}

// Stat asks the child for its Stat, after a garbage collection if collect is set.
func (c *Child) Stat(collect bool) (s Stat, err error) {
	cmd := "stat"
	if collect {
		cmd = "collect"
	}
	if _, err := fmt.Fprintln(c.in, cmd); err != nil {
		return s, err
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(line), &s)
}

// Close ends the child and waits for it.
func (c *Child) Close() {
	_ = c.in.Close()
	kill := time.AfterFunc(3*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	_ = c.cmd.Wait()
}

// Serve is what a child runs: it says hello, answers for Stat and returns when
// its parent is gone. BENCH_SERVER_PROFILE names a file for a CPU profile.
func Serve(hello string) error {
	if name := os.Getenv("BENCH_SERVER_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if os.Getenv("BENCH_SERVER_HEAP") != "" {
		runtime.MemProfileRate = 1 // a connection is many small objects
	}
	fmt.Println(hello)
	sc := bufio.NewScanner(os.Stdin)
	for sc.Scan() {
		if sc.Text() == "collect" {
			runtime.GC()
			debug.FreeOSMemory()
		}
		b, err := json.Marshal(Self())
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	if name := os.Getenv("BENCH_SERVER_HEAP"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		return pprof.WriteHeapProfile(f)
	}
	return sc.Err()
}
