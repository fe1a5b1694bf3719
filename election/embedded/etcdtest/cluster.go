package etcdtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/election/embedded"
	"interrex/internal/porttest"
)

// startLimit is generous: a busy machine forms a cluster in seconds.
const startLimit = 60 * time.Second

// Main runs the tests, or the etcd child if this process was started as one.
// It does not return.
func Main(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "etcd" {
		os.Exit(child(os.Args[3]))
	}
	os.Exit(m.Run())
}

func child(file string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := embedded.ReadChildConfig(file)
	if err == nil {
		err = embedded.Main(ctx, cfg, func(ctx context.Context, store clientv3.KV) (bool, error) {
			return Admit(ctx, store, cfg.Name)
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Admit is the admission of the members of this package: a list of names in the
// store says who is a member; without one, nothing is written down.
func Admit(ctx context.Context, store clientv3.KV, name string) (bool, error) {
	answer, err := store.Get(ctx, ListKey)
	switch {
	case err != nil:
		return false, fmt.Errorf("read the list, which needs its quorum: %w", err)
	case len(answer.Kvs) == 0:
		return false, nil
	}
	if !slices.Contains(strings.Fields(string(answer.Kvs[0].Value)), name) {
		return false, fmt.Errorf("%s is not on the list", name)
	}
	return true, nil
}

// ListKey is where Admit finds the names, apart by spaces.
const ListKey = "members"

// Cluster is a running etcd cluster.
type Cluster struct {
	Members []*Member
}

// Member is one etcd member with its supervisor.
type Member struct {
	Config embedded.Config
	// TLS is what the helpers of this package connect with; nil: plain text.
	TLS *tls.Config

	log    *zap.Logger
	cancel context.CancelFunc // nil when stopped
	ended  sync.WaitGroup
}

// Start forms a cluster of n members and waits until it serves. It is stopped
// when the test ends.
func Start(t testing.TB, n int, log *zap.Logger) *Cluster {
	t.Helper()
	c := New(t, n, log)
	for _, m := range c.Members {
		m.Start()
	}
	c.WaitReady(t)
	return c
}

// New prepares a cluster of n members, without starting any.
func New(t testing.TB, n int, log *zap.Logger) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcdtest")
	if err != nil {
		t.Fatalf("make folder: %v", err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatalf("find the test binary: %v", err)
	}
	peers := make(map[string]string)
	c := &Cluster{}
	for i := range n {
		name := fmt.Sprintf("e%d", i+1)
		peers[name] = porttest.Address(t)
		cfg := embedded.DefaultConfig()
		cfg.Exe, cfg.Cluster, cfg.Name, cfg.Peers = exe, t.Name(), name, peers
		cfg.DataDir = filepath.Join(dir, name)
		cfg.LogFile = filepath.Join(dir, name+".log")
		cfg.ClientURL = porttest.Address(t)
		c.Members = append(c.Members, &Member{Config: cfg, log: log.Named(name)})
	}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			t.Logf("etcd's folders are kept in %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	return c
}

// Joiner prepares a further member, which knows the present ones.
func (c *Cluster) Joiner(t testing.TB, name string) *Member {
	t.Helper()
	first := c.Members[0]
	cfg := first.Config
	cfg.Name, cfg.Peers = name, maps.Clone(cfg.Peers)
	cfg.Peers[name] = porttest.Address(t)
	cfg.DataDir = filepath.Join(filepath.Dir(cfg.DataDir), name)
	cfg.LogFile = cfg.DataDir + ".log"
	cfg.ClientURL = porttest.Address(t)
	m := &Member{Config: cfg, TLS: first.TLS, log: first.log.Named(name)}
	c.Members = append(c.Members, m)
	return m
}

// Endpoints are the client addresses of all members.
func (c *Cluster) Endpoints() []string {
	var endpoints []string
	for _, m := range c.Members {
		endpoints = append(endpoints, m.Config.ClientURL)
	}
	return endpoints
}

// Stop stops every member, frozen ones too, and waits.
func (c *Cluster) Stop() {
	var all sync.WaitGroup
	for _, m := range c.Members {
		all.Go(func() {
			if pid := m.PID(); pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
			m.Stop()
		})
	}
	all.Wait()
}

// WaitReady waits until every member answers a read that needs the quorum.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	for _, m := range c.Members {
		m.WaitReady(t)
	}
}

// Leader is the member that leads etcd; it waits until there is one.
func (c *Cluster) Leader(t testing.TB) *Member {
	t.Helper()
	deadline := time.Now().Add(startLimit)
	for time.Now().Before(deadline) {
		for _, m := range c.Members {
			if m.leads() {
				return m
			}
		}
		wait(t.Context(), 20*time.Millisecond)
	}
	t.Fatalf("no etcd leader within %v", startLimit)
	return nil
}

// Start starts the member's supervisor.
func (m *Member) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.ended.Go(func() {
		if err := embedded.Supervise(ctx, m.Config, m.log); err != nil {
			m.log.Error("supervise etcd", zap.Error(err))
		}
	})
}

// Stop stops the member, politely, and waits. A stopped one may be started
// again.
func (m *Member) Stop() {
	if m.cancel != nil {
		m.cancel()
		m.ended.Wait()
		m.cancel = nil
	}
}

// Signal sends a signal to the member's process.
func (m *Member) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	pid := m.PID()
	if pid == 0 {
		t.Fatalf("%s does not run", m.Config.Name)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatalf("signal %s: %v", m.Config.Name, err)
	}
}

// PID finds the member's process by its command line; 0 if it does not run.
func (m *Member) PID() int {
	want := []byte(filepath.Join(m.Config.DataDir, "config.json"))
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range processes {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, append([]byte("\x00etcd\x00--config\x00"), want...)) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		return pid
	}
	return 0
}

// WaitReady waits until the member answers a read that needs the quorum.
func (m *Member) WaitReady(t testing.TB) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); wait(t.Context(), 20*time.Millisecond) {
		if last = m.ask(func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Get(ctx, "ready")
			return err
		}); last == nil {
			return
		}
	}
	t.Fatalf("%s not ready within %v: %v", m.Config.Name, startLimit, last)
}

func (m *Member) leads() (leads bool) {
	_ = m.ask(func(ctx context.Context, client *clientv3.Client) error {
		state, err := client.Status(ctx, m.Config.ClientURL)
		leads = err == nil && state.Leader == state.Header.MemberId
		return err
	})
	return leads
}

func (m *Member) ask(do func(context.Context, *clientv3.Client) error) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Config.ClientURL}, TLS: m.TLS, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	return do(ctx, client)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
