package api

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// node changes one member's status in a view.
func node(v *failover.View, name topology.NodeName, change func(*failover.NodeStatus)) {
	n := v.Nodes[name]
	if n.Instance != nil {
		instance := *n.Instance
		if instance.Source != nil {
			source := *instance.Source
			instance.Source = &source
		}
		n.Instance = &instance
	}
	change(&n)
	v.Nodes[name] = n
}

func silence(v *failover.View, name topology.NodeName) {
	delete(v.Nodes, name)
	v.Unreachable[name] = "connection refused"
}

// agentGone is the error of a member whose server is judged healthy.
const agentGone = "the agent does not answer"

func TestStatusWord(t *testing.T) {
	for _, c := range []struct {
		name   string
		given  func(v *failover.View)
		want   Status
		reason string
	}{
		{"all is well", func(*failover.View) {}, StatusHealthy, ""},
		{"before bootstrap", func(v *failover.View) { v.State.Primary = nil }, StatusNoPrimary, "no primary yet"},
		{"operation in flight", func(v *failover.View) {
			v.State.Operation = &election.Operation{Kind: election.Switchover, Epoch: 4, Step: "catch up"}
		}, StatusFailingOver, "switchover of epoch 4 is at step catch up"},
		{"primary is promoting", func(v *failover.View) { v.State.Primary.Phase = election.Promoting }, StatusNoPrimary, "has no open primary"},
		{"epoch without a primary", func(v *failover.View) { v.State.Epoch = 9 }, StatusNoPrimary, "epoch 9"},
		{"primary failed", func(v *failover.View) { v.Primary.Verdict = topology.Failed }, StatusNoPrimary, "n1 has failed"},
		{"primary suspect", func(v *failover.View) { v.Primary.Verdict = topology.Suspect }, StatusDegraded, "n1 is suspect"},
		{"no etcd", func(v *failover.View) { v.EtcdReachable = false }, StatusDegraded, "no promotion possible"},
		{"no leader", func(v *failover.View) { v.Leadership.Holder = "" }, StatusDegraded, "no member leads"},
		{"paused", func(v *failover.View) { v.State.Paused = &election.Pause{By: "ann", Reason: "disks"} }, StatusDegraded, "paused by ann: disks"},
		{"not waiting", func(v *failover.View) { v.State.Primary.Lossy = &election.Lossy{Reason: "timeout"} }, StatusDegraded, "answered without acknowledgement since"},
		{"has not waited", func(v *failover.View) {
			v.State.Primary.Lossy = &election.Lossy{Reason: "timeout", Until: time.Now(), Commits: 3}
			v.State.Primary.Base = gtid.MustParse("00000000-0000-0000-0000-000000000009:1")
		}, StatusDegraded, "up to 3 commits were answered without acknowledgement"},
		{"has not waited, and all is received", func(v *failover.View) {
			v.State.Primary.Lossy = &election.Lossy{Reason: "timeout", Until: time.Now(), Commits: 3}
		}, StatusHealthy, ""},
		{"no acker registered", func(v *failover.View) { v.State.Register = election.Register{} }, StatusDegraded, "not lossless"},
		{"waiting switched off", func(v *failover.View) {
			node(v, "n1", func(n *failover.NodeStatus) { n.Instance.SemiSync.SourceEnabled = false })
		}, StatusDegraded, "not lossless"},
		{"acker is silent", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.SemiSync.ReplicaActive = false })
		}, StatusStarved, "commits wait: 0 of the 1"},
		{"primary counts no acker", func(v *failover.View) {
			node(v, "n1", func(n *failover.NodeStatus) { n.Instance.SemiSync.Clients = 0 })
		}, StatusStarved, "commits wait: the primary has fewer than the 1"},
		{"acker's server is down", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance, n.InstanceError = nil, "refused" })
		}, StatusStarved, "commits wait: 0 of the 1"},
		{"acker is gone", func(v *failover.View) { silence(v, "n2") }, StatusStarved, "commits wait: 0 of the 1"},
		{"acker's agent is gone, its server is well", func(v *failover.View) {
			silence(v, "n2")
			v.Unreachable["n2"] = agentGone
		}, StatusDegraded, "0 of the 1 needed ackers are seen to acknowledge"},
		{"primary's agent is gone", func(v *failover.View) { silence(v, "n1"); silence(v, "n2") }, StatusDegraded, "seen to acknowledge"},
		{"starved and failed", func(v *failover.View) {
			silence(v, "n2")
			v.Primary.Verdict = topology.Failed
		}, StatusNoPrimary, "n1 has failed"},
		{"member is gone", func(v *failover.View) { silence(v, "n3") }, StatusDegraded, "n3 cannot be reached: connection refused"},
		{"receiver broke", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.Source.ReceiverOn = false })
		}, StatusStarved, "receiver is ON"},
		{"acker's receiver waits for its disk", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) {
				n.Instance.Source.Deaf, n.Instance.Source.HeartbeatAge = true, 42*time.Second
			})
		}, StatusStarved, "n2: receiver is connected and has taken in nothing for 42 s"},
		{"acker is far behind", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.Source.Lag = 11 * time.Second })
		}, StatusDegraded, "n2 is 11 s behind"},
		{"acker is behind", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.Source.Lag = 9 * time.Second })
		}, StatusHealthy, ""},
		{"acker may have forgotten", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Certified = false })
		}, StatusDegraded, "n2 restarted and has not caught up"},
		{"a replica is no acker", func(v *failover.View) {
			i := slices.IndexFunc(v.Members, func(m topology.Member) bool { return m.Name == "n2" })
			more := v.Members[i]
			more.Name = "n4"
			v.Members, v.Nodes["n4"] = append(v.Members, more), v.Nodes["n2"]
		}, StatusDegraded, "n4 is no acker yet: it lacks 3 transactions of the primary"},
		{"errant", func(v *failover.View) {
			set := gtid.MustParse(n1UUID + ":7")
			node(v, "n2", func(n *failover.NodeStatus) { n.Errant = &set })
		}, StatusDegraded, "n2 holds transactions"},
		{"stray", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.ReadOnly, n.Instance.SuperReadOnly = false, false })
		}, StatusDegraded, "n2 would take writes"},
		{"nginx broke a moment ago", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) {
				n.Nginx = []failover.NginxFile{{File: "/etc/nginx/nginx.conf", Epoch: 2, Wanted: 3, Error: "it is edited", ErrorFor: time.Second}}
			})
		}, StatusHealthy, ""},
		{"nginx cannot be brought in step", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) {
				n.Nginx = []failover.NginxFile{{File: "/well.conf", Epoch: 3, Wanted: 3},
					{File: "/etc/nginx/nginx.conf", Epoch: 2, Wanted: 3, Error: "nginx refuses the configuration: line 7", ErrorFor: time.Minute}}
			})
		}, StatusDegraded, "nginx on n3 does not follow the route of epoch 3 (it leads as in epoch 2): /etc/nginx/nginx.conf: nginx refuses the configuration: line 7; put that right there"},
		{"nginx has not been started yet", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) {
				n.Nginx = []failover.NginxFile{{File: "/etc/nginx/nginx.conf", Wanted: 3, Error: "nginx is not running", ErrorFor: time.Minute, Stopped: true}}
			})
		}, StatusHealthy, ""},
		{"nginx runs no more, or its pid file is another", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) {
				n.Nginx = []failover.NginxFile{{File: "/etc/nginx/nginx.conf", Epoch: 2, Wanted: 3, Error: "nginx is not running", ErrorFor: time.Minute, Stopped: true}}
			})
		}, StatusDegraded, "nginx on n3 does not follow the route of epoch 3 (it leads as in epoch 2): /etc/nginx/nginx.conf: nginx is not running"},
		{"nginx warns", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) {
				n.Nginx = []failover.NginxFile{{File: "/etc/nginx/nginx.conf", Epoch: 3, Wanted: 3, Warnings: []string{"worker_shutdown_timeout is not set"}}}
			})
		}, StatusHealthy, ""},
		{"etcd's database is half full", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) { n.EtcdUsed = 0.5 })
		}, StatusHealthy, ""},
		{"etcd's database fills up (E2)", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) { n.EtcdUsed = 0.63 })
		}, StatusDegraded, "etcd's database is 63 % full, as n3 knows"},
		{"a certificate is good for a month", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) { n.CertificateUntil = began.Add(30 * 24 * time.Hour) })
		}, StatusHealthy, ""},
		{"a certificate runs out (E11)", func(v *failover.View) {
			node(v, "n3", func(n *failover.NodeStatus) { n.CertificateUntil = began.Add(6 * 24 * time.Hour) })
		}, StatusDegraded, "the certificate of n3, or its authority's, ends at " + began.Add(6*24*time.Hour).UTC().Format(time.RFC3339)},
		{"it leaves out a part of what it receives (M11)", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.Inadmissible = "replication filters: REPLICATE_DO_DB" })
		}, StatusDegraded, "n2: it may neither acknowledge nor be promoted: replication filters: REPLICATE_DO_DB"},
		{"unregistered", func(v *failover.View) { v.Nodes["n9"] = failover.NodeStatus{} }, StatusDegraded, "n9 answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := clusterView("n1")
			c.given(&v)
			got := newCluster(began, "c", v, nil, func(name topology.NodeName) (failover.Judgement, bool) {
				return failover.Judgement{Verdict: topology.Healthy}, v.Unreachable[name] == agentGone
			})
			require.Equal(t, c.want, got.Status, "%v", got.Reasons)
			require.Contains(t, strings.Join(got.Reasons, "\n"), c.reason)
			if c.want == StatusHealthy {
				require.Empty(t, got.Reasons)
			}
		})
	}
}

// A replica whose disk is full answers everything.
func TestDiskOfAReplica(t *testing.T) {
	v := clusterView("n1")
	got := newCluster(began, "c", v, nil, func(name topology.NodeName) (failover.Judgement, bool) {
		if name == "n2" {
			return failover.Judgement{Verdict: topology.Suspect, Cause: "disk_full"}, true
		}
		return nobody(name)
	})
	require.Equal(t, StatusDegraded, got.Status)
	require.Contains(t, got.Reasons, "n2: its disk takes no writes (disk_full)")
}

func nobody(topology.NodeName) (failover.Judgement, bool) { return failover.Judgement{}, false }

func TestRoles(t *testing.T) {
	for _, c := range []struct {
		name  string
		given func(v *failover.View)
		of    topology.NodeName
		want  Role
	}{
		{"recorded primary", nil, "n1", RolePrimary},
		{"recorded primary that is gone", func(v *failover.View) { silence(v, "n1") }, "n1", RolePrimary},
		{"replica", nil, "n2", RoleReplica},
		{"arbiter", nil, "n3", RoleArbiter},
		{"gone", func(v *failover.View) { silence(v, "n2") }, "n2", RoleUnreachable},
		{"not asked yet", func(v *failover.View) { delete(v.Nodes, "n2") }, "n2", RoleUnreachable},
		{"server is down", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance, n.InstanceError = nil, "refused" })
		}, "n2", RoleUnreachable},
		{"follows nobody", func(v *failover.View) { node(v, "n2", func(n *failover.NodeStatus) { n.Instance.Source = nil }) }, "n2", RoleClosed},
		{"errant", func(v *failover.View) { node(v, "n2", func(n *failover.NodeStatus) { n.Errant = &gtid.Set{} }) }, "n2", RoleClosed},
		{"rebuilding", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Rebuild = &failover.RebuildProgress{Stage: "clone"} })
		}, "n2", RoleRebuilding},
		{"stray", func(v *failover.View) {
			node(v, "n2", func(n *failover.NodeStatus) { n.Instance.ReadOnly, n.Instance.SuperReadOnly = false, false })
		}, "n2", RoleStray},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := clusterView("n1")
			if c.given != nil {
				c.given(&v)
			}
			for _, m := range newMembers(v, nobody) {
				if m.Name == c.of {
					require.Equal(t, c.want, m.Role)
				}
			}
		})
	}
}

func TestMemberFigures(t *testing.T) {
	v := clusterView("n1")
	members := newMembers(v, nobody)
	require.Equal(t, topology.NodeName("n1"), members[0].Name, "by name")
	require.Nil(t, members[0].LagMS)
	require.Nil(t, members[0].Missing)
	require.InDelta(t, 20, *members[1].LagMS, 0)
	require.Equal(t, uint64(3), *members[1].Missing)
	require.True(t, members[1].Leader)
	require.True(t, members[1].Acknowledging)

	silence(&v, "n1")
	require.Nil(t, newMembers(v, nobody)[1].Missing, "not known without the primary's set")
	node(&v, "n2", func(n *failover.NodeStatus) { n.Instance.Source.ApplierOn = false })
	require.Nil(t, newMembers(v, nobody)[1].LagMS, "a stopped applier has no lag that means anything")
}

func TestProbeOfPrimary(t *testing.T) {
	for name, c := range map[string]struct {
		given func(v *failover.View)
		self  topology.NodeName
		ok    bool
	}{
		"open primary":         {nil, "n1", true},
		"another member":       {nil, "n2", false},
		"no record":            {func(v *failover.View) { v.State.Primary = nil }, "n1", false},
		"promoting":            {func(v *failover.View) { v.State.Primary.Phase = election.Promoting }, "n1", false},
		"operation in flight":  {func(v *failover.View) { v.State.Operation = &election.Operation{} }, "n1", false},
		"higher epoch promise": {func(v *failover.View) { node(v, "n1", func(n *failover.NodeStatus) { n.Promised = 4 }) }, "n1", false},
		"closed": {func(v *failover.View) {
			node(v, "n1", func(n *failover.NodeStatus) { n.Instance.SuperReadOnly = true })
		}, "n1", false},
		"silent":       {func(v *failover.View) { node(v, "n1", func(n *failover.NodeStatus) { n.Instance = nil }) }, "n1", false},
		"without etcd": {func(v *failover.View) { v.EtcdReachable = false }, "n1", true}, // I9
	} {
		v := clusterView(c.self)
		if c.given != nil {
			c.given(&v)
		}
		require.Equal(t, c.ok, notPrimary(v, c.self) == "", name)
	}
}

func TestProbeOfReplica(t *testing.T) {
	for name, c := range map[string]struct {
		given func(n *failover.NodeStatus)
		limit time.Duration
		ok    bool
	}{
		"within the limit":    {func(*failover.NodeStatus) {}, 20 * time.Millisecond, true},
		"over the limit":      {func(*failover.NodeStatus) {}, 19 * time.Millisecond, false},
		"receiver off":        {func(n *failover.NodeStatus) { n.Instance.Source.ReceiverOn = false }, time.Minute, false},
		"applier off":         {func(n *failover.NodeStatus) { n.Instance.Source.ApplierOn = false }, time.Minute, false},
		"another source":      {func(n *failover.NodeStatus) { n.Instance.Source.ServerUUID = "other" }, time.Minute, false},
		"no source":           {func(n *failover.NodeStatus) { n.Instance.Source = nil }, time.Minute, false},
		"errant":              {func(n *failover.NodeStatus) { n.Errant = &gtid.Set{} }, time.Minute, false},
		"rebuilding":          {func(n *failover.NodeStatus) { n.Rebuild = &failover.RebuildProgress{} }, time.Minute, false},
		"after a bad rebuild": {func(n *failover.NodeStatus) { n.Rebuild = &failover.RebuildProgress{Stage: "failed", Error: "x"} }, time.Minute, true},
		"writable":            {func(n *failover.NodeStatus) { n.Instance.ReadOnly, n.Instance.SuperReadOnly = false, false }, time.Minute, false},
		"silent":              {func(n *failover.NodeStatus) { n.Instance = nil }, time.Minute, false},
	} {
		v := clusterView("n2")
		node(&v, "n2", c.given)
		require.Equal(t, c.ok, notReplica(v, "n2", c.limit) == "", name)
	}
	require.NotEmpty(t, notReplica(clusterView("n1"), "n1", time.Minute), "the primary is no replica")
}

// TestClosedByEitherSwitch: MySQL's two switches can be set one without the
// other; only both off take writes of everybody.
func TestClosedByEitherSwitch(t *testing.T) {
	v := clusterView("n1")
	node(&v, "n1", func(n *failover.NodeStatus) { n.Instance.ReadOnly = true })
	require.False(t, newMembers(v, nobody)[0].Writable)
}

// A member that is cut off says no to every question that its record would
// answer with yes.
func TestIsolatedMemberSaysSo(t *testing.T) {
	b := newBench(t, "n1")
	ask := func(path string) int { return b.do(ask{method: "GET", path: path}).status }
	require.Equal(t, 200, ask("/primary"))
	v := clusterView("n1")
	v.Isolated = &failover.Isolation{For: 4 * time.Second, Seen: 1, Members: 3, Reads: true}
	b.backend.setView(v)
	require.Equal(t, 503, ask("/primary"))
	require.Equal(t, 503, ask("/ready"))
	require.Equal(t, 200, ask("/health"), "starting the agent again would not help")
	c := newCluster(began, "c", v, nil, nobody)
	require.Equal(t, StatusNoPrimary, c.Status)
	require.Contains(t, c.Reasons[0], "isolated: this node has seen 1 of 3 members")

	v = clusterView("n2")
	v.Isolated = &failover.Isolation{Reads: true}
	require.Empty(t, notReplica(v, "n2", time.Minute))
	v.Isolated = &failover.Isolation{}
	require.Contains(t, notReplica(v, "n2", time.Minute), "isolated")
}

// TestRemovedMemberIsNotReady: its ports only refuse.
func TestRemovedMemberIsNotReady(t *testing.T) {
	b := newBench(t, "n2")
	ready := func() int { return b.do(ask{method: "GET", path: "/ready"}).status }
	require.Equal(t, 200, ready())
	v := clusterView("n2")
	v.State.Members = map[topology.NodeName]election.Seat{"n1": {}}
	v.State.Removed = map[topology.NodeName]time.Time{"n2": began}
	b.backend.setView(v)
	require.Equal(t, 503, ready())
}

func TestStatusSaysThatAutomationStopped(t *testing.T) {
	gates := []failover.Gate{{Name: failover.GateFlapping, Operation: election.Failover, Reason: "3 failovers"}}
	c := newCluster(began, "c", clusterView("n1"), gates, nobody)
	require.Equal(t, StatusDegraded, c.Status)
	require.Equal(t, []string{"automatic failover has stopped: 3 failovers"}, c.Reasons)
}
