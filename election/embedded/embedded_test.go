package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"interrex/election/embedded"
	"interrex/election/embedded/etcdtest"
	"interrex/internal/porttest"
)

// agentEnv makes this binary an agent that only supervises etcd; its value is
// the child's configuration file.
const agentEnv = "EMBEDDED_TEST_AGENT"

func TestMain(m *testing.M) {
	if file := os.Getenv(agentEnv); file != "" && len(os.Args) == 1 {
		os.Exit(agent(file))
	}
	etcdtest.Main(m)
}

func agent(file string) int {
	cfg, err := embedded.ReadChildConfig(file)
	if err != nil {
		return 1
	}
	cfg.Exe = os.Args[0]
	if err := embedded.Supervise(context.Background(), cfg, zap.NewNop()); err != nil {
		return 1
	}
	return 0
}

// eventually waits for what to become true and prints the last state if not.
func eventually(t *testing.T, limit time.Duration, what string, state func() (string, bool)) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		var ok bool
		if last, ok = state(); ok {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s: not within %v; last state: %s", what, limit, last)
}

func connect(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func residentMiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmRSS:" {
			kib, err := strconv.Atoi(fields[1])
			require.NoError(t, err)
			return kib / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func TestThreeMembersForm(t *testing.T) {
	c := etcdtest.New(t, 3, zap.NewNop())
	begun := time.Now()
	for _, m := range c.Members {
		m.Start()
	}
	client := connect(t, c.Members[0].Config.ClientURL)
	var first time.Duration
	eventually(t, time.Minute, "first write", func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := client.Put(ctx, "k", "v")
		first = time.Since(begun)
		return errorText(err), err == nil
	})
	c.WaitReady(t)
	t.Logf("first write after %v, all three ready after %v", first.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))

	value := strings.Repeat("x", 4096)
	for range 2000 {
		_, err := client.Put(t.Context(), "k", value)
		require.NoError(t, err)
	}
	for _, m := range c.Members {
		rss := residentMiB(t, m.PID())
		t.Logf("%s: %d MiB resident after 2,000 writes of 4 KiB", m.Config.Name, rss)
		if !raceEnabled {
			require.Less(t, rss, 90)
		}
		info, err := os.Stat(m.Config.DataDir)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	}
}

// TestListensElsewhere: behind a port forwarding, say, or on every address.
func TestListensElsewhere(t *testing.T) {
	c := etcdtest.New(t, 1, zap.NewNop())
	m := c.Members[0]
	ports := []string{porttest.Address(t), porttest.Address(t)}
	m.Config.ListenClient, m.Config.ListenPeer = ports[0], strings.TrimPrefix(ports[1], "127.0.0.1")
	m.Start()
	client := connect(t, ports[0])
	eventually(t, time.Minute, "an answer where it listens", func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		list, err := client.MemberList(ctx)
		return errorText(err), err == nil && len(list.Members[0].ClientURLs) == 1 && list.Members[0].ClientURLs[0] == "http://"+m.Config.ClientURL
	})
	peer, err := net.Dial("tcp", ports[1])
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	_, err = net.Dial("tcp", m.Config.ClientURL)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestKilledChildIsStartedAgainWithItsData(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	c := etcdtest.Start(t, 1, zap.New(core))
	m := c.Members[0]
	_, err := connect(t, m.Config.ClientURL).Put(t.Context(), "k", "kept")
	require.NoError(t, err)

	former := m.PID()
	m.Signal(t, syscall.SIGKILL)
	eventually(t, 20*time.Second, "another child", func() (string, bool) {
		pid := m.PID()
		return strconv.Itoa(pid), pid != 0 && pid != former
	})
	m.WaitReady(t)
	answer, err := connect(t, m.Config.ClientURL).Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "kept", string(answer.Kvs[0].Value))
	exits := logs.FilterMessage("embedded etcd exited and is started again").All()
	require.Len(t, exits, 1)
	require.Contains(t, exits[0].ContextMap()["error"], "signal: killed")

	begun := time.Now()
	last := m.PID()
	c.Stop()
	require.Less(t, time.Since(begun), 5*time.Second)
	require.ErrorIs(t, syscall.Kill(last, 0), syscall.ESRCH)
}

func TestFrozenChildIsKilledWhenStopped(t *testing.T) {
	c := etcdtest.Start(t, 1, zap.NewNop())
	m := c.Members[0]
	pid := m.PID()
	m.Signal(t, syscall.SIGSTOP)
	begun := time.Now()
	m.Stop()
	require.Less(t, time.Since(begun), 10*time.Second)
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestLeaderMovesAway(t *testing.T) {
	c := etcdtest.Start(t, 3, zap.NewNop())
	former := c.Leader(t)
	require.NoError(t, embedded.MoveLeaderAway(t.Context(), c.Endpoints(), nil, former.Config.Name))
	next := c.Leader(t)
	require.NotEqual(t, former.Config.Name, next.Config.Name)
	require.NoError(t, embedded.MoveLeaderAway(t.Context(), c.Endpoints(), nil, former.Config.Name), "nothing to do")
	require.Equal(t, next.Config.Name, c.Leader(t).Config.Name)

	// A polite stop hands leadership over, so that nobody waits for an election.
	client := connect(t, former.Config.ClientURL)
	stopped := make(chan struct{})
	begun := time.Now()
	go func() { defer close(stopped); next.Stop() }()
	var longest time.Duration
	for last, running := time.Now(), true; running; {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := client.Put(ctx, "k", "v"); err == nil {
			longest = max(longest, time.Since(last))
			last = time.Now()
		}
		cancel()
		select {
		case <-stopped:
			running = false
		default:
		}
	}
	t.Logf("polite stop of etcd's leader took %v; longest gap between writes meanwhile %v", time.Since(begun).Round(time.Millisecond), longest.Round(time.Millisecond))
	require.NotZero(t, longest, "no write succeeded during the stop")
}

func TestChildDiesWithItsAgent(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1, zap.NewNop())
	m := c.Members[0]
	m.Stop() // leaves the configuration file for an agent in a process of its own
	cmd := exec.Command(m.Config.Exe)
	cmd.Env = append(os.Environ(), agentEnv+"="+filepath.Join(m.Config.DataDir, "config.json"))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	m.WaitReady(t)
	child := m.PID()
	require.NotZero(t, child)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	eventually(t, 10*time.Second, "end of the child", func() (string, bool) {
		err := syscall.Kill(child, 0)
		return fmt.Sprintf("signal 0 to %d: %v", child, err), errors.Is(err, syscall.ESRCH)
	})
}

func TestForeignPeerIsExplained(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	stray := c.Members[2]
	stray.Stop()
	require.NoError(t, os.RemoveAll(filepath.Join(stray.Config.DataDir, "data")))
	stray.Config.Cluster = "another"
	stray.Start() // a founding member of another cluster, at the same address
	eventually(t, time.Minute, "an explanation of the foreign cluster", func() (string, bool) {
		return findLog(logs, "belongs to another etcd cluster")
	})
	require.NoDirExists(t, filepath.Join(stray.Config.DataDir, "data", "member", "wal"), "it founded something")
}

func findLog(logs *observer.ObservedLogs, part string) (string, bool) {
	var all []string
	for _, entry := range logs.All() {
		for _, value := range entry.ContextMap() {
			if s, ok := value.(string); ok {
				all = append(all, s)
			}
		}
	}
	text := strings.Join(all, "\n")
	return text, strings.Contains(text, part)
}

func TestFullDatabaseRecovers(t *testing.T) {
	t.Parallel()
	c := etcdtest.New(t, 1, zap.NewNop())
	m := c.Members[0]
	m.Config.QuotaBytes = 16 << 20
	m.Config.KeepRevisions = 10
	m.Start()
	m.WaitReady(t)
	client := connect(t, m.Config.ClientURL)
	value := strings.Repeat("x", 1<<20) // faster than it is compacted, on slow disks, too
	eventually(t, time.Minute, "a full database", func() (string, bool) {
		_, err := client.Put(t.Context(), "k", value)
		return errorText(err), err != nil && strings.Contains(err.Error(), "space exceeded")
	})
	eventually(t, time.Minute, "a write after the alarm is cleared", func() (string, bool) {
		_, err := client.Put(t.Context(), "k", "small")
		return errorText(err), err == nil
	})
}

func TestConfigValidate(t *testing.T) {
	good := embedded.DefaultConfig()
	good.Cluster, good.Name, good.DataDir, good.LogFile, good.ClientURL = "c", "a", "/d", "/l", "127.0.0.1:1"
	good.Peers = map[string]string{"a": "127.0.0.1:2"}
	require.NoError(t, good.Validate())
	for name, test := range map[string]struct {
		spoil func(*embedded.Config)
		want  string
	}{
		"no name":         {func(c *embedded.Config) { c.Name = "" }, "name: must not be empty"},
		"not a peer":      {func(c *embedded.Config) { c.Peers = nil }, `"a" itself is missing`},
		"peer without":    {func(c *embedded.Config) { c.Peers = map[string]string{"a": "x"} }, "must be host:port"},
		"hasty election":  {func(c *embedded.Config) { c.Election = 200 * time.Millisecond }, "five times"},
		"half of TLS":     {func(c *embedded.Config) { c.TLS = &embedded.TLS{CAFile: "ca"} }, "tls:"},
		"tiny quota":      {func(c *embedded.Config) { c.QuotaBytes = 1 }, "quota_bytes"},
		"bad client port": {func(c *embedded.Config) { c.ClientURL = "here" }, "client_url"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			test.spoil(&c)
			require.ErrorContains(t, c.Validate(), test.want)
		})
	}
	require.ErrorContains(t, embedded.Supervise(t.Context(), good, zap.NewNop()), "exe:")
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}
