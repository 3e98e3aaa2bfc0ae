package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	h "github.com/alkdev/alknet/bench/internal/harness"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"time"

	connect "connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcpool"
	"storj.io/drpc/drpcserver"
)

type BV = wrapperspb.BytesValue

var bg = context.Background()

var peers []peer

func init() {
	peers = []peer{
		{grpcServe, grpcDial, "grpc"},
		{connectServe, connectDial, "connect"},
		{drpcServe, drpcDial, "drpc"},
		{natsServe, natsDial, "nats"},
		{quicServe, quicDial, "quic"},
		{tlsServe, tlsDial, "tls"},
		{alknetServe, alknetDial, "alknet"},
	}
}

func listenTCP() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	h.Must(err)
	return l
}

// ---- grpc ----

type echoSrv interface{}

var grpcDesc = grpc.ServiceDesc{
	ServiceName: "perf.Echo", HandlerType: (*echoSrv)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in BV
		if err := dec(&in); err != nil {
			return nil, err
		}
		return &in, nil
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Items", ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
		var in BV
		if err := st.RecvMsg(&in); err != nil {
			return err
		}
		items, size, _ := streamReq(in.Value)
		m := &BV{Value: h.JSONPayload(size)}
		for range items {
			if err := st.SendMsg(m); err != nil {
				return err
			}
		}
		return nil
	}}},
}

const win = 16 << 20

func grpcServe(string) string {
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(h.TLSServer("h2"))),
		grpc.NumStreamWorkers(uint32(runtime.NumCPU())),
		grpc.StaticStreamWindowSize(win), grpc.StaticConnWindowSize(win),
		grpc.WriteBufferSize(64<<10), grpc.ReadBufferSize(64<<10))
	s.RegisterService(&grpcDesc, struct{}{})
	l := listenTCP()
	go s.Serve(l)
	return l.Addr().String()
}

func grpcDial(_, addr string, _ int) (func([]byte) ([]byte, error), func(int, int) error) {
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(h.TLSClient("h2"))),
		grpc.WithStaticStreamWindowSize(win), grpc.WithStaticConnWindowSize(win),
		grpc.WithWriteBufferSize(64<<10), grpc.WithReadBufferSize(64<<10))
	h.Must(err)
	return func(p []byte) ([]byte, error) {
			var out BV
			err := cc.Invoke(bg, "/perf.Echo/Echo", &BV{Value: p}, &out)
			return out.Value, err
		}, func(items, size int) error {
			st, err := cc.NewStream(bg, &grpc.StreamDesc{ServerStreams: true}, "/perf.Echo/Items")
			if err != nil {
				return err
			}
			if err := st.SendMsg(&BV{Value: streamReqBytes(items, size)}); err != nil {
				return err
			}
			st.CloseSend()
			got := 0
			var m BV
			for {
				if err := st.RecvMsg(&m); err == io.EOF {
					break
				} else if err != nil {
					return err
				}
				got++
			}
			return want(got, items)
		}
}

func want(got, items int) error {
	if got != items {
		return fmt.Errorf("got %d items of %d", got, items)
	}
	return nil
}

// ---- connect: connect-h2, connect-h3, connect-grpc-h2 ----

var (
	specUnary  = connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: "/perf.Echo/Echo"}
	specStream = connect.Spec{StreamType: connect.StreamTypeServer, Procedure: "/perf.Echo/Items"}
)

func connectServe(p string) string {
	srv := connect.NewServer()
	srv.Register(connect.Method{Spec: specUnary, Handler: func(ctx context.Context, _ connect.Spec, st connect.ServerStream) error {
		var in BV
		if err := st.Receive(&in); err != nil {
			return err
		}
		return st.Send(&in)
	}}, connect.Method{Spec: specStream, Handler: func(ctx context.Context, _ connect.Spec, st connect.ServerStream) error {
		var in BV
		if err := st.Receive(&in); err != nil {
			return err
		}
		items, size, _ := streamReq(in.Value)
		m := &BV{Value: h.JSONPayload(size)}
		for range items {
			if err := st.Send(m); err != nil {
				return err
			}
		}
		return nil
	}})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, srv, connecthttp.WithCompressors()) // its default gzips every answer
	if strings.Contains(p, "h3") {
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		h.Must(err)
		s := &http3.Server{Handler: mux, TLSConfig: http3.ConfigureTLSConfig(h.TLSServer("h3")), QUICConfig: qconf()}
		go s.Serve(pc)
		return pc.LocalAddr().String()
	}
	l := listenTCP()
	s := &http.Server{Handler: mux, TLSConfig: h.TLSServer("h2"),
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: win, MaxReceiveBufferPerStream: win - 1, MaxConcurrentStreams: 1000}}
	go s.ServeTLS(l, "", "")
	return l.Addr().String()
}

func connectDial(p, addr string, _ int) (func([]byte) ([]byte, error), func(int, int) error) {
	var rt http.RoundTripper = &http.Transport{TLSClientConfig: h.TLSClient("h2"), ForceAttemptHTTP2: true, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: win, MaxReceiveBufferPerStream: win - 1}}
	if strings.Contains(p, "h3") {
		rt = &http3.Transport{TLSClientConfig: h.TLSClient("h3"), QUICConfig: qconf(), DisableCompression: true}
	}
	opts := []connecthttp.Option{connecthttp.WithCompressors()}
	if strings.Contains(p, "grpc") {
		opts = append(opts, connecthttp.WithGRPC())
	}
	cl := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: rt}, "https://"+addr, opts...))
	return func(b []byte) ([]byte, error) {
			var out BV
			err := cl.CallUnary(bg, specUnary, &BV{Value: b}, &out)
			return out.Value, err
		}, func(items, size int) error {
			st, err := cl.CallServerStream(bg, specStream, &BV{Value: streamReqBytes(items, size)})
			if err != nil {
				return err
			}
			defer st.Close()
			got := 0
			var m BV
			for {
				if err := st.Receive(&m); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return err
				}
				got++
			}
			return want(got, items)
		}
}

// ---- drpc ----

type drpcEnc struct{}

func (drpcEnc) Marshal(m drpc.Message) ([]byte, error) { return proto.Marshal(m.(proto.Message)) }
func (drpcEnc) MarshalAppend(b []byte, m drpc.Message) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, m.(proto.Message))
}
func (drpcEnc) Unmarshal(b []byte, m drpc.Message) error {
	return proto.Unmarshal(b, m.(proto.Message))
}

type drpcSrv struct{}

func (*drpcSrv) Echo(ctx context.Context, in *BV) (*BV, error) { return in, nil }
func (*drpcSrv) Items(in *BV, st *drpcItems) error {
	items, size, _ := streamReq(in.Value)
	m := &BV{Value: h.JSONPayload(size)}
	for range items {
		if err := st.MsgSend(m, drpcEnc{}); err != nil {
			return err
		}
	}
	return nil
}

type drpcItems struct{ drpc.Stream }
type drpcDesc struct{}

func (drpcDesc) NumMethods() int { return 2 }
func (drpcDesc) Method(n int) (string, drpc.Encoding, drpc.Receiver, any, bool) {
	if n == 0 {
		return "/perf.Echo/Echo", drpcEnc{}, func(srv any, ctx context.Context, in1, in2 any) (drpc.Message, error) {
			return srv.(*drpcSrv).Echo(ctx, in1.(*BV))
		}, (*drpcSrv).Echo, true
	}
	return "/perf.Echo/Items", drpcEnc{}, func(srv any, ctx context.Context, in1, in2 any) (drpc.Message, error) {
		return nil, srv.(*drpcSrv).Items(in1.(*BV), &drpcItems{in2.(drpc.Stream)})
	}, (*drpcSrv).Items, true
}

func drpcServe(string) string {
	m := drpcmux.New()
	h.Must(m.Register(&drpcSrv{}, drpcDesc{}))
	s := drpcserver.New(m)
	l := listenTCP()
	go s.Serve(bg, tls.NewListener(l, h.TLSServer()))
	return l.Addr().String()
}

func drpcDial(p, addr string, conc int) (func([]byte) ([]byte, error), func(int, int) error) {
	cfg := h.TLSClient()
	dial := func(ctx context.Context, _ string) (*drpcconn.Conn, error) {
		c, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			return nil, err
		}
		return drpcconn.New(c), nil
	}
	var cc drpc.Conn
	if strings.Contains(p, "pool") { // its answer to concurrency: a connection per running call
		pool := drpcpool.New[string, *drpcconn.Conn](drpcpool.Options{KeyCapacity: conc})
		cc = pool.Get(bg, "k", dial)
	} else {
		var err error
		cc, err = dial(bg, "")
		h.Must(err)
	}
	return func(b []byte) ([]byte, error) {
			var out BV
			err := cc.Invoke(bg, "/perf.Echo/Echo", drpcEnc{}, &BV{Value: b}, &out)
			return out.Value, err
		}, func(items, size int) error {
			st, err := cc.NewStream(bg, "/perf.Echo/Items", drpcEnc{})
			if err != nil {
				return err
			}
			defer st.Close()
			if err := st.MsgSend(&BV{Value: streamReqBytes(items, size)}, drpcEnc{}); err != nil {
				return err
			}
			st.CloseSend()
			got := 0
			var m BV
			for got < items {
				if err := st.MsgRecv(&m, drpcEnc{}); err != nil {
					return err
				}
				got++
			}
			return nil
		}
}

// ---- NATS micro ----

func natsServe(p string) string {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, TLSConfig: h.TLSServer(), TLSTimeout: 10})
	h.Must(err)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		h.Must(errors.New("nats not ready"))
	}
	var nc *nats.Conn
	if strings.Contains(p, "inproc") {
		nc, err = nats.Connect("", nats.InProcessServer(s), nats.Secure(h.TLSClient()))
	} else {
		nc, err = nats.Connect("nats://"+s.Addr().String(), nats.Secure(h.TLSClient()))
	}
	h.Must(err)
	svc, err := micro.AddService(nc, micro.Config{Name: "echo", Version: "1.0.0"})
	h.Must(err)
	h.Must(svc.AddEndpoint("do", micro.HandlerFunc(func(r micro.Request) { r.Respond(r.Data()) })))
	h.Must(nc.Flush())
	return s.Addr().String()
}

func natsDial(_, addr string, _ int) (func([]byte) ([]byte, error), func(int, int) error) {
	nc, err := nats.Connect("nats://"+addr, nats.Secure(h.TLSClient()))
	h.Must(err)
	return func(b []byte) ([]byte, error) {
		m, err := nc.Request("do", b, 5*time.Second)
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}, nil
}

// ---- raw QUIC: quic-percall, quic-mux-{bin,json,fast}[-inline][-y][-direct] ----

func qconf() *quic.Config {
	return &quic.Config{
		MaxIncomingStreams: 1 << 16, MaxIncomingUniStreams: 1 << 16,
		InitialStreamReceiveWindow: win, MaxStreamReceiveWindow: win,
		InitialConnectionReceiveWindow: win * 3 / 2, MaxConnectionReceiveWindow: win * 3 / 2,
		MaxIdleTimeout: 5 * time.Minute, Allow0RTT: true,
	}
}

// transport is one UDP socket; "-gro" receives with UDP_GRO.
func transport(p string) *quic.Transport {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	h.Must(err)
	return &quic.Transport{Conn: pc}
}

func quicServe(p string) string {
	l, err := transport(p).Listen(h.TLSServer("perf"), qconf())
	h.Must(err)
	go func() {
		for {
			c, err := l.Accept(bg)
			if err != nil {
				return
			}
			go func() {
				for {
					s, err := c.AcceptStream(bg)
					if err != nil {
						return
					}
					if isMux(p) {
						go serveMux(s, p)
						continue
					}
					go func() {
						bp := bufPool.Get().(*[]byte)
						b, err := readAll(s, (*bp)[:0])
						if err == nil {
							s.Write(b)
							s.Close()
						}
						*bp = b
						bufPool.Put(bp)
					}()
				}
			}()
		}
	}()
	return l.Addr().String()
}

func readAll(r io.Reader, b []byte) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		} else if err != nil {
			return b, err
		}
	}
}

func quicDial(p, addr string, _ int) (func([]byte) ([]byte, error), func(int, int) error) {
	ua, err := net.ResolveUDPAddr("udp", addr)
	h.Must(err)
	c, err := transport(p).Dial(bg, ua, h.TLSClient("perf"), qconf())
	h.Must(err)
	if isMux(p) {
		s, err := c.OpenStreamSync(bg)
		h.Must(err)
		m := newMuxClient(s, p)
		return m.call, m.stream
	}
	return func(b []byte) ([]byte, error) {
		s, err := c.OpenStreamSync(bg)
		if err != nil {
			return nil, err
		}
		if _, err := s.Write(b); err != nil {
			return nil, err
		}
		s.Close()
		return readAll(s, make([]byte, 0, len(b)+16))
	}, nil
}

// ---- raw TLS over TCP ----

func tlsServe(p string) string {
	l := tls.NewListener(listenTCP(), h.TLSServer())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveMux(c, p)
		}
	}()
	return l.Addr().String()
}

func tlsDial(p, addr string, _ int) (func([]byte) ([]byte, error), func(int, int) error) {
	c, err := tls.Dial("tcp", addr, h.TLSClient())
	h.Must(err)
	m := newMuxClient(c, p)
	return m.call, m.stream
}
