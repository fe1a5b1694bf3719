package detector

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/internal/porttest"
	"interrex/internal/topology"
)

// running runs a detector until the returned function is called.
func running(t *testing.T, d *Detector) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
}

// inbox collects application messages.
type inbox struct {
	mu  sync.Mutex
	all []Message
}

func (b *inbox) take(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, m)
}

func (b *inbox) got() []Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Message(nil), b.all...)
}

type realNode struct {
	*Detector
	inbox *inbox
	view  *server
	stop  func()
}

// realCluster starts members on loopback; each probes one server, n1.
func realCluster(t *testing.T, n int, spoil func(int, *Config)) []*realNode {
	t.Helper()
	var members []topology.Member
	for i := range n {
		members = append(members, topology.Member{Name: name(i), Gossip: porttest.Address(t)})
	}
	var nodes []*realNode
	for i := range n {
		nodes = append(nodes, realMember(t, members, i, spoil))
	}
	return nodes
}

func realMember(t *testing.T, members []topology.Member, i int, spoil func(int, *Config)) *realNode {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Self, cfg.Cluster, cfg.Key, cfg.Bind = name(i), "real", []byte("0123456789abcdef0123456789abcdef"), members[i].Gossip
	if spoil != nil {
		spoil(i, &cfg)
	}
	node := &realNode{inbox: &inbox{}, view: &server{}}
	d, err := New(cfg, Deps{Log: zap.NewNop(), Classify: classifyTest, OnMessage: node.inbox.take})
	require.NoError(t, err)
	d.SetRegistered(members)
	d.SetSubjects([]Subject{{Name: "n1", Address: "n1", Prober: node.view, Local: i == 0}})
	node.Detector = d
	node.stop = running(t, d)
	t.Cleanup(node.stop)
	return node
}

// votes waits until all members vote for n1 at all members.
func settled(t *testing.T, nodes []*realNode) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, 15*time.Second, func() (bool, string) {
			j := n.Judgement("n1")
			pro := 0
			for _, v := range j.Votes {
				if v.For {
					pro++
				}
			}
			return pro == len(nodes) && j.Verdict == topology.Healthy, j.Explanation
		})
	}
}

func eventually(t *testing.T, limit time.Duration, cond func() (bool, string)) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		ok, state := cond()
		if ok {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			require.FailNow(t, "not in time", "last seen: %s", state)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func TestGossipOnLoopback(t *testing.T) {
	nodes := realCluster(t, 3, nil)
	settled(t, nodes)

	require.NoError(t, nodes[0].Broadcast("route", []byte("epoch 7")))
	big := make([]byte, MaxMessageBytes)
	require.NoError(t, nodes[0].Broadcast("big", big))
	for i := 1; i < 3; i++ {
		eventually(t, 5*time.Second, func() (bool, string) {
			got := nodes[i].inbox.got()
			return len(got) >= 2, fmt.Sprintf("%d messages", len(got))
		})
	}
	time.Sleep(200 * ms)
	for i := 1; i < 3; i++ {
		got := nodes[i].inbox.got()
		require.Len(t, got, 2, "each handed out once, though sent twice")
		require.Equal(t, topology.NodeName("n1"), got[0].From)
	}
	require.Empty(t, nodes[0].inbox.got(), "none of one's own")

	// The server is killed: the process is gone and connections are refused.
	for _, n := range nodes {
		n.view.set(func(s *server) { s.err = errRefused })
	}
	require.NoError(t, nodes[0].Report(Evidence{Subject: "n1", Kind: ProcessExited}))
	took := eventually(t, 5*time.Second, func() (bool, string) {
		j := nodes[2].Judgement("n1")
		return j.Verdict == topology.Failed, j.Explanation
	})
	t.Log("killed server declared after", took)
	require.Equal(t, ProcessExited, nodes[2].Judgement("n1").Cause)
}

func TestWrongKeyAndWrongClusterAreRefused(t *testing.T) {
	nodes := realCluster(t, 4, func(i int, c *Config) {
		switch i {
		case 2:
			c.Key = []byte("another key.....another key.....")
		case 3:
			c.Cluster = "another"
		}
	})
	heard := func(a, b int) bool { return nodes[a].Heard(name(b)) >= 0 }
	eventually(t, 15*time.Second, func() (bool, string) { return heard(0, 1) && heard(1, 0), "n1 and n2 do not hear each other" })
	nodes[2].view.set(func(s *server) { s.err = errRefused })
	nodes[3].view.set(func(s *server) { s.err = errRefused })
	time.Sleep(3 * time.Second) // one more round of joining
	for _, stranger := range []int{2, 3} {
		for other := range nodes {
			require.False(t, heard(other, stranger), "%d hears %d", other, stranger)
			require.False(t, heard(stranger, other), "%d hears %d", stranger, other)
		}
		require.NotContains(t, nodes[0].gossip.presences(), presence{name(stranger), MemberPresent})
	}
	j := nodes[0].Judgement("n1")
	require.Equal(t, topology.Suspect, j.Verdict, j.Explanation)
	require.Equal(t, Isolated, j.Cause, "two of four are no majority; what the strangers say of it is nothing")
}

// A member that was away comes back under its name, at another address too.
func TestMemberReturns(t *testing.T) {
	var members []topology.Member
	for i := range 3 {
		members = append(members, topology.Member{Name: name(i), Gossip: porttest.Address(t)})
	}
	var nodes []*realNode
	for i := range 3 {
		nodes = append(nodes, realMember(t, members, i, nil))
	}
	settled(t, nodes)
	nodes[2].stop()
	eventually(t, 10*time.Second, func() (bool, string) {
		j := nodes[0].JudgeMember("n3")
		return j.Verdict == topology.Failed && j.Cause == MemberLeft, j.Explanation
	})
	members[2].Gossip = porttest.Address(t)
	nodes[2] = realMember(t, members, 2, nil)
	nodes[0].SetRegistered(members)
	nodes[1].SetRegistered(members)
	took := eventually(t, 20*time.Second, func() (bool, string) {
		j := nodes[0].JudgeMember("n3")
		return j.Verdict == topology.Healthy, j.Explanation
	})
	t.Log("back after", took)
	settled(t, nodes)
}

func TestRunFailsOnABusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	cfg := validConfig()
	cfg.Bind = l.Addr().String()
	d, err := New(cfg, Deps{Log: zap.NewNop(), Classify: classifyTest})
	require.NoError(t, err)
	require.ErrorContains(t, d.Run(t.Context()), "start gossip on "+cfg.Bind)
}

func TestGossipLinesKeepTheirLevel(t *testing.T) {
	for line, want := range map[string]string{
		"[WARN] memberlist: Refuting\n":     "warn: Refuting",
		"[ERR] memberlist: Failed\n":        "warn: Failed",
		"[DEBUG] memberlist: Stream\n":      "debug: Stream",
		"memberlist: without a level\n":     "info: memberlist: without a level",
		"[INFO] memberlist: Suspect\n":      "info: Suspect",
		"[WARN]  memberlist: two blanks  ":  "warn: two blanks",
		"[ERROR] memberlist: Failed hard\n": "warn: Failed hard",
	} {
		core, lines := observe()
		gossipLogger(zap.New(core)).Print(line)
		entries := lines.All()
		require.Len(t, entries, 1)
		require.Equal(t, want, entries[0].Level.String()+": "+entries[0].ContextMap()["text"].(string))
	}
}
