package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"interrex/internal/topology"
	"interrex/router"
)

const deadline = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// instance is a TCP server that greets with its name and then echoes lines.
type instance struct {
	t testing.TB
	router.Backend
	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
	mute     bool // take connections, never greet
	slam     bool // take connections, close them at once
	wg       sync.WaitGroup
}

func startInstance(t testing.TB, name topology.NodeName) *instance {
	i := &instance{t: t, conns: map[net.Conn]struct{}{}, Backend: router.Backend{Node: name, Address: "127.0.0.1:0"}}
	i.start()
	t.Cleanup(i.kill)
	return i
}

// start listens, again on the same port after kill.
func (i *instance) start() {
	l, err := net.Listen("tcp", i.Address)
	require.NoError(i.t, err)
	i.mu.Lock()
	i.listener, i.Address = l, l.Addr().String()
	i.mu.Unlock()
	i.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			i.mu.Lock()
			i.conns[c] = struct{}{}
			mute, slam := i.mute, i.slam
			i.mu.Unlock()
			if slam {
				_ = c.Close()
				continue
			}
			i.wg.Go(func() {
				if !mute {
					_, _ = fmt.Fprintf(c, "%s\n", i.Node)
				}
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
}

func (i *instance) behave(mute, slam bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mute, i.slam = mute, slam
}

// kill ends the listener and all connections, as a killed process does.
func (i *instance) kill() {
	i.mu.Lock()
	_ = i.listener.Close()
	for c := range i.conns {
		_ = c.Close()
	}
	i.conns = map[net.Conn]struct{}{}
	i.mu.Unlock()
	i.wg.Wait()
}

// rig is a running proxy with what it obeys and what it reports.
type rig struct {
	t     testing.TB
	table *router.Table
	proxy *Proxy
	stop  func()

	mu     sync.Mutex
	broken map[topology.NodeName]int
}

func startRig(t testing.TB, change func(*Config)) *rig {
	r := &rig{t: t, table: router.NewTable(), broken: map[topology.NodeName]int{}}
	cfg := DefaultConfig()
	cfg.Cluster = "rome"
	cfg.ReadWrite, cfg.ReadOnly = "127.0.0.1:0", "127.0.0.1:0"
	cfg.OnBackendBroken = func(n topology.NodeName) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.broken[n]++
	}
	if change != nil {
		change(&cfg)
	}
	log := zap.NewNop()
	if _, isTest := t.(*testing.T); isTest {
		log = zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))
	}
	p, err := New(cfg, r.table, log)
	require.NoError(t, err)
	require.NoError(t, p.Listen(t.Context()))
	r.proxy = p
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(deadline):
			t.Fatalf("Run did not end: %+v", p.Stats())
		}
	})
	t.Cleanup(r.stop)
	return r
}

// startOpen starts an instance, red, and a rig whose route leads to it, epoch 1.
func startOpen(t testing.TB) (*instance, *rig) {
	red := startInstance(t, "red")
	r := startRig(t, nil)
	r.open(1, red.Backend)
	return red, r
}

func (r *rig) brokenCalls(n topology.NodeName) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken[n]
}

// closed and open apply a route; drain is closed with the primary named.
func (r *rig) closed(epoch topology.Epoch) {
	r.apply(router.Route{Epoch: epoch, Phase: router.Closed, Reason: "failover"})
}

func (r *rig) drain(epoch topology.Epoch, b router.Backend) {
	r.apply(router.Route{Epoch: epoch, Phase: router.Closed, Primary: &b, Reason: "switchover"})
}

func (r *rig) open(epoch topology.Epoch, b router.Backend, replicas ...router.Backend) {
	r.apply(router.Route{Epoch: epoch, Phase: router.Open, Primary: &b, Replicas: replicas})
}

func (r *rig) apply(route router.Route) {
	r.t.Helper()
	_, err := r.table.Apply(route)
	require.NoError(r.t, err)
}

func (r *rig) stats(role Role) PortStats {
	for _, s := range r.proxy.Stats() {
		if s.Role == role {
			return s
		}
	}
	r.t.Fatalf("no %s port", role)
	return PortStats{}
}

// until waits for the statistics of a port to satisfy ok.
func (r *rig) until(role Role, what string, ok func(PortStats) bool) {
	r.t.Helper()
	require.Eventuallyf(r.t, func() bool { return ok(r.stats(role)) }, deadline, time.Millisecond, "%s", lazy(func() string {
		return fmt.Sprintf("never %s: %+v", what, r.stats(role))
	}))
}

type lazy func() string

func (l lazy) String() string { return l() }

// guest is a client connection of a test.
type guest struct {
	t testing.TB
	*net.TCPConn
	in *bufio.Reader
}

func (r *rig) dial(role Role) *guest {
	r.t.Helper()
	c, err := net.Dial("tcp", r.proxy.Address(role))
	require.NoError(r.t, err)
	require.NoError(r.t, c.SetDeadline(time.Now().Add(deadline)))
	r.t.Cleanup(func() { _ = c.Close() })
	return &guest{t: r.t, TCPConn: c.(*net.TCPConn), in: bufio.NewReader(c)}
}

// greetedBy reads who greeted.
func (g *guest) greetedBy() topology.NodeName {
	g.t.Helper()
	line, err := g.in.ReadString('\n')
	require.NoErrorf(g.t, err, "after %q", line)
	return topology.NodeName(line[:len(line)-1])
}

// works proves that the session is alive.
func (g *guest) works() {
	g.t.Helper()
	_, err := fmt.Fprintln(g, "are you there")
	require.NoError(g.t, err)
	line, err := g.in.ReadString('\n')
	require.NoError(g.t, err)
	require.Equal(g.t, "are you there\n", line)
}

// isCut proves that the session has been ended.
func (g *guest) isCut() {
	g.t.Helper()
	_, err := g.in.ReadByte()
	require.Error(g.t, err)
	var timeout net.Error
	require.Falsef(g.t, errors.As(err, &timeout) && timeout.Timeout(), "session was not cut: %v", err)
}

// refusedWith reads an ERR packet.
func (g *guest) refusedWith() (code int, message string) {
	g.t.Helper()
	b, err := io.ReadAll(g.in)
	require.NoError(g.t, err)
	require.Greater(g.t, len(b), 7)
	require.Equal(g.t, len(b)-4, int(b[0])|int(b[1])<<8|int(b[2])<<16, "length in the header")
	require.Equal(g.t, byte(0), b[3], "sequence number")
	require.Equal(g.t, byte(0xff), b[4], "ERR header")
	return int(b[5]) | int(b[6])<<8, string(b[7:])
}
