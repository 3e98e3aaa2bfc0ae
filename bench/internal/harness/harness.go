// Package harness is the shared part of the measuring programs: a child server
// process driven over stdin/stdout, CPU and memory accounting of both sides,
// latency statistics, throwaway TLS material. Standard library only.
package harness

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Stat is one process's accounting at a moment.
type Stat struct {
	UserUS, SysUS int64
	Mallocs       uint64
	AllocBytes    uint64
	HeapInuse     uint64
	StackInuse    uint64
	RSS, HWM      int64 // KiB
	Goroutines    int
	VCSW, ICSW    int64
}

func (s Stat) CPU() int64 { return s.UserUS + s.SysUS }

func Self() Stat {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := Stat{
		UserUS:  ru.Utime.Sec*1e6 + ru.Utime.Usec,
		SysUS:   ru.Stime.Sec*1e6 + ru.Stime.Usec,
		Mallocs: m.Mallocs, AllocBytes: m.TotalAlloc,
		HeapInuse: m.HeapInuse, StackInuse: m.StackInuse,
		Goroutines: runtime.NumGoroutine(),
		VCSW:       ru.Nvcsw, ICSW: ru.Nivcsw,
	}
	s.RSS, s.HWM = rss()
	return s
}

func rss() (cur, hwm int64) {
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmRSS:") {
			fmt.Sscanf(l[6:], "%d", &cur)
		}
		if strings.HasPrefix(l, "VmHWM:") {
			fmt.Sscanf(l[6:], "%d", &hwm)
		}
	}
	return
}

// ---- child server ----

type Child struct {
	Addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// Spawn starts this same program as a server child with args.
func Spawn(args ...string) *Child {
	cert, key := genCert()
	os.Setenv("PERF_CERT", cert)
	os.Setenv("PERF_KEY", key)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = os.Environ()
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	Must(cmd.Start())
	c := &Child{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 1<<16)}
	l, err := c.out.ReadString('\n')
	Must(err)
	c.Addr = strings.TrimSpace(strings.TrimPrefix(l, "ADDR "))
	return c
}

func (c *Child) Do(cmd string) Stat {
	fmt.Fprintln(c.in, cmd)
	l, err := c.out.ReadString('\n')
	Must(err)
	var s Stat
	Must(json.Unmarshal([]byte(l), &s))
	return s
}
func (c *Child) Mark() Stat { return c.Do("mark") }
func (c *Child) Close() {
	c.in.Close()
	done := make(chan struct{})
	go func() { c.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		c.cmd.Process.Kill()
		<-done
	}
}

// ServeLoop is what a child server calls once it listens: answers marks until
// stdin ends, then exits.
func ServeLoop(addr string) {
	if f := os.Getenv("PERF_SRV_PROF"); f != "" {
		w, err := os.Create(f)
		Must(err)
		Must(pprof.StartCPUProfile(w))
		defer pprof.StopCPUProfile()
	}
	fmt.Printf("ADDR %s\n", addr)
	sc := bufio.NewScanner(os.Stdin)
	for sc.Scan() {
		if sc.Text() == "gc" {
			runtime.GC()
			debug.FreeOSMemory()
		}
		b, _ := json.Marshal(Self())
		fmt.Println(string(b))
	}
	pprof.StopCPUProfile()
	os.Exit(0)
}

// ---- TLS ----

func genCert() (certPEM, keyPEM string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Must(err)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	Must(err)
	kb, _ := x509.MarshalECPrivateKey(k)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kb}))
}

func curves() []tls.CurveID {
	if os.Getenv("PERF_KX") == "x25519" {
		return []tls.CurveID{tls.X25519}
	}
	return nil
}

func TLSServer(alpn ...string) *tls.Config {
	c, err := tls.X509KeyPair([]byte(os.Getenv("PERF_CERT")), []byte(os.Getenv("PERF_KEY")))
	Must(err)
	return &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: alpn, MinVersion: tls.VersionTLS13, CurvePreferences: curves()}
}

func TLSClient(alpn ...string) *tls.Config {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM([]byte(os.Getenv("PERF_CERT")))
	return &tls.Config{RootCAs: p, NextProtos: alpn, ServerName: "localhost", MinVersion: tls.VersionTLS13, CurvePreferences: curves()}
}

func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "fatal:", err)
		debug.PrintStack()
		os.Exit(1)
	}
}

// ---- output ----

// Emit prints one JSON line: key plus figures.
func Emit(key string, fig map[string]float64) {
	b, _ := json.Marshal(struct {
		Key string             `json:"key"`
		Fig map[string]float64 `json:"fig"`
	}{key, fig})
	fmt.Println(string(b))
}

// JSONPayload is one JSON object of about n bytes.
func JSONPayload(n int) []byte {
	const pre = `{"user":"u-1029384756","seq":12345,"ok":true,"body":"`
	k := n - len(pre) - 2
	if k < 0 {
		k = 0
	}
	return []byte(pre + strings.Repeat("abcdefghij", k/10+1)[:k] + `"}`)
}

// RunUnary drives call and prints the figures of the run.
func RunUnary(key string, c *Child, call func([]byte) ([]byte, error), size, conc, n, warm int) {
	p := JSONPayload(size)
	loop := func(total int, lat []int64) {
		var idx atomic.Int64
		var wg sync.WaitGroup
		for range conc {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					i := idx.Add(1) - 1
					if i >= int64(total) {
						return
					}
					t := time.Now()
					r, err := call(p)
					if err != nil {
						Must(fmt.Errorf("%s: %w", key, err))
					}
					if len(r) != len(p) {
						Must(fmt.Errorf("%s: short reply %d of %d", key, len(r), len(p)))
					}
					if lat != nil {
						lat[i] = int64(time.Since(t))
					}
				}
			}()
		}
		wg.Wait()
	}
	loop(warm, nil)
	lat := make([]int64, n)
	if f := os.Getenv("PERF_CLI_PROF"); f != "" {
		w, err := os.Create(f)
		Must(err)
		Must(pprof.StartCPUProfile(w))
		defer pprof.StopCPUProfile()
	}
	runtime.GC()
	s0, c0 := c.Mark(), Self()
	t0 := time.Now()
	loop(n, lat)
	el := time.Since(t0)
	c1, s1 := Self(), c.Mark()
	sort.Slice(lat, func(i, j int) bool { return lat[i] < lat[j] })
	fn := float64(n)
	Emit(key, map[string]float64{
		"p50us": float64(lat[n/2]) / 1e3, "p99us": float64(lat[n*99/100]) / 1e3,
		"ops":        fn / el.Seconds(),
		"cli_cpu_us": float64(c1.CPU()-c0.CPU()) / fn, "srv_cpu_us": float64(s1.CPU()-s0.CPU()) / fn,
		"cpu_us":     float64(c1.CPU()-c0.CPU()+s1.CPU()-s0.CPU()) / fn,
		"cli_allocs": float64(c1.Mallocs-c0.Mallocs) / fn, "srv_allocs": float64(s1.Mallocs-s0.Mallocs) / fn,
		"cli_B": float64(c1.AllocBytes-c0.AllocBytes) / fn, "srv_B": float64(s1.AllocBytes-s0.AllocBytes) / fn,
		"srv_hwm_MiB": float64(s1.HWM) / 1024,
	})
}

// RunTransfer times f, which moves items of size bytes; prints items/s, MB/s and CPU.
func RunTransfer(key string, c *Child, items, size int, f func() error) {
	if p := os.Getenv("PERF_CLI_PROF"); p != "" {
		w, err := os.Create(p)
		Must(err)
		Must(pprof.StartCPUProfile(w))
		defer pprof.StopCPUProfile()
	}
	runtime.GC()
	s0, c0 := c.Mark(), Self()
	t0 := time.Now()
	if err := f(); err != nil {
		Must(fmt.Errorf("%s: %w", key, err))
	}
	el := time.Since(t0).Seconds()
	c1, s1 := Self(), c.Mark()
	n := float64(items)
	gib := n * float64(size) / (1 << 30)
	Emit(key, map[string]float64{
		"items_s": n / el, "MB_s": n * float64(size) / 1e6 / el,
		"cpu_us_item": float64(c1.CPU()-c0.CPU()+s1.CPU()-s0.CPU()) / n,
		"cli_allocs":  float64(c1.Mallocs-c0.Mallocs) / n, "srv_allocs": float64(s1.Mallocs-s0.Mallocs) / n,
		"cpu_s_GiB": float64(c1.CPU()-c0.CPU()+s1.CPU()-s0.CPU()) / 1e6 / gib,
		"cli_s_GiB": float64(c1.CPU()-c0.CPU()) / 1e6 / gib, "srv_s_GiB": float64(s1.CPU()-s0.CPU()) / 1e6 / gib,
		"srv_hwm_MiB": float64(s1.HWM) / 1024, "cli_hwm_MiB": float64(c1.HWM) / 1024,
	})
}
