package election

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/election/embedded/etcdtest"
	"interrex/internal/topology"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// limit is for states that come within milliseconds on an idle machine.
const limit = 60 * time.Second

// eventually waits for a state and prints the last one seen if it never comes.
func eventually(t *testing.T, what string, state func() (any, bool)) {
	t.Helper()
	var last any
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		var ok bool
		if last, ok = state(); ok {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: not within %v; last state: %+v", what, limit, last)
}

// node is a running client.
type node struct {
	*Client
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// stop ends the client as a polite agent does.
func (n *node) stop() {
	n.cancel()
	n.ended.Wait()
}

// testConfig has the limits for regions: an etcd with the race detector, on a
// machine with other tests, takes as long to answer.
func testConfig(name topology.NodeName, endpoints []string) Config {
	cfg := DefaultConfig().ForRegions()
	cfg.Cluster, cfg.Self, cfg.Endpoints = "test", name, endpoints
	return cfg
}

func run(t *testing.T, cfg Config) *node {
	t.Helper()
	client, err := New(cfg, zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Client: client, cancel: cancel}
	n.ended.Go(func() { _ = client.Run(ctx) })
	t.Cleanup(n.stop)
	return n
}

// follower runs a client that never campaigns.
func follower(t *testing.T, name topology.NodeName, endpoints []string) *node {
	t.Helper()
	client, err := New(testConfig(name, endpoints), zap.NewNop())
	require.NoError(t, err)
	client.SetCandidacy(never)
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Client: client, cancel: cancel}
	n.ended.Go(func() { _ = client.Run(ctx) })
	t.Cleanup(n.stop)
	return n
}

func never() (bool, time.Duration)  { return false, 0 }
func always() (bool, time.Duration) { return true, 0 }

// leader runs a client and waits until it leads.
func leader(t *testing.T, name topology.NodeName, endpoints []string) *node {
	t.Helper()
	n := run(t, testConfig(name, endpoints))
	eventually(t, string(name)+" leads", func() (any, bool) { l := n.Leadership(); return l, l.Mine })
	return n
}

func sees(t *testing.T, n *node, holder topology.NodeName) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s sees %q lead", n.cfg.Self, holder), func() (any, bool) {
		l := n.Leadership()
		return l, l.Holder == holder
	})
}

func raise(s *State) error { s.Epoch++; return nil }

// rotate puts the i-th endpoint first, as the agent on that node does.
func rotate(endpoints []string, i int) []string {
	return append(append([]string(nil), endpoints[i:]...), endpoints[:i]...)
}

func rawClient(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// relay passes TCP on to a target; what comes back can be withheld.
type relay struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	mute  bool
	conns map[net.Conn]struct{}
	all   sync.WaitGroup
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{listener: l, target: target, conns: make(map[net.Conn]struct{})}
	r.all.Go(r.accept)
	t.Cleanup(func() {
		_ = l.Close()
		r.cut()
		r.all.Wait()
	})
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.conns[in], r.conns[out] = struct{}{}, struct{}{}
		r.mu.Unlock()
		r.all.Go(func() { r.pass(out, in, false) })
		r.all.Go(func() { r.pass(in, out, true) })
	}
}

func (r *relay) pass(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		drop := answers && r.mute
		r.mu.Unlock()
		if drop {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// muteAnswers lets requests through but no answers.
func (r *relay) muteAnswers(mute bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mute = mute
}

// cut closes every connection.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}
